// A picture with a grid of cells: click or walk to one with the arrow keys, drag a box, slide between two pictures.
// All state lives in traits; see picture.py for what each of them means.

function renderPicture({ model, el }) {
  const part = (name, tag = "div") => make(tag, name);
  const stage = part("stage");
  const [below, above] = [part("below", "img"), part("above", "img")];
  const [mark, region, divider] = [part("mark"), part("region"), part("divider")];
  for (const image of [below, above]) {
    image.draggable = false;
    image.alt = "";
  }
  focusable(stage);
  stage.append(below, above, mark, region, divider);
  el.classList.add("dg-picture");
  el.append(stage);

  const get = (name) => model.get(name);
  const put = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };
  const compares = () => above.getAttribute("src") !== "";
  const cells = () => get("grid")[0] * get("grid")[1];

  // A rectangle in fractions of the picture, as CSS of the stage.
  const place = (node, [left, top, right, bottom]) => {
    const values = { left, top, width: right - left, height: bottom - top };
    for (const [name, share] of Object.entries(values)) node.style[name] = `${100 * share}%`;
  };

  const show = () => {
    const [rows, columns] = get("grid");
    const [cell, box, split] = [get("cell"), get("box"), get("split")];
    const clickable = cells() > 1;
    stage.style.width = `${get("width")}px`;
    stage.classList.toggle("dg-pixelated", get("pixelated"));
    stage.classList.toggle("dg-clickable", clickable || get("boxes"));
    mark.hidden = !(clickable && cell >= 0);
    if (!mark.hidden) {
      const [y, x] = [Math.floor(cell / columns), cell % columns];
      place(mark, [x / columns, y / rows, (x + 1) / columns, (y + 1) / rows]);
    }
    region.hidden = box.length !== 4;
    if (!region.hidden) place(region, box);
    divider.hidden = above.hidden = !compares();
    if (compares()) {
      above.style.clipPath = `inset(0 0 0 ${100 * split}%)`;
      divider.style.left = `${100 * split}%`;
    }
    stage.setAttribute("aria-label", get("label"));
    const ranged = clickable || compares();
    stage.setAttribute("role", ranged ? "slider" : "img");
    if (ranged) {
      stage.setAttribute("aria-valuemin", 0);
      stage.setAttribute("aria-valuemax", compares() ? 100 : cells() - 1);
      stage.setAttribute("aria-valuenow", compares() ? Math.round(100 * split) : cell);
      const [y, x] = [Math.floor(cell / columns), cell % columns];
      stage.setAttribute("aria-valuetext", compares() ? `${Math.round(100 * split)}%` : `row ${y}, column ${x}`);
    }
  };
  const load = (image, name) => {
    const old = image.getAttribute("src");
    image.src = address(get(name));
    if (old?.startsWith("blob:")) URL.revokeObjectURL(old);
    show();
  };

  // Pointer: where in the picture, 0..1 each; the cell under it.
  const where = (event) => {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const cellAt = ([x, y]) => {
    const [rows, columns] = get("grid");
    return x < 0 || y < 0 || x >= 1 || y >= 1 ? -1 : Math.floor(y * rows) * columns + Math.floor(x * columns);
  };
  const between = (a, b) => {
    const [xs, ys] = [0, 1].map((i) => [within(a[i], 0, 1), within(b[i], 0, 1)].sort((p, q) => p - q));
    return [xs[0], ys[0], xs[1], ys[1]];
  };
  let began = null;
  const slide = (event) => put({ split: within(where(event)[0], 0, 1) });
  stage.addEventListener("pointerdown", (event) => {
    began = { at: where(event), x: event.clientX, y: event.clientY, moved: false };
    stage.setPointerCapture(event.pointerId);
    if (compares()) slide(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!began) return;
    began.moved ||= Math.hypot(event.clientX - began.x, event.clientY - began.y) > 4;
    if (compares()) return slide(event);
    if (get("boxes") && began.moved) {
      region.hidden = false;
      place(region, between(began.at, where(event)));
    }
  });
  stage.addEventListener("pointerup", (event) => {
    if (!began) return;
    const { at, moved } = began;
    began = null;
    if (compares()) return;
    if (get("boxes") && moved) return put({ box: between(at, where(event)) });
    if (cellAt(at) >= 0) put({ cell: cellAt(at), clicks: get("clicks") + 1 });
  });
  stage.addEventListener("pointercancel", () => {
    began = null;
    show();
  });

  // Keys: arrows walk (Shift with them draws a box from where it began), Escape takes the box away.
  let anchor = null;
  stage.addEventListener("keydown", (event) => {
    const [rows, columns] = get("grid");
    const step = ARROWS[event.key];
    if (event.key === "Enter" || event.key === " ") put({ clicks: get("clicks") + 1 });
    else if (event.key === "Escape") put({ box: [] });
    else if (step && compares()) put({ split: within(get("split") + 0.02 * (step[1] - step[0]), 0, 1) });
    else if (step && cells() > 1) {
      const cell = Math.max(get("cell"), 0);
      if (!event.shiftKey) anchor = null;
      else anchor ??= cell;
      const values = { cell: arrowed(event.key, cell, rows, columns) };
      const [y, x] = [Math.floor(values.cell / columns), values.cell % columns];
      if (event.shiftKey && get("boxes")) {
        const [ay, ax] = [Math.floor(anchor / columns), anchor % columns];
        values.box = [Math.min(x, ax) / columns, Math.min(y, ay) / rows,
          (Math.max(x, ax) + 1) / columns, (Math.max(y, ay) + 1) / rows];
      }
      put(values);
    } else return;
    event.preventDefault();
  });

  const loaders = { "change:png": () => load(below, "png"), "change:after": () => load(above, "after") };
  for (const [name, loader] of Object.entries(loaders)) {
    model.on(name, loader);
    loader();
  }
  const shown = ["cell", "box", "split", "grid", "width", "pixelated", "boxes", "label"];
  for (const name of shown) model.on(`change:${name}`, show);
  show();
  return () => {
    for (const [name, loader] of Object.entries(loaders)) model.off(name, loader);
    for (const name of shown) model.off(`change:${name}`, show);
    for (const image of [below, above]) if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  };
}
