// A page that shows the widgets of one process: it hears their values over one socket, and says what the reader does.

class LiveModel {
  constructor(id, state, say) {
    Object.assign(this, { id, state, say, heard: {}, changed: {} });
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    this.changed[name] = value;
    this.take({ [name]: value });
  }
  save_changes() {
    if (Object.keys(this.changed).length) this.say({ id: this.id, state: this.changed });
    this.changed = {};
  }
  send(content) {
    this.say({ id: this.id, content });
  }
  take(state) {
    const names = Object.keys(state).filter((name) => this.state[name] !== state[name]);
    Object.assign(this.state, state);
    for (const name of names) for (const act of [...(this.heard[`change:${name}`] ?? [])]) act();
  }
  on(name, act) {
    (this.heard[name] ??= []).push(act);
  }
  off(name, act) {
    this.heard[name] = (this.heard[name] ?? []).filter((a) => a !== act);
  }
}

// One message: its head as JSON, and buffers that belong at paths inside of its state.
function unpack(buffer) {
  const size = new DataView(buffer).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  let from = 4 + size;
  head.paths.forEach((path, i) => {
    const place = path.slice(0, -1).reduce((node, name) => node[name], head.state);
    place[path.at(-1)] = new DataView(buffer, from, head.sizes[i]);
    from += head.sizes[i];
  });
  return head;
}

class LivePage {
  constructor(socket) {
    this.models = new Map();
    this.nodes = new Map();
    this.modules = new Map();
    this.socket = socket;
  }
  say(message) {
    this.socket.send(JSON.stringify(message));
  }
  hear(head) {
    const known = this.models.get(head.id);
    if (known) known.take(head.state);
    else this.models.set(head.id, new LiveModel(head.id, head.state, (message) => this.say(message)));
  }
  model(reference) {
    return this.models.get(reference.replace("IPY_MODEL_", ""));
  }
  view(reference) {
    if (!this.nodes.has(reference)) this.nodes.set(reference, this.build(this.model(reference)));
    return this.nodes.get(reference);
  }
  build(model) {
    const name = model.get("_model_name");
    const kind = KINDS[name.replace(/Model$/, "")];
    const node = kind ? CONTROLS[kind](model, this) : make("div", "");
    if (name === "AnyModel") this.any(model, node);
    if (kind === "box") node.classList.add("dg-box", name.startsWith("H") || name === "BoxModel" ? "dg-across" : "dg-down");
    let own = [];
    const classes = () => {
      node.classList.remove(...own);
      node.classList.add(...(own = model.get("_dom_classes") ?? []));
    };
    model.on("change:_dom_classes", classes);
    classes();
    const hint = () => (model.get("tooltip") ? (node.title = model.get("tooltip")) : node.removeAttribute("title"));
    model.on("change:tooltip", hint);
    hint();
    this.lay(this.model(model.get("layout")), node, kind);
    return node;
  }
  lay(layout, node, kind) {
    const names = ["display", "width", "max_width", "flex_flow", "align_items", "flex"];
    const show = () => {
      for (const name of names) {
        if (name === "width" && !["box", "progress", "text"].includes(kind)) continue; // as wide as what it holds
        node.style[name.replace(/_(.)/, (_, c) => c.toUpperCase())] = layout.get(name) ?? "";
      }
    };
    for (const name of names) layout.on(`change:${name}`, show);
    show();
  }
  async any(model, node) {
    const text = model.get("_esm");
    if (!this.modules.has(text)) {
      this.modules.set(text, import(URL.createObjectURL(new Blob([text], { type: "text/javascript" }))));
    }
    (await this.modules.get(text)).default.render({ model, el: node });
  }
}

function openLive(names) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => (document.documentElement.dataset.dgTheme = dark.matches ? "dark" : "light");
  dark.addEventListener("change", follow);
  follow();
  const [main, tabs] = [document.querySelector("main"), document.querySelector(".dg-tabs")];
  const socket = new WebSocket(`ws://${location.host}/socket`);
  socket.binaryType = "arraybuffer";
  const page = new LivePage(socket);
  const buttons = names.map((name) => {
    const button = Object.assign(make("button", "tab", tabs), { type: "button", role: "tab", textContent: name, id: `dg-tab-${name}` });
    button.setAttribute("aria-controls", "dg-view");
    button.addEventListener("click", () => open(name));
    return button;
  });
  const view = Object.assign(make("div", "view", main), { id: "dg-view" });
  tabs.hidden = names.length < 2;
  if (!tabs.hidden) view.role = "tabpanel";
  const open = (name) => {
    for (const button of buttons) {
      button.ariaSelected = String(button.textContent === name);
      button.tabIndex = button.textContent === name ? 0 : -1; // Tab leads to the open one, arrow keys to the others
    }
    view.setAttribute("aria-labelledby", `dg-tab-${name}`);
    socket.send(`view ${name}`);
  };
  tabs.addEventListener("keydown", (event) => {
    const from = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const to = { ArrowLeft: from ? from - 1 : last, ArrowRight: from < last ? from + 1 : 0, Home: 0, End: last }[event.key];
    if (from < 0 || to === undefined) return;
    buttons[to].focus();
    open(names[to]);
    event.preventDefault();
  });
  socket.addEventListener("open", () => open(names[0]));
  socket.addEventListener("message", ({ data }) => {
    const head = unpack(data);
    if (head.kind === "view") view.replaceChildren(page.view(`IPY_MODEL_${head.id}`));
    else page.hear(head);
  });
  socket.addEventListener("close", () => {
    make("p", "message dg-error", document.body).textContent = "dg-tools has stopped: start it again to go on.";
    main.classList.add("dg-stale");
  });
}
