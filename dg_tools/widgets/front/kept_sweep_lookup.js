// What a kept sweep holds at one place, as sweep_lookup.py and sweep_view.py say it. A place has an index on every axis.

const ROWS = 6, COLUMNS = 5; // more could not be read at half a screen

// A number to three digits, as Python's `.3g` writes it; null: not a number.
function general(v) {
  if (v === undefined) return "";
  if (v === null) return "nan";
  const [digits, power] = v.toExponential(2).split("e").map(Number);
  if (power >= -4 && power < 3) return String(Number(v.toPrecision(3)));
  return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

function keptSweep(data) {
  const names = Object.keys(data.axes);
  const inner = names.filter((a) => data.of_setting.includes(a) && a !== "guidance");
  const every = (axis) => data.axes[axis].labels.map((_, i) => i);
  const rows = new Map(data.rows.map((r) => [[r.number, r.prompt, r.seed].join(), r]));
  const picked = new Set(data.chosen.filter((n) => n)); // number 0 is the plain run, which is not a choice
  const over = (selection, axis) => selection.rows === axis || selection.columns === axis;
  const label = (axis, i) => (i === null ? "None" : data.axes[axis].labels[i]);
  const lower = (axis) => data.axes[axis].name.toLowerCase();

  const values = (axis, selection) => {
    if (axis === "prompt" && !over(selection, "split")) return data.prompts[selection.at.split];
    if (!inner.includes(axis) || over(selection, "guidance")) return every(axis);
    const own = data.settings.filter((s) => s.at.guidance === selection.at.guidance).map((s) => s.at[axis]);
    const tried = every(axis).filter((i) => own.includes(i));
    return tried.length ? tried : every(axis); // without a block: the same picture in all blocks
  };
  // A place with a prompt of its split and values that its guidance was tried at, and what that changed.
  const settled = (selection, splitMoved) => {
    const [at, changes] = [{ ...selection.at }, []];
    const both = over(selection, "prompt") && over(selection, "split");
    if (!data.prompts[at.split].includes(at.prompt) && !both) {
      if (splitMoved) at.prompt = data.prompts[at.split][0];
      else at.split = data.prompts.findIndex((prompts) => prompts.includes(at.prompt));
    }
    for (const axis of inner) {
      const known = values(axis, selection);
      if (known.includes(at[axis]) || !known.length) continue;
      changes.push(`${lower(axis)} ${label(axis, at[axis])}, but at ${label(axis, known[0])}`);
      at[axis] = known[0];
    }
    return { at, note: changes.length ? `${label("guidance", at.guidance)} was not tried at ${changes.join("; ")}.` : "" };
  };
  const numberAt = (selection, at) => {
    if (selection.chosen) return data.chosen[at.guidance] ?? null;
    const here = data.settings.findIndex((s) => Object.entries(s.at).every(([axis, i]) => i === null || i === at[axis]));
    return here < 0 ? null : here;
  };
  const find = (selection, moved = {}) => {
    const at = { ...selection.at, ...moved };
    if (!data.prompts[at.split].includes(at.prompt)) {
      if (over(selection, "prompt")) return { at, number: null, words: `no ${label("split", at.split)} prompt` };
      at.prompt = data.prompts[at.split][0];
    }
    const number = numberAt(selection, at);
    if (number === null) return { at, number, words: selection.chosen ? "no setting holds the guard" : "not in this sweep" };
    const row = rows.get([number, at.prompt, at.seed].join());
    if (!row) {
      const untested = label("split", at.split) === "test" && !data.chosen.includes(number);
      return { at, number, words: untested ? "test prompts: chosen settings only" : "not done yet" };
    }
    if (row.picture === null) return { at, number, row, words: "no picture kept" };
    return { at, number, row, file: data.pictures[row.picture] ? row.picture : "", words: "its file cannot be read" };
  };
  const measured = (selection, content) => {
    if (!content.row || !data.kept.includes(selection.measure)) return undefined;
    const means = data.means[`${content.number},${content.at.split}`];
    return (selection.mean ? means.values : content.row.values)[selection.measure];
  };
  const caption = (selection, content) => {
    const number = general(measured(selection, content));
    return content.file ? number : `${content.words}\n${number}`.trim();
  };
  const paged = (axis, selection, most) => {
    const all = values(axis, selection);
    const index = all.indexOf(selection.at[axis]);
    const start = Math.floor(index / most) * most;
    return [all.slice(start, start + most), index - start];
  };
  const title = (here) => {
    const { at } = here;
    const where = `${data.quoted[at.prompt]}, seed ${label("seed", at.seed)}, ${label("split", at.split)} prompts`;
    if (here.number === null) {
      const axes = inner.filter((a) => data.axes[a].labels.length > 1).map((a) => `${lower(a)} ${label(a, at[a])}`);
      return `${here.words[0].toUpperCase()}${here.words.slice(1)}: ${[label("guidance", at.guidance), ...axes].join(", ")}; ${where}`;
    }
    const words = `${data.settings[here.number].words}${picked.has(here.number) ? ", chosen" : ""}; ${where}`;
    return here.file ? words : `${words}. Nothing to see: ${here.words}.`;
  };
  const numbers = (here) => {
    if (!here.row) return [];
    const plain = rows.get([0, here.at.prompt, here.at.seed].join());
    const [means, all] = [here.number, 0].map((n) => data.means[`${n},${here.at.split}`]);
    const head = ["", "here", "cond", `mean of ${means.pictures}`, `cond, mean of ${all?.pictures ?? 0}`];
    const columns = [here.row, plain, means, all];
    return [head, ...data.kept.map((m) => [data.measures[m], ...columns.map((c) => general(c?.values[m] ?? null))])];
  };
  const note = (selection, cells) => {
    const said = [data.note];
    const shown = [...new Set(cells.map((c) => c.number).filter((n) => n !== null))].sort((a, b) => a - b);
    for (const axis of [selection.rows, selection.columns].filter((a) => inner.includes(a))) {
      const same = shown.filter((n) => selection.chosen || data.settings[n].at[axis] === null);
      const guidances = [...new Set(same.map((n) => label("guidance", data.settings[n].at.guidance)))];
      const why = selection.chosen ? "in the chosen setting" : `without a ${lower(axis)}`;
      if (guidances.length) said.push(`${guidances.join(", ")} ${why}: the same picture for each ${lower(axis)}.`);
    }
    for (const [axis, most] of [[selection.rows, ROWS], [selection.columns, COLUMNS]]) {
      const count = values(axis, selection).length;
      if (count > most) said.push(`At most ${most} of ${count} are shown of ${lower(axis)}: its control shows the others.`);
    }
    return said.join(" ");
  };
  const code = (here) => {
    if (here.number === null) return "";
    const call = `${data.quoted[here.at.prompt]}, seed=${label("seed", here.at.seed)}, ${data.call}`;
    return `${data.settings[here.number].code}\nmade = dg.generate(dit, ${call}, guidance=guidance)\nmade.grid()`;
  };
  const view = (selection) => {
    const [down, row] = paged(selection.rows, selection, ROWS);
    const [across, column] = paged(selection.columns, selection, COLUMNS);
    const cells = down.map((y) => across.map((x) => find(selection, { [selection.rows]: y, [selection.columns]: x })));
    const here = cells[row][column];
    const table = (act) => cells.map((line) => line.map(act));
    const measure = data.measures[selection.measure];
    return {
      here,
      cell: row * across.length + column,
      places: down.flatMap((y) => across.map((x) => ({ [selection.rows]: y, [selection.columns]: x }))),
      page: {
        files: table((c) => c.file || ""),
        words: table((c) => caption(selection, c)),
        values: table((c) => measured(selection, c) ?? null),
        measure,
        aspect: data.aspect,
        rows: down.map((i) => label(selection.rows, i)),
        columns: across.map((i) => label(selection.columns, i)),
        names: [data.axes[selection.rows].name, data.axes[selection.columns].name],
        title: `${measure}: ${selection.mean ? "mean of the split's pictures" : "this picture"}`,
        marked: cells.flat().flatMap((c, i) => (picked.has(c.number) ? [i] : [])),
      },
      title: title(here),
      unguided: rows.get([0, here.at.prompt, here.at.seed].join())?.picture ?? "",
      numbers: numbers(here),
      code: code(here),
      note: note(selection, cells.flat()),
    };
  };
  return { values, settled, view, label };
}
