// A chart over places that can be chosen: stems (channels, tokens) or lines (blocks, steps, frequencies), as SVG.
// Keys and the pointer choose a place; the value under the pointer is read in the title. See chart.py for the traits.

const CHART = { left: 52, right: 14, top: 24, bottom: 36 };
const LETTER = 7; // pixels of a letter of a name, at most
const PAD = "·"; // a text token that only fills up
const bottomOf = (data) => (data.kind === "stems" && data.names ? 64 : CHART.bottom); // words are written upwards

// From values to pixels and back, for the places across and the values up.
function chartScale(data, width, height) {
  const { left, right, top } = CHART;
  const bottom = bottomOf(data);
  const series = data.series.map((s) => ({ ...s, values: floats(s.values) }));
  const size = (v) => (data.log ? Math.abs(v) : v);
  const all = series.flatMap((s) => Array.from(s.values, size)).filter((v) => Number.isFinite(v) && (!data.log || v > 0));
  if (!all.length) return null;
  let [low, high] = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  if (!data.log) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  if (low === high) [low, high] = data.log ? [low / 2, high * 2] : [low, low + 1];
  const form = data.log ? Math.log10 : (v) => v;
  const [a, b] = [form(low), form(high)];
  const room = (b - a) * 0.12; // for the numbers over the stems
  const [bottomValue, topValue] = [low < 0 ? a - room : data.log ? a - room / 2 : a, high > 0 || data.log ? b + room : b];
  const x = data.x ? floats(data.x) : null;
  const n = series[0].values.length;
  const span = x ? x[n - 1] - x[0] || 1 : n;
  const across = width - left - right;
  return {
    series, low, high, n, x, size,
    at: (i) => left + (across * (x ? x[i] - x[0] : i + 0.5)) / span,
    place: (pixel) => {
      const share = ((pixel - left) / across) * span;
      if (!x) return within(Math.floor(share), 0, n - 1);
      return x.reduce((best, v, i) => (Math.abs(v - x[0] - share) < Math.abs(x[best] - x[0] - share) ? i : best), 0);
    },
    up: (v) => {
      const share = (form(data.log ? Math.max(v, low) : v) - bottomValue) / (topValue - bottomValue);
      return top + (height - top - bottom) * (1 - share);
    },
    inside: (pixel) => pixel >= left - 4 && pixel <= width - right + 4,
  };
}

function drawAxes(root, data, scale, width, height) {
  const { left, right, top } = CHART;
  const bottom = bottomOf(data);
  const floor = height - bottom;
  const marks = data.log ? decades(scale.low, scale.high) : ticks(scale.low, scale.high, 4);
  for (const v of marks) {
    svg("line", { x1: left, x2: width - right, y1: scale.up(v), y2: scale.up(v), class: "dg-grid" }, root);
    svg("text", { x: left - 5, y: scale.up(v) + 3.5, class: "dg-tick", "text-anchor": "end" }, root, short(v));
  }
  const names = data.names ?? (scale.x ? Array.from(scale.x, short) : Array.from({ length: scale.n }, (_, i) => String(i)));
  const letters = 6.2 * (Math.max(...names.map((n) => n.length)) + 2);
  const every = Math.max(1, Math.ceil((letters * scale.n) / (width - left - right)));
  const jump = data.names || scale.x ? every : [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((s) => s >= every) ?? every;
  if (bottom !== CHART.bottom) {
    drawWords(root, names, scale, floor);
  } else for (let i = 0; i < scale.n; i += jump) {
    svg("text", { x: scale.at(i), y: floor + 13, class: "dg-tick", "text-anchor": "middle" }, root, names[i]);
  }
  svg("line", { x1: left, x2: width - right, y1: floor, y2: floor, class: "dg-axis" }, root);
  svg("text", { x: (left + width - right) / 2, y: height - 6, class: "dg-name", "text-anchor": "middle" }, root, data.xlabel);
  const middle = (top + floor) / 2;
  const turned = `rotate(-90 11 ${middle})`;
  const negative = scale.series.some((s) => s.values.some((v) => v < 0));
  const ylabel = data.log && negative ? `|${data.ylabel}|` : data.ylabel;
  svg("text", { x: 11, y: middle, class: "dg-name", "text-anchor": "middle", transform: turned }, root, ylabel);
}

// Words of a prompt under their tokens, upwards; those that would lie on the one before are left out.
function drawWords(root, names, scale, floor) {
  let last = -99;
  names.forEach((name, i) => {
    const x = scale.at(i) + 3;
    if (name === PAD || x - last < 11) return;
    last = x;
    const short = name.length > 9 ? `${name.slice(0, 8)}…` : name;
    svg("text", { x, y: floor + 5, class: "dg-tick", "text-anchor": "end", transform: `rotate(-60 ${x} ${floor + 5})` }, root, short);
  });
}

function drawStems(root, data, scale, width, floor) {
  const base = data.log ? scale.low : 0;
  const values = scale.series[0].values;
  const step = Math.max(scale.n > 1 ? scale.at(1) - scale.at(0) : 8, 0.4);
  const stem = (i) => {
    const v = scale.size(values[i]);
    return Number.isFinite(v) && (!data.log || v > 0) ? `M${scale.at(i).toFixed(1)} ${scale.up(base).toFixed(1)}V${scale.up(v).toFixed(1)}` : "";
  };
  const path = Array.from(values, (_, i) => stem(i)).join("");
  svg("path", { d: path, class: "dg-quiet", "stroke-width": within(step * 0.7, 0.6, 9) }, root);
  const placed = [];
  data.marked.forEach((i, order) => {
    const v = scale.size(values[i]);
    if (!Number.isFinite(v) || (data.log && v <= 0)) return;
    const colour = `dg-c${order % 6}`;
    svg("path", { d: stem(i), class: colour, "stroke-width": within(step * 0.7, 2, 9) }, root);
    const y = Math.min(v >= 0 ? scale.up(v) - 3 : scale.up(v) + 11, floor - 3);
    if (placed.some(([px, py]) => Math.abs(px - scale.at(i)) < 18 && Math.abs(py - y) < 10)) return;
    placed.push([scale.at(i), y]);
    const x = within(scale.at(i), CHART.left + 10, width - CHART.right - 6);
    svg("text", { x, y, class: `dg-value ${colour}`, "text-anchor": "middle" }, root, data.names?.[i] ?? String(i));
  });
}

// Lines with their names above them; under them where the name of another is there, but over the axis, whose numbers stand
// below. Away from the chosen place.
function drawLines(root, data, scale, width, floor, cell) {
  const ends = [];
  scale.series.forEach((s, order) => {
    const points = Array.from(s.values, (v, i) => [scale.at(i), scale.size(v)]);
    const kept = points.filter(([, v]) => Number.isFinite(v) && (!data.log || v > 0));
    if (!kept.length) return;
    const d = kept.map(([x, v], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${scale.up(v).toFixed(1)}`).join("");
    svg("path", { d, class: `dg-line dg-l${order % 6}` }, root);
    if (order === 0 && kept.length < 40) {
      for (const [x, v] of kept) svg("circle", { cx: x, cy: scale.up(v), r: 2, class: "dg-l0 dg-dot" }, root);
    }
    const [x, v] = kept[Math.floor((kept.length - 1) * (cell >= 0 && cell < scale.n / 2 ? 0.8 : 0.25))];
    ends.push({ x, y: scale.up(v) - 5, name: s.name, order });
  });
  ends.sort((a, b) => a.y - b.y);
  ends.forEach((end, i) => {
    if (i && end.y - ends[i - 1].y < 20) end.y = Math.max(end.y + 18, ends[i - 1].y + 11);
  });
  ends.reduceRight((lowest, end) => (end.y = Math.min(end.y, lowest)) - 11, floor - 3);
  ends.forEach((end) => {
    const half = (end.name.length * LETTER) / 2;
    const x = within(end.x, CHART.left + half, width - CHART.right - half);
    svg("text", { x, y: end.y, class: `dg-value dg-t${end.order % 6}`, "text-anchor": "middle" }, root, end.name);
  });
}

function renderChart({ model, el }) {
  const { get, put, on, end } = traits(model);
  el.classList.add("dg-chart");
  const stage = focusable(make("div", "stage", el));
  let scale = null;
  let cursor = null;
  let head = null;
  let hovered = -1;
  const say = (i) => {
    const data = get("data");
    const name = data.names?.[i] ?? (scale.x ? short(scale.x[i]) : i);
    const values = scale.series.map((s) => (scale.series.length > 1 ? `${s.name} ` : "") + short(s.values[i]));
    return `${data.place ?? data.xlabel} ${name}: ${values.join(", ")}`;
  };
  const show = (i) => {
    hovered = i;
    if (!scale || !head) return;
    head.textContent = i >= 0 && i < scale.n ? say(i) : get("data").title;
    if (cursor) cursor.style.display = i >= 0 && i < scale.n ? "" : "none";
    if (cursor && i >= 0 && i < scale.n) cursor.setAttribute("transform", `translate(${scale.at(i)} 0)`);
  };
  const link = linked(el, get("axis"), show);
  const draw = () => {
    const data = get("data");
    const [width, height] = [Math.round(stage.clientWidth), get("height")];
    stage.style.height = `${height}px`;
    if (!width || !data.series) return;
    stage.replaceChildren();
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, stage);
    head = svg("text", { x: 4, y: 13, class: "dg-head" }, root, data.title);
    scale = chartScale(data, width, height);
    if (!scale) {
      svg("text", { x: width / 2, y: height / 2, class: "dg-name", "text-anchor": "middle" }, root, "nothing here");
      return announce(stage, get("label"), 0, 0, "nothing here");
    }
    drawAxes(root, data, scale, width, height);
    (data.kind === "stems" ? drawStems : drawLines)(root, data, scale, width, height - bottomOf(data), get("cell"));
    cursor = svg("g", {}, root);
    svg("line", { y1: CHART.top, y2: height - bottomOf(data), class: "dg-cursor" }, cursor);
    const cell = get("cell");
    if (cell >= 0 && cell < scale.n) {
      const v = scale.size(scale.series[0].values[cell]);
      const y = Number.isFinite(v) && (!data.log || v > 0) ? scale.up(v) : height - bottomOf(data);
      svg("line", { x1: scale.at(cell), x2: scale.at(cell), y1: CHART.top, y2: height - bottomOf(data), class: "dg-here" }, root);
      svg("path", { d: `M${scale.at(cell)} ${y}l-5 -9h10z`, class: "dg-here-mark" }, root);
    }
    announce(stage, get("label"), scale.n - 1, Math.max(cell, 0), cell >= 0 ? say(cell) : data.title);
    root.dataset.drawn = String(data.version ?? "");
    show(hovered);
  };
  const under = (event) => {
    const x = event.clientX - stage.getBoundingClientRect().left;
    return scale && scale.inside(x) ? scale.place(x) : -1;
  };
  const hover = (i) => {
    if (i !== hovered) link.tell(i);
    show(i);
  };
  stage.addEventListener("pointermove", (event) => hover(under(event)));
  stage.addEventListener("pointerleave", () => hover(-1));
  stage.addEventListener("click", (event) => {
    const i = under(event);
    if (i >= 0 && !get("fixed")) put({ cell: i, clicks: get("clicks") + 1 });
  });
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10 }[event.key];
    const ends = { Home: 0, End: scale ? scale.n - 1 : 0 };
    if (!scale || get("fixed") || (step === undefined && !(event.key in ends))) return;
    put({ cell: event.key in ends ? ends[event.key] : within(get("cell") + step, 0, scale.n - 1) });
    event.preventDefault();
  });
  on(["data", "cell", "height", "label"], draw);
  const sized = new ResizeObserver(draw);
  sized.observe(stage);
  draw();
  return () => {
    end();
    link.end();
    sized.disconnect();
  };
}
