// A sweep on a page without a kernel: the table of cells over any two axes, and the chosen cell in full.

function keptSweepPage(data, parent) {
  const kept = keptSweep(data);
  const selection = { ...data.selection };
  const varying = Object.keys(data.axes).filter((a) => data.axes[a].labels.length > 1);
  const controls = make("div", "controls", parent);
  const axes = varying.map((a) => data.axes[a].name);
  const sides = {
    rows: choice(controls, "Rows", axes, (i) => move({ rows: varying[i] })),
    columns: choice(controls, "Columns", axes, (i) => move({ columns: varying[i] })),
  };
  const measure = choice(controls, "Measure", data.measures, (i) => move({ measure: i }));
  const box = (name, trait) => {
    const input = field(controls, name, Object.assign(document.createElement("input"), { type: "checkbox" }));
    input.addEventListener("change", () => move({ [trait]: input.checked }));
    return input;
  };
  const [mean, chosen] = [box("mean of the split", "mean"), box("chosen settings only", "chosen")];
  chosen.disabled = !data.chosen.length;
  const held = make("div", "controls", parent);
  const places = Object.fromEntries(varying.map((axis) => {
    const select = field(held, data.axes[axis].name, document.createElement("select"));
    select.addEventListener("change", () => move({ at: { ...selection.at, [axis]: Number(select.value) } }));
    return [axis, select];
  }));
  const message = make("p", "text", parent);
  message.setAttribute("role", "status");
  const note = make("p", "text", parent);
  const both = make("div", "sweep", parent);
  const cells = view(renderCells, { data: {}, pictures: data.pictures, height: 480, label: "cells of the sweep: arrow keys or a click choose one" }, make("div", "sweep-cells", both));
  const details = make("div", "details", both);
  const title = make("p", "text", details);
  const row = make("div", "row", details);
  const pictures = ["The cell", "Without guidance, same noise"].map((name) => {
    const figure = make("figure", "", row);
    make("figcaption", "title", figure).textContent = name;
    return Object.assign(make("img", data.pixelated ? "sharp" : "", figure), { alt: name });
  });
  const table = make("table", "text", details);
  const code = view(renderCode, { value: "", rows: 6, label: "Code" }, parent);
  let cellPlaces = [];

  const draw = () => {
    const shown = kept.view(selection);
    cellPlaces = shown.places;
    for (const [name, select] of Object.entries(sides)) select.value = varying.indexOf(selection[name]);
    [measure.value, mean.checked, chosen.checked] = [selection.measure, selection.mean, selection.chosen];
    for (const [axis, select] of Object.entries(places)) {
      select.replaceChildren(...kept.values(axis, selection).map((i) => new Option(kept.label(axis, i), i)));
      select.value = selection.at[axis];
      select.disabled = selection.chosen && axis !== "guidance" && data.of_setting.includes(axis);
    }
    cells.set("data", shown.page);
    cells.set("cell", shown.cell);
    title.textContent = shown.title;
    note.textContent = shown.note;
    [shown.here.file, shown.unguided].forEach((name, i) => {
      pictures[i].parentNode.hidden = !data.pictures[name];
      if (data.pictures[name]) pictures[i].src = data.pictures[name];
    });
    fillTable(table, shown.numbers);
    code.set("value", shown.code);
  };
  const move = (values) => {
    const before = { ...selection };
    Object.assign(selection, values);
    if (selection.rows === selection.columns) { // an axis taken from the other side: they change places
      if (selection.rows === before.rows) selection.rows = before.columns;
      else selection.columns = before.rows;
    }
    const { at, note: said } = kept.settled(selection, before.at.split !== selection.at.split);
    selection.at = at;
    message.textContent = said;
    message.hidden = !said;
    draw();
  };
  cells.on("change:cell", () => {
    const place = cellPlaces[cells.get("cell")];
    if (Object.entries(place).some(([axis, i]) => selection.at[axis] !== i)) move({ at: { ...selection.at, ...place } });
  });
  move({});
}
