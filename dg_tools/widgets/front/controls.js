// The controls of ipywidgets that the explorers use, as the browser's own. Each takes a model and gives its node.

const CONTROLS = {
  box: (model, page) => {
    const node = make("div", "");
    const show = () => node.replaceChildren(...model.get("children").map((id) => page.view(id)));
    model.on("change:children", show);
    show();
    return node;
  },
  html: (model) => {
    const node = make("div", "");
    const show = () => (node.innerHTML = model.get("value")); // the process that serves the page escapes its text
    model.on("change:value", show);
    show();
    return node;
  },
  label: (model) => {
    const node = make("span", "");
    const show = () => (node.textContent = model.get("value"));
    model.on("change:value", show);
    show();
    return node;
  },
  button: (model) => {
    const node = make("button", "");
    node.type = "button";
    const show = () => {
      node.textContent = model.get("description");
      node.disabled = model.get("disabled");
      node.classList.toggle("dg-primary", model.get("button_style") === "primary");
    };
    for (const name of ["description", "disabled", "button_style"]) model.on(`change:${name}`, show);
    node.addEventListener("click", () => model.send({ event: "click" }));
    show();
    return node;
  },
  progress: (model) => {
    const node = make("progress", "");
    const show = () => Object.assign(node, { max: model.get("max"), value: model.get("value") });
    model.on("change:value", show);
    model.on("change:max", show);
    show();
    return node;
  },
  text: (model) => input(model, { type: "text", placeholder: model.get("placeholder") ?? "" }, String),
  number: (model) => {
    const node = input(model, { type: "number", step: model.get("step") ?? 1 }, (text) => within(Number(text), model.get("min"), model.get("max")));
    return bounded(model, node);
  },
  check: (model) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox" });
    const show = () => Object.assign(box, { checked: model.get("value"), disabled: model.get("disabled") });
    box.addEventListener("change", () => put(model, { value: box.checked }));
    for (const name of ["value", "disabled"]) model.on(`change:${name}`, show);
    show();
    return labelled(model, box, true);
  },
  slider: (model) => {
    const box = document.createElement("input");
    const shown = document.createElement("output");
    box.type = "range";
    const show = () => {
      Object.assign(box, { min: model.get("min"), max: model.get("max"), step: model.get("step"), disabled: model.get("disabled") });
      box.value = model.get("value");
      shown.textContent = short(model.get("value"));
    };
    for (const name of ["min", "max", "value", "step", "disabled"]) model.on(`change:${name}`, show);
    box.addEventListener("input", () => (shown.textContent = box.value));
    const event = model.get("continuous_update") ? "input" : "change";
    box.addEventListener(event, () => put(model, { value: Number(box.value) }));
    show();
    return labelled(model, box, false, shown);
  },
  range: (model) => {
    const [low, high] = [0, 1].map((side) => Object.assign(document.createElement("input"), { type: "number", ariaLabel: `${model.get("description")}, ${side ? "last" : "first"}` }));
    const show = () => {
      [low.value, high.value] = model.get("value");
      for (const box of [low, high]) Object.assign(box, { min: model.get("min"), max: model.get("max"), step: model.get("step") });
    };
    const change = () => {
      const [a, b] = [low, high].map((box) => within(Number(box.value), model.get("min"), model.get("max")));
      put(model, { value: [Math.min(a, b), Math.max(a, b)] });
      show();
    };
    for (const box of [low, high]) box.addEventListener("change", change);
    for (const name of ["value", "min", "max"]) model.on(`change:${name}`, show);
    show();
    const node = make("span", "field");
    node.append(model.get("description"), low, "to", high);
    return node;
  },
  select: (model) => {
    const box = document.createElement("select");
    const many = Array.isArray(model.get("index"));
    box.multiple = many;
    if (many) box.size = model.get("rows");
    const names = () => box.replaceChildren(...model.get("_options_labels").map((name, i) => new Option(name, i)));
    const show = () => {
      const chosen = [model.get("index")].flat();
      [...box.options].forEach((option, i) => (option.selected = chosen.includes(i)));
      if (!many && model.get("index") === null) box.selectedIndex = -1;
      box.disabled = model.get("disabled");
    };
    model.on("change:_options_labels", () => (names(), show()));
    for (const name of ["index", "disabled"]) model.on(`change:${name}`, show);
    box.addEventListener("change", () => put(model, { index: many ? [...box.selectedOptions].map((o) => Number(o.value)) : Number(box.value) }));
    names();
    show();
    return labelled(model, box);
  },
  toggles: (model) => {
    const node = make("span", "field");
    const show = () => {
      node.replaceChildren(model.get("description"));
      model.get("_options_labels").forEach((name, i) => {
        const button = make("button", "", node);
        Object.assign(button, { type: "button", textContent: name, ariaPressed: String(i === model.get("index")) });
        button.addEventListener("click", () => put(model, { index: i }));
      });
    };
    for (const name of ["_options_labels", "index"]) model.on(`change:${name}`, show);
    show();
    return node;
  },
  play: (model) => {
    const node = make("button", "");
    let timer = null;
    node.type = "button";
    const end = () => {
      clearInterval(timer);
      timer = null;
      node.textContent = "Play";
    };
    node.addEventListener("click", () => {
      if (timer) return end();
      node.textContent = "Stop";
      timer = setInterval(() => put(model, { value: model.get("value") >= model.get("max") ? model.get("min") : model.get("value") + 1 }), model.get("interval"));
    });
    end();
    return node;
  },
};

const KINDS = {
  HBox: "box", VBox: "box", Box: "box", HTML: "html", Label: "label", Button: "button", IntProgress: "progress", Text: "text",
  Textarea: "text", BoundedIntText: "number", BoundedFloatText: "number", Checkbox: "check", IntSlider: "slider",
  FloatSlider: "slider", IntRangeSlider: "range", FloatRangeSlider: "range", Dropdown: "select", SelectMultiple: "select",
  ToggleButtons: "toggles", Play: "play",
};

function put(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

function labelled(model, box, after = false, ...more) {
  const node = make("label", "field");
  const words = make("span", "");
  const show = () => {
    words.textContent = model.get("description");
    box.setAttribute("aria-label", model.get("description"));
  };
  model.on("change:description", show);
  show();
  node.append(...(after ? [box, words] : [words, box]), ...more);
  return node;
}

function input(model, values, read) {
  const box = Object.assign(document.createElement("input"), values);
  const show = () => Object.assign(box, { value: model.get("value"), disabled: model.get("disabled") });
  for (const name of ["value", "disabled"]) model.on(`change:${name}`, show);
  const soon = values.type === "text" && model.get("continuous_update");
  box.addEventListener(soon ? "input" : "change", () => put(model, { value: read(box.value) }));
  show();
  return labelled(model, box);
}

function bounded(model, node) {
  const box = node.querySelector("input");
  const show = () => Object.assign(box, { min: model.get("min"), max: model.get("max") });
  for (const name of ["min", "max"]) model.on(`change:${name}`, show);
  show();
  return node;
}
