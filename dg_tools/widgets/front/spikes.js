// |activation| over token x channel as a surface of ridges that can be turned. Drag or the arrow keys turn it; a click
// chooses the nearest point. See spikes.py for the traits.

function renderSpikes({ model, el }) {
  const { get, put, on, end } = traits(model);
  el.classList.add("dg-spikes");
  const head = make("div", "head", el);
  const stage = focusable(make("div", "stage", el));
  const canvas = make("canvas", "field", stage);
  let [azimuth, elevation] = [-0.5, 0.45];
  let [heights, ground, most] = [new Float32Array(0), 0, 1];
  let screen = []; // x, y of each point, for clicks
  let hovered = -1;

  const shape = () => [get("data").tokens?.length ?? 0, get("data").channels?.length ?? 0];
  // where a number lies among the rows or columns; a pooled one covers those up to the next
  const find = (list, v) => (get("data").pooled ? list.findLastIndex((x) => x <= v) : list.indexOf(v));
  const say = (i) => {
    const { tokens, channels } = get("data");
    const [row, column] = [Math.floor(i / channels.length), i % channels.length];
    return `token ${tokens[row]}, channel ${channels[column]}: |x| ${short(heights[i])}`;
  };
  const read = () => {
    heights = floats(get("data").values);
    const above = heights.filter((v) => v > 0);
    most = above.reduce((a, v) => Math.max(a, v), 0) || 1;
    ground = get("data").log ? above.reduce((a, v) => Math.min(a, v), most) : 0;
    draw();
  };
  const lift = (v) => {
    if (!get("data").log) return v / most;
    return most > ground ? Math.log(Math.max(v, ground) / ground) / Math.log(most / ground) : 0;
  };
  const draw = () => {
    const [rows, columns] = shape();
    const [width, height] = [stage.clientWidth, get("height")];
    stage.style.height = `${height}px`;
    if (!width || !rows) return;
    const sharp = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * sharp, height * sharp];
    const ink = canvas.getContext("2d");
    ink.scale(sharp, sharp);
    const style = getComputedStyle(el);
    const colour = (name) => style.getPropertyValue(`--dg-${name}`).trim() || "#777";
    const [cos, sin] = [Math.cos(azimuth), Math.sin(azimuth)];
    const tilt = Math.sin(elevation);
    const wide = width * 0.66;
    const project = (u, v, z) => {
      const [x, y] = [u - 0.5, v - 0.5];
      return [width / 2 + (x * cos - y * sin) * wide, height * 0.7 + (x * sin + y * cos) * wide * tilt * 0.8 - z * height * 0.5 * Math.cos(elevation)];
    };
    const u = (column) => (columns > 1 ? column / (columns - 1) : 0.5);
    const v = (row) => (rows > 1 ? row / (rows - 1) : 0.5);
    screen = new Float32Array(2 * rows * columns);
    const far = Array.from({ length: rows }, (_, row) => row).sort((a, b) => v(a) * cos - v(b) * cos);
    ink.lineJoin = "round";
    for (const row of far) { // from the back, each ridge hides what is behind it
      ink.beginPath();
      for (let column = 0; column < columns; column++) {
        const i = row * columns + column;
        const [x, y] = project(u(column), v(row), Number.isFinite(heights[i]) ? lift(heights[i]) : 0);
        screen[2 * i] = x;
        screen[2 * i + 1] = y;
        if (column) ink.lineTo(x, y);
        else ink.moveTo(x, y);
      }
      ink.strokeStyle = colour("ridge");
      ink.lineWidth = 0.7;
      ink.stroke();
      ink.lineTo(...project(1, v(row), 0));
      ink.lineTo(...project(0, v(row), 0));
      ink.fillStyle = colour("paper");
      ink.globalAlpha = 0.85;
      ink.fill();
      ink.globalAlpha = 1;
    }
    const marked = get("data").marked.filter((c) => find(get("data").channels, c) >= 0);
    ink.font = "11px sans-serif";
    marked.forEach((channel, order) => {
      const column = find(get("data").channels, channel);
      ink.beginPath();
      for (let row = 0; row < rows; row++) {
        const i = row * columns + column;
        ink.lineTo(screen[2 * i], screen[2 * i + 1]);
      }
      ink.strokeStyle = ink.fillStyle = colour(`c${order % 6}`);
      ink.lineWidth = 2;
      ink.stroke();
      const top = far[0] * columns + column;
      ink.textAlign = "center";
      ink.fillText(String(channel), screen[2 * top], screen[2 * top + 1] - 5);
    });
    ink.fillStyle = colour("ink");
    ink.textAlign = "center";
    const near = cos >= 0 ? 1.1 : -0.1;
    ink.fillText("channel", ...project(0.5, near, 0));
    ink.fillText("token", ...project(sin <= 0 ? 1.1 : -0.1, 0.5, 0));
    const [token, channel] = get("at");
    spot(ink, find(get("data").tokens, token), find(get("data").channels, channel), colour("here"));
    if (hovered >= 0) spot(ink, Math.floor(hovered / columns), hovered % columns, colour("ink"));
    head.textContent = hovered >= 0 ? say(hovered) : get("data").title;
    announce(stage, get("label"), rows * columns - 1, 0, "arrow keys turn the surface");
    el.dataset.drawn = String(get("data").version ?? "");
  };
  const spot = (ink, row, column, colour) => {
    const i = row * shape()[1] + column;
    if (row < 0 || column < 0 || 2 * i + 1 >= screen.length) return;
    ink.beginPath();
    ink.arc(screen[2 * i], screen[2 * i + 1], 4, 0, 7);
    ink.fillStyle = colour;
    ink.fill();
  };
  const nearest = (event) => {
    const box = stage.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [-1, 400];
    for (let i = 0; 2 * i < screen.length; i++) {
      const far = (screen[2 * i] - px) ** 2 + (screen[2 * i + 1] - py) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  };
  const turn = (sideways, up) => {
    azimuth += sideways;
    elevation = within(elevation + up, 0.05, 1.45);
    draw();
  };
  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, y: event.clientY, moved: false };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held) {
      const i = nearest(event);
      if (i === hovered) return;
      hovered = i;
      const columns = shape()[1];
      link.tell(i < 0 ? -1 : get("data").tokens[Math.floor(i / columns)]);
      link.tell(i < 0 ? -1 : get("data").channels[i % columns], "channel");
      return draw();
    }
    held.moved ||= Math.hypot(event.clientX - held.x, event.clientY - held.y) > 4;
    if (!held.moved) return;
    turn((event.clientX - held.x) / 150, (event.clientY - held.y) / 150);
    Object.assign(held, { x: event.clientX, y: event.clientY });
  });
  stage.addEventListener("pointerup", (event) => {
    const i = held && !held.moved ? nearest(event) : -1;
    held = null;
    if (i < 0) return;
    const { tokens, channels } = get("data");
    put({ point: [tokens[Math.floor(i / channels.length)], channels[i % channels.length]], clicks: get("clicks") + 1 });
  });
  stage.addEventListener("pointercancel", () => (held = null));
  stage.addEventListener("pointerleave", () => {
    hovered = -1;
    link.tell(-1);
    link.tell(-1, "channel");
    draw();
  });
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
    if (!step) return;
    turn(...step);
    event.preventDefault();
  });
  const link = linked(el, "token", () => {});
  on(["data"], read);
  on(["at", "height", "label"], draw);
  const sized = new ResizeObserver(draw);
  sized.observe(stage);
  read();
  return () => {
    end();
    link.end();
    sized.disconnect();
  };
}
