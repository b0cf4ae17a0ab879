// Read-only code with a button that copies it, and one that folds it. A page from a file or another host has no clipboard of its own: there
// the text is selected and the browser is told to copy.

function renderCode({ model, el }) {
  const { get, on, end } = traits(model);
  el.classList.add("dg-code");
  const area = make("textarea", "", el);
  const button = make("button", "copy", el);
  const fold = make("button", "fold", el);
  fold.type = "button";
  const folded = (yes) => {
    el.classList.toggle("dg-folded", yes);
    fold.textContent = yes ? "Show code" : "Hide code";
    fold.setAttribute("aria-expanded", String(!yes));
  };
  const room = new ResizeObserver(() => { // on a narrow page the pictures need the room, until the reader says otherwise
    if (el.clientWidth) folded(el.clientWidth < 700);
  });
  fold.addEventListener("click", () => {
    room.disconnect();
    folded(!el.classList.contains("dg-folded"));
  });
  Object.assign(area, { readOnly: true, spellcheck: false });
  Object.assign(button, { type: "button", textContent: "Copy code" });
  const show = () => {
    area.value = get("value");
    area.rows = Math.min(get("rows"), get("value").split("\n").length);
    area.setAttribute("aria-label", get("label"));
    el.hidden = !get("value");
  };
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(area.value);
    } catch {
      area.select();
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy code"), 1500);
  });
  on(["value", "rows", "label"], show);
  show();
  folded(false);
  room.observe(el);
  return () => {
    room.disconnect();
    end();
  };
}
