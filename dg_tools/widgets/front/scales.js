// What the drawings share: numbers from a message, ticks, words, nodes, and the cursor that all views of a page share.

const within = (x, low, high) => Math.min(Math.max(x, low), high);

// Rows and columns by which an arrow key moves; undefined: another key.
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// The cell of a table to which an arrow key leads from cell `from`; undefined: another key.
function arrowed(key, from, rows, columns) {
  const step = ARROWS[key];
  if (!step) return undefined;
  const y = within(Math.floor(from / columns) + step[0], 0, rows - 1);
  return y * columns + within((from % columns) + step[1], 0, columns - 1);
}

// float32 numbers: a DataView from the kernel, base64 from a kept page, or a list.
function floats(x) {
  if (!x) return new Float32Array(0);
  if (typeof x === "string") x = new DataView(Uint8Array.from(atob(x), (c) => c.charCodeAt(0)).buffer);
  if (x.buffer === undefined || x instanceof Float32Array) return Float32Array.from(x);
  return new Float32Array(x.buffer.slice(x.byteOffset, x.byteOffset + x.byteLength));
}

// An address for the bytes of a PNG, or for the data: address that a kept page holds.
function address(view) {
  if (typeof view === "string") return view;
  return view && view.byteLength ? URL.createObjectURL(new Blob([view], { type: "image/png" })) : "";
}

function short(x) {
  if (!Number.isFinite(x)) return "not kept";
  const size = Math.abs(x);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return x.toExponential(1).replace("e+", "e");
  return String(Number(x.toPrecision(3)));
}

function ticks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999) ?? raw;
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) found.push(Math.abs(x) < step / 1e6 ? 0 : x);
  return found;
}

function decades(low, high) {
  const [a, b] = [Math.ceil(Math.log10(low) - 1e-6), Math.floor(Math.log10(high) + 1e-6)];
  const jump = Math.max(1, Math.ceil((b - a) / 4));
  const found = [];
  for (let i = a; i <= b; i += jump) found.push(10 ** i);
  return found.length > 1 ? found : [low, high];
}

function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = `dg-${name}`;
  parent?.append(node);
  return node;
}

function svg(tag, values, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

// Traits of one view: reading, writing, and listening that ends with the view.
function traits(model) {
  const heard = [];
  return {
    get: (name) => model.get(name),
    put: (values) => {
      for (const [name, value] of Object.entries(values)) model.set(name, value);
      model.save_changes();
    },
    on: (names, act) => {
      for (const name of names) {
        model.on(`change:${name}`, act);
        heard.push([name, act]);
      }
    },
    end: () => heard.forEach(([name, act]) => model.off(`change:${name}`, act)),
  };
}

// The place under the pointer in one view shows in every view of the same explorer that has this axis.
function linked(el, axis, show) {
  const home = () => el.closest(".dg-explorer") ?? document.body;
  const hear = (event) => {
    if (event.detail.axis === axis && event.detail.from !== el && event.detail.home === home()) show(event.detail.place);
  };
  document.addEventListener("dg-cursor", hear);
  return {
    tell: (place, on = axis) =>
      document.dispatchEvent(new CustomEvent("dg-cursor", { detail: { axis: on, place, from: el, home: home() } })),
    end: () => document.removeEventListener("dg-cursor", hear),
  };
}

// A focusable stage that is a slider to screen readers; JupyterLab takes arrow keys for its cells otherwise.
function focusable(stage) {
  stage.tabIndex = 0;
  stage.dataset.lmSuppressShortcuts = "true";
  return stage;
}

function announce(stage, label, most, now, text) {
  stage.setAttribute("role", "slider");
  stage.setAttribute("aria-label", label);
  stage.setAttribute("aria-valuemin", 0);
  stage.setAttribute("aria-valuemax", most);
  stage.setAttribute("aria-valuenow", now);
  stage.setAttribute("aria-valuetext", text);
}
