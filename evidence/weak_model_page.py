"""The tables and the page of `evidence.weak_model_table`: means, paired intervals, DG beside a gain of its amount."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.experiments.dose_outcomes import EQUAL
from dg_tools.metrics import bootstrap_interval

OUTCOMES = ("amt_c", "amt", "right", "low", "margin")
MORE = 0.005  # of right: DG gives more than gain if the lower bound is above it
SAME = 0.01  # of right: equal if the whole interval is within it
RESAMPLED = 2000
DG = "DG, auto"
HALF = "DG, auto at half its w"
PAGE = "README.md"
HEAD = f"""# Detail Guidance beside a gain, and beside CFG

Made by `python -m evidence.weak_model_table` from the numbers in this folder; no number is typed. What is not computed
is not here: the same call with a larger `--prompts` goes on from what is kept.

The same noise in all rows, 10 steps, no CFG unless the row says so. In brackets: 95% bootstrap intervals over captions,
paired with `cond`. No run was chosen on these captions. A few captions make wide intervals.

- **amt_c**: log2(high-band power / low-band power), the picture's less the reference's, in doublings, bands in cycles
  per latent cell: the amount of detail at equal contrast. **amt**: log2 of high-band power over the reference's, from
  1/8 cycle per pixel: contrast counts.
- **right**, **low**: correlation of the high and of the low band with the reference. **margin**: of retrieval among all
  references.
- **forwards** through the transformer per picture; **passes**: its block calls over its number of blocks, since a weak
  model starts at its block.
- `knob`: the weak model's channels times rho in the model's own passes. Of rho 0, 0.25, 0.5, 0.75 and 1.5 it is the one
  with the highest mean right on development captions.
- `weak model`: the one that DG steers away from. `DG, published`: rho 0 at the same block, w 0.5. `DG, auto`: the
  choice in `profile.json`. Its part along c is a gain, which can be had in one pass; here it was run with two.
- `gain`: the velocity times a number. `gain at the amt_c of ...`: linear between the two gains (1 is `cond`) whose mean
  amounts enclose DG's.
- `DG, other channels`: as many others, scaled to the same mean ||v - v_d|| at three noise levels, on development
  captions.
- DG minus gain: "more than gain" if the lower bound of right is above +{MORE}, "equal" if the interval is within
  {SAME}, else "undecided".
"""


def joined(chunks: list[dict[str, Any]], count: int) -> pd.DataFrame:
    """One row per picture, of the first `count` chunks."""
    tables = [pd.DataFrame({k: chunk[k] for k in (*OUTCOMES, "held_out")}) for chunk in chunks[:count]]
    return pd.concat(tables, ignore_index=True)


def row(name: str, table: pd.DataFrame, base: pd.DataFrame, chunk: dict[str, Any] | None) -> dict[str, Any]:
    """A run: means, changes from `base` with their intervals, price."""
    out = table["held_out"].to_numpy(bool)
    made: dict[str, Any] = {"run": name, "captions": len(table), "held_out": int(out.sum())}
    for outcome in OUTCOMES:
        change = (table[outcome] - base[outcome]).to_numpy()
        made[outcome] = table[outcome].mean()
        made |= zip((f"{outcome}_{end}" for end in ("change", "from", "to")), bootstrap_interval(change), strict=True)
        made[f"{outcome}_trained"] = change[~out].mean()
        made[f"{outcome}_held_out"] = change[out].mean()
    return made | ({k: chunk[k] for k in ("forwards", "passes")} if chunk else {})


def bracket(tables: dict[float, pd.DataFrame], amount: str, target: float) -> tuple[float, float] | None:
    """The first two neighbouring gains whose mean amounts enclose the target."""
    gains = sorted(tables)
    for one, other in pairwise(gains):
        low, high = sorted((tables[one][amount].mean(), tables[other][amount].mean()))
        if low <= target <= high and low < high:
            return one, other
    return None


def at_equal(
    name: str, amount: str, guided: pd.DataFrame, gains: dict[float, pd.DataFrame], base: pd.DataFrame
) -> tuple[list[dict[str, Any]], str]:
    """Gain interpolated to DG's amount, DG less it, and the sentence; no rows where no gain has that amount.

    The weights of the two gains are found anew in each resample.
    """
    pair = bracket(gains, amount, guided[amount].mean())
    if pair is None:
        reached = ", ".join(f"{g:g}: {(t[amount] - base[amount]).mean():+.2f}" for g, t in sorted(gains.items()))
        need = (guided[amount] - base[amount]).mean()
        return [], f"{name}: no gain that was run has its {amount} ({need:+.2f}; gain {reached}): not compared there."
    a, b = gains[pair[0]], gains[pair[1]]
    count = len(guided)
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLED, count))
    picks = np.vstack([np.arange(count), picks])  # the first is the data itself

    def means(table: pd.DataFrame, column: str) -> np.ndarray:
        return table[column].to_numpy()[picks].mean(1)

    span = means(b, amount) - means(a, amount)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (means(guided, amount) - means(a, amount)) / span
    gained: dict[str, Any] = {"run": f"gain at the {amount} of: {name}", "captions": count}
    less: dict[str, Any] = {"run": f"{name}, minus that gain", "captions": count}
    out = guided["held_out"].to_numpy(bool)
    for outcome in OUTCOMES:
        level = (1 - share) * means(a, outcome) + share * means(b, outcome)
        each = (1 - share[0]) * a[outcome] + share[0] * b[outcome]
        gained[outcome] = level[0]
        for made, values, single in (
            (gained, level - means(base, outcome), each - base[outcome]),
            (less, means(guided, outcome) - level, guided[outcome] - each),
        ):
            low, high = np.nanquantile(values[1:], [0.025, 0.975])
            made |= {f"{outcome}_change": values[0], f"{outcome}_from": low, f"{outcome}_to": high}
            made |= {f"{outcome}_trained": single[~out].mean(), f"{outcome}_held_out": single[out].mean()}
    for made in (gained, less):
        made["held_out"] = int(out.sum())
    gain = (1 - share[0]) * pair[0] + share[0] * pair[1]
    value, low, high = (less[f"right_{end}"] for end in ("change", "from", "to"))
    sentence = f"{name}, minus gain at equal {amount} ({gain:.2f}), in right: {value:+.3f} ({low:+.3f}, {high:+.3f}): "
    return [gained, less], f"{sentence}**{verdict(low, high)}**."


def verdict(low: float, high: float) -> str:
    """In words, from the interval of right."""
    if low > MORE:
        return "more than gain"
    return "equal" if -SAME <= low and high <= SAME else "undecided"


def control_row(values: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The channel controls, mean over draws, and how DG stands among them on the same captions."""
    runs = values["runs"]
    names = [name for name in runs if name.startswith("control ")]
    if not names or DG not in runs:
        return [], ""
    count = min(len(runs[name]) for name in [*names, "cond", DG])
    tables = {name: joined(runs[name], count) for name in [*names, "cond", DG]}
    base = tables["cond"]
    mean = base.copy()
    for outcome in OUTCOMES:
        mean[outcome] = sum(tables[name][outcome] for name in names) / len(names)
    made = row(f"DG, other channels ({len(names)} draws)", mean, base, runs[names[0]][0])
    unequal = sum(max(abs(r - 1) for r in one["reached"]) > EQUAL for one in values["controls"].values())
    words = []
    for outcome in ("amt_c", "right"):
        changes = [(tables[name][outcome] - base[outcome]).mean() for name in names]
        own = (tables[DG][outcome] - base[outcome]).mean()
        words.append(
            f"{outcome}: DG {own:+.3f}, draws {min(changes):+.3f} to {max(changes):+.3f}, DG above "
            f"{sum(own > change for change in changes)} of {len(changes)}"
        )
    return [made], (
        f"Other channels, {len(base)} captions, {len(names)} draws; {unequal} more could not be scaled to within "
        f"{EQUAL:.0%} and are left out. {'; '.join(words)}."
    )


def tabled(values: dict[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The table of one model, and the sentences under it; rows at the size that all of them have."""
    runs = {name: chunks for name, chunks in values["runs"].items() if not name.startswith("control ")}
    count = min(len(chunks) for chunks in runs.values())
    tables = {name: joined(chunks, count) for name, chunks in runs.items()}
    base = tables["cond"]
    rows = [row(name, table, base, runs[name][0]) for name, table in tables.items()]
    sentences = []
    gains = {float(name.removeprefix("gain ")): t for name, t in tables.items() if name.startswith("gain ")}
    for name in (DG, HALF) if gains else ():
        for amount in ("amt_c", "amt") if name in tables else ():
            more, sentence = at_equal(name, amount, tables[name], {1.0: base, **gains}, base)
            rows += more
            sentences.append(sentence)
    more, sentence = control_row(values)
    return pd.DataFrame(rows + more), [*sentences, *([sentence] if sentence else [])]


def cell(one: pd.Series, outcome: str, places: int) -> str:
    """A change with its interval."""
    value, low, high = (one[f"{outcome}_{end}"] for end in ("change", "from", "to"))
    return f"{value:+.{places}f} ({low:+.{places}f}, {high:+.{places}f})"


def section(model: str, values: dict[str, Any]) -> str:
    """A model's part of the page."""
    table, sentences = tabled(values)
    about, knob = values["about"], values["knob"]
    base = table.iloc[0]
    right = ", ".join(f"{rho}: {value:.3f}" for rho, value in knob["right"].items())
    lines = [
        f"## {model}\n",
        f"Weak model: channels {about['channels']} x {about['rho']:g} after block {about['block']}, w "
        f"{about['detail_guidance_scale']:g}. The knob's right on {knob['captions']} development captions: {right}.",
        f"{base['captions']} captions, {base['held_out']} of them held out of training, where the row does not say "
        "otherwise. `cond`: "
        + ", ".join(f"{k} {base[k]:+.3f}" for k in OUTCOMES)
        + ".\nThe rows: change from `cond`.\n",
        "| run | captions | amt_c | amt | right | trained / held out | low | margin | forwards | passes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for _, one in table.iterrows():
        price = ["" if pd.isna(one[name]) else f"{one[name]:.3g}" for name in ("forwards", "passes")]
        cells = [cell(one, k, 2 if k.startswith("amt") else 3) for k in OUTCOMES]
        cells = [*cells[:3], f"{one['right_trained']:+.3f} / {one['right_held_out']:+.3f}", *cells[3:]]
        if one["run"] == "cond":
            cells = [""] * len(cells)
        lines.append("| " + " | ".join([one["run"], str(one["captions"]), *cells, *price]) + " |")
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences), ""])


def page_text(folder: Path) -> str:
    """The page of what is kept in a folder."""
    kept = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    return "\n".join([HEAD, *(section(model, values) for model, values in kept.items() if values["runs"])])


def write(folder: Path) -> None:
    """The page, and a table for each model."""
    (folder / PAGE).write_text(page_text(folder), encoding="utf-8")
    for file in sorted(folder.glob("*.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["runs"]:
            tabled(values)[0].to_csv(file.with_suffix(".csv"), index=False, float_format="%.4g")
