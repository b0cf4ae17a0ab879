// What a kept page holds at one point: the same reads as capture_lookup.py and capture_view.py, on numbers in the file.

// Numbers of 16 bits: the upper half of a float32.
function halves(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const upper = new Uint16Array(bytes.buffer);
  return new Float32Array(Uint32Array.from(upper, (x) => x << 16).buffer);
}

function keptCapture(data) {
  const decoded = new Map();
  const read = (name, text) => {
    if (!decoded.has(name)) decoded.set(name, halves(text));
    return decoded.get(name);
  };
  const run = (p) => data.runs[`${p.prompt},${p.seed},${p.branch}`];
  const steps = data.steps.length;
  const sites = data.sites.length;
  const array = (p, name) => {
    const key = `${p.prompt},${p.seed},${p.branch}`;
    const kept = run(p)[name][p.stream];
    return [read(`${key} ${name} ${p.stream}`, kept.values), kept.size];
  };
  // One row of an array [step, block, size].
  const at = (p, name, step = p.step, block = p.block) => {
    const [values, size] = array(p, name);
    return values.subarray((step * sites + block) * size, (step * sites + block + 1) * size);
  };
  const hidden = (p) => {
    const kept = data.hidden_stream === p.stream ? run(p).hidden[`${p.step},${p.block}`] : undefined;
    if (!kept) return null;
    const values = read(`${p.prompt},${p.seed},${p.branch} hidden ${p.step},${p.block}`, kept);
    return { values, tokens: data.hidden_tokens, channels: data.hidden_channels };
  };
  const where = (p) => `after block ${data.sites[p.block]}, step ${data.steps[p.step]}`;
  const stretch = (values) => { // a stream's own tokens, without what is behind its end
    const end = values.findLastIndex((v) => Number.isFinite(v));
    return values.subarray(0, end + 1);
  };
  const column = (h, channel) => {
    const i = h ? h.channels.indexOf(channel) : -1;
    return i < 0 ? null : h.tokens.map((_, row) => h.values[row * h.channels.length + i]);
  };
  const row = (h, token) => {
    const i = h ? h.tokens.indexOf(token) : -1;
    return i < 0 ? null : h.values.subarray(i * h.channels.length, (i + 1) * h.channels.length);
  };
  const filled = (count, places, values) => {
    const made = new Float32Array(count).fill(NaN);
    places.forEach((place, i) => (made[place] = values[i]));
    return made;
  };
  const course = (p, along) => {
    const places = Array.from({ length: along === "block" ? sites : steps }, (_, i) => (along === "block" ? [p.step, i] : [i, p.block]));
    const of = (name, i) => Float32Array.from(places, ([step, block]) => at(p, name, step, block)[i]);
    return [
      { name: `channel ${p.channel}`, values: of("abs_mean", p.channel) },
      { name: "largest |x|", values: of("top_value", 0).map(Math.abs) },
      { name: "median channel", values: of("median_abs_mean", 0) },
    ];
  };
  const chart = (series, p, words) => ({ series, marked: [], names: null, x: null, log: p.log, kind: "lines", ...words });
  // How much of its attention each token gives to the chosen word: rows of [step, block, head], the mean of all heads first.
  const attention = (p) => {
    const maps = read(`${p.prompt},${p.seed},${p.branch} word ${p.word}`, run(p).maps[p.word]);
    const size = data.grid[0] * data.grid[1];
    const row = (p.step * sites + p.block) * (data.heads + 1) + p.head + 1;
    return maps.subarray(row * size, (row + 1) * size);
  };
  return {
    tokens: (p) => {
      if (p.word) {
        const values = attention(p);
        const heads = p.head < 0 ? "mean of all heads" : `head ${p.head}`;
        const some = values.some(Number.isFinite);
        const title = some ? `attention to '${p.word}', block ${data.sites[p.block]}, step ${data.steps[p.step]}, ${heads}` : `no attention to '${p.word}' was kept at block ${data.sites[p.block]}`;
        return { values, title, name: "share of the place's attention" };
      }
      const values = column(hidden(p), p.channel);
      const [rows, columns] = data.grid;
      const norms = stretch(at(p, "token_norm"));
      if (!values) return { values: filled(rows * columns, [...norms.keys()], norms), title: `norm of each token ${where(p)}`, name: "norm over channels" };
      return { values: filled(rows * columns, hidden(p).tokens, values), title: `channel ${p.channel} ${where(p)}`, name: "activation" };
    },
    text: (p) => {
      const values = stretch(at(p, "token_norm"));
      const words = data.words?.[p.stream]?.[p.prompt];
      const names = words?.length === values.length ? words : null;
      return chart([{ name: "norm", values }], p, { kind: "stems", names, title: `${p.stream} tokens ${where(p)}`, xlabel: `${p.stream} token`, place: `${p.stream} token`, ylabel: "norm over channels" });
    },
    channels: (p) => {
      const h = hidden(p);
      const own = data.hidden_whole ? row(h, p.token) : null;
      const values = own ? filled(data.channels, h.channels, own) : at(p, "abs_mean");
      const ylabel = own ? "activation" : "mean |x|";
      const title = own ? `token ${p.token} ${where(p)}` : `mean over ${p.stream} tokens ${where(p)}`;
      return chart([{ name: ylabel, values }], p, { kind: "stems", marked: data.massive, title, xlabel: "channel", place: "channel", ylabel });
    },
    blocks: (p) => chart(course(p, "block"), p, { names: data.sites, title: `Channel ${p.channel} by block, step ${data.steps[p.step]}`, xlabel: "block", place: "block", ylabel: "mean |x|" }),
    steps: (p) => chart(course(p, "step"), p, { names: data.steps, title: `Channel ${p.channel} by step, block ${data.sites[p.block]}`, xlabel: "step (0 = noise)", place: "step", ylabel: "mean |x|" }),
    surface: (p) => {
      const h = data.hidden_whole ? hidden(p) : null;
      if (!h) return null;
      return { values: h.values.map(Math.abs), tokens: h.tokens, channels: h.channels, pooled: false, marked: data.massive, title: "Token x channel: drag to turn", log: p.log };
    },
    count: (p) => (p.stream === "image" ? data.grid[0] * data.grid[1] : stretch(at(p, "token_norm")).length),
    picture: (p) => run(p).pictures[run(p).pictures.length > 1 ? p.step : 0] ?? "",
    pictures: (p) => run(p).pictures,
    sentence: (p) => {
      const means = at(p, "abs_mean");
      if (!means.some(Number.isFinite)) return `There is no ${p.stream} stream after this block.`;
      const [size, median] = [means[p.channel], at(p, "median_abs_mean")[0]];
      const share = p.word && p.stream === "image" ? attention(p)[p.token] : NaN;
      const attends = Number.isFinite(share) ? ` Token ${p.token} gives ${short(share)} of its attention to '${p.word}'.` : "";
      const words = `Channel ${p.channel}: mean |x| over ${p.stream} tokens ${short(size)}, ${short(size / median)} x the median channel's. Noise level sigma ${short(data.sigmas[p.step])}.${attends}`;
      const values = column(hidden(p), p.channel);
      const place = values ? hidden(p).tokens.indexOf(p.token) : -1;
      if (place < 0) return words;
      const inside = p.stream === "image" ? ` (row ${Math.floor(p.token / data.grid[1])}, column ${p.token % data.grid[1]})` : "";
      return `Token ${p.token}${inside}, channel ${p.channel}: ${short(values[place])}. ${words}`;
    },
  };
}
