"""The page of `evidence.rivals_table`, and the table between two marks in docs/baselines.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dg_tools.experiments import Result, open_result

PAGE = "README.md"
FIGURE = "rivals.png"
ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- rivals: written by evidence.rivals_table -->", "<!-- rivals: end -->"
# Of the short table.
SHOWN = (
    "DG",
    "DG uncond",
    "CFG",
    "APG",
    "FreSca",
    "PAG",
    "SLG",
    "S2Guidance",
    "Gain",
    "DetailDaemon",
)
MARKS = {"holds": "yes", "does not hold": "no", "undecided": "?", "controls do the same": "as controls"}
HEAD = """# What buys detail, and at what price?

Made by `python -m evidence.rivals_table` from the numbers in this folder; no number is typed. The same noise in all
rows.

Each guidance has one strength: a weight w, or CFG's scale s. As many values of it are tried for each, on the same
captions. Of those that lose nothing the one is taken whose amount of detail is nearest to the references'. The rows are
on other captions, which the model never saw and which chose nothing, as changes from no guidance, with 95% intervals
over captions in brackets.

- **detail**: log2(high-band power / low-band power) less the reference's, in doublings: the amount at equal contrast.
  **right**, **low**: correlation of the high and the low band with the reference. **margin**: of retrieval among all
  references, as a share of the one without guidance. Bands in cycles per latent cell.
- **passes** per step, **seconds** per picture (on one core, while other work ran: passes are the price to compare).
- **gives detail, loses nothing**: the lower bounds are above +0.10 (detail), -0.02 (right), -0.01 (low) and -5%
  (margin). These bounds are those of [the evidence](../rules.md) and were set before any run. *Not tested*: without
  guidance high-band power is not below the references' by 0.1 doublings, or the degraded prediction hardly differs.
  *Controls do the same*: Detail Guidance away from other channels, which move the velocity as much, gives as much.
- PAG, SLG, SEG, SoftPAG and SLGUncond act at the middle block, which nobody chose; DG at the block of its profile,
  which `auto` chose by samples of its own. Each guidance but CFG's kin runs without CFG.
"""


def results(folder: Path) -> dict[str, Result]:
    """What is kept, by model."""
    return {file.parent.name: open_result(file.parent) for file in sorted(folder.glob("*/result.json"))}


def cell(row: pd.Series, name: str, places: int) -> str:
    """A change with its interval."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_from", "_to"))
    return f"{value:+.{places}f} ({low:+.{places}f}, {high:+.{places}f})"


def section(model: str, result: Result) -> str:
    """A model's part of the page."""
    base, settings = result.settings["base"], result.settings
    lines = [
        f"## {model}\n",
        f"{result.verdict}\n",
        f"Searched on {len(settings['search'])} captions, reported on {len(settings['test'])}; {settings['steps']} "
        f"steps. Without guidance a picture takes {base['seconds']:.2f} s.\n",
        f"![every guidance: changes with intervals, and passes]({model}/{FIGURE})\n",
        "| guidance | setting | detail | right | low | margin | passes | seconds | gives detail, loses nothing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for _, row in result.tables["rivals"].sort_values("amt_c", ascending=False).iterrows():
        cells = [cell(row, "amt_c", 2), *(cell(row, name, 3) for name in ("right", "low", "margin"))]
        price = [f"{row['passes'] / settings['steps']:.2f}", f"{row['seconds']:.2f}"]
        why = "" if pd.isna(row["why"]) or not row["why"] else f": {row['why']}"
        lines.append(
            "| " + " | ".join([row["method"], row["setting"], *cells, *price, f"{row['verdict']}{why}"]) + " |"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in result.notes), ""])


def page_text(folder: Path) -> str:
    """The page of what is kept in a folder."""
    return "\n".join([HEAD, *(section(model, result) for model, result in results(folder).items())])


def write(folder: Path) -> None:
    """The page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(page_text(folder), encoding="utf-8")


def short_table(folder: Path) -> str:
    """At most ten rows: detail, price, and whether anything is lost, on each model."""
    kept = results(folder)
    if not kept:
        return "It was not run yet: `python -m evidence.rivals_table`."
    tables = {model: result.tables["rivals"].set_index("method") for model, result in kept.items()}
    names = [name for name in SHOWN if any(name in table.index for table in tables.values())]
    lines = ["| guidance | passes | " + " | ".join(tables) + " |", "|---|---|" + "---|" * len(tables)]
    for name in names:
        cells, passes = [], []
        for model, table in tables.items():
            if name not in table.index:
                cells.append("")
                continue
            row = table.loc[name]
            passes.append(row["passes"] / kept[model].settings["steps"])
            cells.append(f"{row['amt_c']:+.2f}, {MARKS.get(row['verdict'], row['verdict'])}")
        lines.append(f"| {name} | {max(passes):.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(text: str, folder: Path) -> str:
    """A page's text with the short table between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{short_table(folder)}\n{END}{after}"


def write_short(folder: Path, file: Path = ROOT / "docs" / "baselines.md") -> None:
    """Put the short table into its page."""
    file.write_text(with_table(file.read_text(encoding="utf-8"), folder), encoding="utf-8")
