// A table of small pictures with a number under each: one hue says how large it is among those shown; where both signs
// occur, a second hue has the negative ones. A click or the arrow keys choose a cell. See cell_grid.py for the traits.

// Pixels: a picture's side, the line under it, a column with words over it. `half`: how high all rows are on half a
// screen. Last, the opacity of the strongest tint.
const CELL = { most: 128, least: 36, line: 24, words: 100, half: 0.75, tint: 0.5 };

// How strong the tint of each number is, 0..1, and what the scale under the table says.
function cellScale(values) {
  const kept = values.filter((v) => v !== null);
  const [low, high] = [Math.min(...kept), Math.max(...kept)];
  const both = low < 0 && high > 0;
  const most = Math.max(-low, high);
  const share = (v) => (v === null || low === high ? 0 : both ? Math.abs(v) / most : (v - low) / (high - low));
  return { low: both ? -most : low, high: both ? most : high, both, share, some: kept.length > 1 && low < high };
}

function renderCells({ model, el }) {
  const { get, put, on, end } = traits(model);
  el.classList.add("dg-cells");
  const head = make("div", "head", el);
  const stage = focusable(make("div", "stage", el));
  const foot = make("div", "scale", el);
  const [low, ramp, high] = ["tick", "ramp", "tick"].map((name) => make("span", name, foot));
  let addresses = {};
  let hovered = -1;

  const data = () => get("data");
  const count = () => data().rows.length * data().columns.length;
  const at = (table, i) => table[Math.floor(i / data().columns.length)][i % data().columns.length];
  const place = (i) => {
    const { names, rows, columns } = data();
    return `${names[0]} ${rows[Math.floor(i / columns.length)]}, ${names[1]} ${columns[i % columns.length]}`;
  };
  // Under a picture stands its number; in the place of one, what is missing, and the number where there is one.
  const parts = (i) => {
    const lines = at(data().words, i).split("\n");
    if (at(data().files, i)) return { missing: "", number: lines.join(" ") };
    return at(data().values, i) === null ? { missing: lines.join(" "), number: "" } : { missing: lines[0], number: lines.at(-1) };
  };
  const say = (i) => {
    const { missing, number } = parts(i);
    const star = data().marked.includes(i) ? ", chosen by the sweep" : "";
    return `${place(i)}${star}: ${[missing, number && `${data().measure} ${number}`].filter(Boolean).join("; ")}`;
  };
  const cell = (i, scale) => {
    const node = make("div", "cell", stage);
    const { missing, number } = parts(i);
    node.dataset.cell = i;
    node.classList.toggle("dg-starred", data().marked.includes(i));
    const file = at(data().files, i);
    if (file) {
      const image = make("img", "", node);
      Object.assign(image, { alt: "", draggable: false });
      image.addEventListener("load", () => image.classList.toggle("dg-sharp", image.naturalWidth <= CELL.most));
      image.style.aspectRatio = data().aspect;
      image.src = addresses[file] ?? "";
    } else {
      const words = make("div", "missing", node);
      words.style.height = `calc(var(--dg-shown) / ${data().aspect})`;
      words.textContent = missing;
    }
    const line = make("div", "number", node);
    const value = at(data().values, i);
    line.style.setProperty("--dg-share", CELL.tint * scale.share(value));
    line.classList.toggle("dg-negative", scale.both && value < 0);
    line.textContent = `${data().marked.includes(i) ? "★ " : ""}${number}`;
  };
  const label = (text, name) => {
    const node = make("div", name, stage);
    node.textContent = text;
    node.title = text;
  };
  const draw = () => {
    const { rows, columns, names, values, aspect, version } = data();
    if (!rows) return;
    const side = (height) => within(Math.floor((height / rows.length - CELL.line) * aspect), CELL.least, CELL.most);
    const scale = cellScale(values.flat());
    const across = columns.some((name) => name.length > 12) ? `max(var(--dg-shown), ${CELL.words}px)` : "var(--dg-shown)";
    stage.style.gridTemplateColumns = `fit-content(110px) repeat(${columns.length}, minmax(0, ${across}))`;
    stage.style.setProperty("--dg-side", `${side(get("height"))}px`);
    stage.style.setProperty("--dg-side-half", `${side(get("height") * CELL.half)}px`);
    stage.replaceChildren();
    make("div", "corner", stage);
    label(names[1], "axis-name");
    label(names[0], "corner");
    columns.forEach((name) => label(name, "column"));
    rows.forEach((name, y) => {
      label(name, "line-name");
      columns.forEach((_, x) => cell(y * columns.length + x, scale));
    });
    foot.hidden = !scale.some;
    [low.textContent, high.textContent] = [short(scale.low), `${short(scale.high)}  ${data().measure}`];
    ramp.classList.toggle("dg-both-signs", scale.both);
    el.dataset.drawn = String(version ?? "");
    mark();
  };
  const mark = () => {
    if (!data().rows) return;
    const chosen = get("cell");
    for (const node of stage.querySelectorAll(".dg-cell")) {
      node.classList.toggle("dg-current", Number(node.dataset.cell) === chosen);
    }
    head.textContent = hovered >= 0 && hovered < count() ? say(hovered) : data().title;
    announce(stage, get("label"), count() - 1, Math.max(chosen, 0), chosen >= 0 && chosen < count() ? say(chosen) : "no cell chosen");
  };
  const forget = (all) => Object.values(all).forEach((url) => url.startsWith("blob:") && URL.revokeObjectURL(url));
  const load = () => {
    const before = addresses;
    addresses = Object.fromEntries(Object.entries(get("pictures")).map(([name, bytes]) => [name, address(bytes)]));
    draw();
    forget(before);
  };
  const under = (event) => Number(event.target.closest(".dg-cell")?.dataset.cell ?? -1);
  const hover = (i) => {
    if (i === hovered) return;
    hovered = i;
    mark();
  };
  stage.addEventListener("pointerover", (event) => hover(under(event)));
  stage.addEventListener("pointerleave", () => hover(-1));
  stage.addEventListener("click", (event) => {
    if (under(event) >= 0) put({ cell: under(event), clicks: get("clicks") + 1 });
  });
  stage.addEventListener("keydown", (event) => {
    if (!data().rows) return;
    const cell = arrowed(event.key, Math.max(get("cell"), 0), data().rows.length, data().columns.length);
    if (cell === undefined) return;
    put({ cell });
    event.preventDefault();
  });
  on(["pictures"], load);
  on(["data", "height"], draw);
  on(["cell", "label"], mark);
  load();
  return () => {
    end();
    forget(addresses);
  };
}
