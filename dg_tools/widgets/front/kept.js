// A page without a kernel: the views of the explorers on numbers that are in the file. Each view has a small model that
// answers as an anywidget's does.

class Kept {
  constructor(values) {
    this.values = { clicks: 0, cell: -1, label: "", ...values };
    this.heard = {};
  }
  get(name) {
    return this.values[name];
  }
  set(name, value) {
    if (this.values[name] === value) return;
    this.values[name] = value;
    for (const act of this.heard[`change:${name}`] ?? []) act();
  }
  save_changes() {}
  on(name, act) {
    (this.heard[name] ??= []).push(act);
  }
  off(name, act) {
    this.heard[name] = (this.heard[name] ?? []).filter((a) => a !== act);
  }
}

function view(render, values, parent) {
  const model = new Kept(values);
  render({ model, el: make("div", "", parent) });
  return model;
}

function field(parent, name, input) {
  const label = make("label", "field", parent);
  make("span", "", label).textContent = name;
  input.setAttribute("aria-label", name); // of a label around a list, its options would be part of the name
  label.append(input);
  return input;
}

function choice(parent, name, options, act) {
  const select = field(parent, name, document.createElement("select"));
  options.forEach((text, i) => select.append(new Option(text, i)));
  select.addEventListener("change", () => act(Number(select.value)));
  return select;
}

function range(parent, name, most, act) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: 0, max: most, step: 1 });
  field(parent, name, input);
  const shown = make("output", "", input.parentNode);
  input.addEventListener("input", () => act(Number(input.value)));
  return { set: (value, name = value) => ([input.value, shown.textContent] = [value, name]), input };
}

function player(parent, name, count, now, act) {
  const button = make("button", "", parent);
  let timer = null;
  const show = () => (button.textContent = timer ? `Stop ${name}` : `Play ${name}`);
  button.type = "button";
  button.addEventListener("click", () => {
    if (timer) timer = clearInterval(timer) ?? null;
    else timer = setInterval(() => act((now() + 1) % count), 250);
    show();
  });
  show();
}

function keptCapturePage(data, parent) {
  const kept = keptCapture(data);
  const point = { ...data.point };
  const controls = make("div", "controls", parent);
  const several = (name, values) => (values.length > 1 ? choice(controls, name, values, (i) => move({ [name]: i })) : null);
  const chosen = { prompt: several("prompt", data.prompts), seed: several("seed", data.seeds), branch: several("branch", data.branches) };
  const streams = data.streams.length > 1 && choice(controls, "stream", data.streams, (i) => move({ stream: data.streams[i] }));
  const block = range(controls, "block", data.sites.length - 1, (i) => move({ block: i }));
  const step = range(controls, "step", data.steps.length - 1, (i) => move({ step: i }));
  player(controls, "steps", data.steps.length, () => point.step, (i) => move({ step: i }));
  const channel = field(controls, "channel", Object.assign(document.createElement("input"), { type: "number", min: 0, max: data.channels - 1 }));
  channel.addEventListener("change", () => move({ channel: within(Math.round(Number(channel.value)) || 0, 0, data.channels - 1) }));
  const massive = make("span", "massive", controls);
  massive.append("massive: ");
  for (const c of data.massive) {
    const button = Object.assign(make("button", "", massive), { type: "button", textContent: c });
    button.addEventListener("click", () => move({ channel: c }));
  }
  const log = field(controls, "log scale", Object.assign(document.createElement("input"), { type: "checkbox", checked: point.log }));
  log.addEventListener("change", () => move({ log: log.checked }));
  const words = ["", ...(data.attended ?? [])];
  const map_of = words.length > 1 ? choice(controls, "map", words.map((w) => (w ? `attention to '${w}'` : "activations")), (i) => move({ word: words[i] })) : null;
  const heads = data.heads ? choice(controls, "head", ["all", ...Array(data.heads).keys()], (i) => move({ head: i - 1 })) : null;
  if (!heads) point.head = -1;
  const numbers = make("p", "numbers", parent);
  numbers.setAttribute("role", "status");
  const views = make("div", "views", make("div", "capture", parent));
  views.classList.toggle("dg-flat", !data.hidden_whole); // otherwise there is nothing to turn anywhere
  const area = Object.fromEntries(["tokens", "surface", "channels", "blocks", "steps"].map((n) => [n, make("div", `area-${n}`, views)]));
  const map = view(renderMap, { data: {values: []}, png: "", grid: data.grid, aspect: data.aspect, opacity: 0.75, height: 220, label: "image tokens: arrow keys or a click choose one" }, area.tokens);
  const text = view(renderChart, { data: {}, axis: "token", fixed: false, height: 220, label: "text tokens: arrow keys or a click choose one" }, area.tokens);
  const turns = data.hidden_whole;
  const surface = turns && view(renderSpikes, { data: {}, at: [-1, -1], height: 250, label: "surface of token x channel: arrow keys turn it" }, area.surface);
  const missing = turns && make("p", "text", area.surface);
  const chart = (axis, height, place) => view(renderChart, { data: {}, axis, fixed: false, height, label: `${axis}s: arrow keys or a click choose one` }, place);
  const charts = { channels: chart("channel", 155, area.channels), blocks: chart("block", 125, area.blocks), steps: chart("step", 125, area.steps) };
  const [mapPlace, textPlace] = area.tokens.children;
  let drawn = "";
  const draw = () => {
    const image = point.stream === "image";
    mapPlace.hidden = !image;
    textPlace.hidden = image;
    if (streams) streams.value = data.streams.indexOf(point.stream);
    for (const [name, select] of Object.entries(chosen)) if (select) select.value = point[name];
    if (map_of) map_of.value = words.indexOf(point.word);
    if (heads) heads.value = point.head + 1;
    block.set(point.block, data.sites[point.block]);
    step.set(point.step, data.steps[point.step]);
    channel.value = point.channel;
    if (image) {
      map.set("png", kept.picture(point));
      map.set("data", kept.tokens(point));
      map.set("cell", point.token);
    } else {
      text.set("cell", point.token);
      text.set("data", kept.text(point));
    }
    for (const [name, model] of Object.entries(charts)) {
      model.set("cell", point[{ channels: "channel", blocks: "block", steps: "step" }[name]]);
      model.set("data", kept[name](point));
    }
    numbers.textContent = kept.sentence(point);
    edge?.pictures(kept.pictures(point), point.step);
    if (!turns) return;
    const place = [point.prompt, point.seed, point.branch, point.step, point.block, point.stream, point.log].join();
    const ridges = kept.surface(point);
    surface.set("at", [point.token, point.channel]);
    if (ridges && drawn !== place) surface.set("data", ridges);
    drawn = place;
    area.surface.firstChild.hidden = !ridges;
    missing.textContent = ridges ? "" : "No hidden states of this place are in the page: means and norms are shown.";
  };
  const move = (values) => {
    Object.assign(point, values);
    point.token = within(point.token, 0, Math.max(kept.count(point) - 1, 0));
    draw();
  };
  map.on("change:cell", () => map.get("cell") !== point.token && move({ token: map.get("cell") }));
  text.on("change:cell", () => text.get("cell") !== point.token && move({ token: text.get("cell") }));
  const names = { channels: "channel", blocks: "block", steps: "step" };
  for (const [name, model] of Object.entries(charts)) {
    model.on("change:cell", () => model.get("cell") !== point[names[name]] && move({ [names[name]]: model.get("cell") }));
  }
  if (turns) surface.on("change:clicks", () => move({ token: surface.get("point")[0], channel: surface.get("point")[1] }));
  const edge = data.edge ? keptEdge(data.edge, parent) : null;
  draw();
}

// Two pictures under one edge. Of a capture with a picture at every step, the left one follows the step.
function keptEdge(data, parent) {
  const box = make("section", "edge", parent);
  if (data.title) make("h2", "", box).textContent = data.title;
  const controls = make("div", "controls", box);
  const slide = view(renderPicture, { png: "", after: "", split: 0.5, grid: [1, 1], box: [], boxes: false, width: 320, pixelated: data.pixelated, label: "two pictures: drag the edge or press arrow keys" }, box);
  const said = make("p", "about", box);
  let pictures = data.pictures;
  const names = () => Object.keys(pictures);
  const sides = { png: data.left, after: data.right };
  const selects = Object.entries({ left: "png", right: "after" }).map(([name, trait]) => [
    choice(controls, name, names(), (i) => {
      sides[trait] = names()[i];
      show();
    }), trait]);
  const show = () => {
    for (const [select, trait] of selects) {
      select.value = names().indexOf(sides[trait]);
      slide.set(trait, pictures[sides[trait]] ?? "");
    }
    said.textContent = data.notes ? `left: ${sides.png}, ${data.notes[sides.png]}; right: ${sides.after}, ${data.notes[sides.after]}` : "";
  };
  show();
  return {
    pictures: (steps, step) => {
      if (steps.length < 2) return;
      pictures = { "expected at this step": steps[step], "at the last step": steps[steps.length - 1] };
      show();
    },
  };
}

function keptPictures(data, parent) {
  keptEdge(data.edge, parent);
  const row = make("div", "row", parent);
  for (const [name, source] of Object.entries(data.shown)) {
    const figure = make("figure", "", row);
    Object.assign(make("img", data.edge.pixelated ? "sharp" : "", figure), { src: source, alt: name });
    make("figcaption", "", figure).textContent = name;
  }
  for (const curves of data.curves) view(renderChart, { data: curves, axis: "frequency", fixed: true, height: 200, label: curves.title }, make("div", "wide", parent));
  fillTable(make("table", "text", parent), data.rows);
  view(renderCode, { value: data.code, rows: 12, label: "Code" }, parent);
}

function fillTable(table, rows) {
  table.replaceChildren();
  rows.forEach((cells, i) => {
    const line = make("tr", "", table);
    for (const cell of cells) make(i ? "td" : "th", "", line).textContent = cell;
  });
}

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => (document.documentElement.dataset.dgTheme = dark.matches ? "dark" : "light");
  dark.addEventListener("change", follow);
  follow();
}

function openKept() {
  theme();
  const data = JSON.parse(document.getElementById("dg-data").textContent);
  const main = document.querySelector("main");
  if (data.capture) keptCapturePage(data.capture, main);
  if (data.sweep) keptSweepPage(data.sweep, main);
  if (data.pictures) keptPictures(data.pictures, main);
}
