// One value per image token as one hue over a grey picture: the stronger the colour, the larger the value.
// Where both signs occur, a dash marks the negative ones. See token_map.py for the traits.

const HUE = [224, 82, 6]; // the one hue of the map; style.css has it for the scale under it

function renderMap({ model, el }) {
  const { get, put, on, end } = traits(model);
  el.classList.add("dg-map");
  const head = make("div", "head", el);
  const stage = focusable(make("div", "stage", el));
  const picture = make("img", "below", stage);
  const field = make("canvas", "field", stage);
  const over = svg("svg", { class: "dg-over" }, stage);
  const foot = make("div", "scale", el);
  const low = make("span", "tick", foot);
  make("span", "ramp", foot);
  const high = make("span", "tick", foot);
  const clear = make("input", "opacity", foot);
  Object.assign(clear, { type: "range", min: 0, max: 1, step: 0.05, title: "opacity of the colours" });
  clear.setAttribute("aria-label", "opacity of the colours");
  picture.alt = "";
  picture.draggable = false;
  let values = new Float32Array(0);
  let hovered = -1;

  const grid = () => get("grid");
  const count = () => grid()[0] * grid()[1];
  const where = (i) => [Math.floor(i / grid()[1]), i % grid()[1]];
  const say = (i) => {
    const [y, x] = where(i);
    return `token ${i} (row ${y}, column ${x}): ${short(values[i])}`;
  };
  const square = (name, i) => {
    const [y, x] = where(i);
    const inset = { x: x + 0.04, y: y + 0.04, width: 0.92, height: 0.92 };
    for (const layer of ["paper", "ink"]) svg("rect", { ...inset, class: `dg-${name} dg-${layer}` }, over);
  };
  const marks = () => {
    const [rows, columns] = grid();
    over.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    over.setAttribute("preserveAspectRatio", "none");
    over.replaceChildren();
    const both = values.some((v) => v < 0) && values.some((v) => v > 0);
    if (both && count() <= 1024) {
      const dash = (i) => `M${where(i)[1] + 0.38} ${where(i)[0] + 0.5}h0.24`;
      const d = Array.from(values, (v, i) => (v < 0 ? dash(i) : "")).join("");
      svg("path", { d, class: "dg-minus" }, over);
    }
    const cell = get("cell");
    if (cell >= 0 && cell < count()) square("here", cell);
    if (hovered >= 0 && hovered < count() && hovered !== cell) square("cursor", hovered);
    head.textContent = hovered >= 0 && hovered < count() ? say(hovered) : get("data").title ?? "";
    announce(stage, get("label"), count() - 1, Math.max(cell, 0), cell >= 0 ? say(cell) : "no token chosen");
  };
  const draw = () => {
    const data = get("data");
    const [rows, columns] = grid();
    values = floats(data.values);
    const kept = values.filter((v) => Number.isFinite(v));
    const most = kept.reduce((a, v) => Math.max(a, Math.abs(v)), 0) || 1;
    const negative = kept.some((v) => v < 0);
    [field.width, field.height] = [columns, rows];
    const paint = field.getContext("2d").createImageData(columns, rows);
    values.forEach((v, i) => {
      if (i < rows * columns) paint.data.set([...HUE, Number.isFinite(v) ? (255 * Math.abs(v)) / most : 0], 4 * i);
    });
    field.getContext("2d").putImageData(paint, 0, 0);
    field.style.opacity = get("opacity");
    clear.value = get("opacity");
    stage.style.aspectRatio = String(get("aspect"));
    stage.style.maxWidth = `${Math.round(get("height") * get("aspect"))}px`;
    const sign = !negative ? "" : kept.some((v) => v > 0) ? ", – where negative" : ", all negative";
    [low.textContent, high.textContent] = ["0", `${short(most)}  ${data.name}${sign}`];
    el.dataset.drawn = String(data.version ?? "");
    marks();
  };
  const load = () => {
    const old = picture.getAttribute("src");
    const next = address(get("png"));
    if (next) picture.src = next;
    else picture.removeAttribute("src");
    picture.hidden = !next;
    if (old?.startsWith("blob:")) URL.revokeObjectURL(old);
  };
  const point = (i) => {
    if (i === hovered) return;
    hovered = i;
    marks();
  };
  const link = linked(el, "token", point);
  const under = (event) => {
    const box = stage.getBoundingClientRect();
    const [rows, columns] = grid();
    const y = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const x = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return x < 0 || y < 0 || x >= columns || y >= rows ? -1 : y * columns + x;
  };
  const hover = (i) => {
    if (i !== hovered) link.tell(i);
    point(i);
  };
  stage.addEventListener("pointermove", (event) => hover(under(event)));
  stage.addEventListener("pointerleave", () => hover(-1));
  stage.addEventListener("click", (event) => {
    if (under(event) >= 0) put({ cell: under(event), clicks: get("clicks") + 1 });
  });
  stage.addEventListener("keydown", (event) => {
    const cell = arrowed(event.key, Math.max(get("cell"), 0), ...grid());
    if (cell === undefined) return;
    put({ cell });
    event.preventDefault();
  });
  clear.addEventListener("input", () => put({ opacity: Number(clear.value) }));
  on(["data", "grid", "opacity", "aspect", "height"], draw);
  on(["cell", "label"], marks);
  on(["png"], load);
  load();
  draw();
  return () => {
    end();
    link.end();
    if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
  };
}
