"""The pages beside EVIDENCE.md, one per experiment, as Markdown from what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dg_tools.report import rules
from dg_tools.report.cells import cell, change, number, table
from dg_tools.report.kept import Column
from evidence import across, growth
from evidence.across import Small
from evidence.kept import Columns, models

TITLES = {
    "channels.md": "The channels: what they are, where they come from, block by block",
    "weak_models.md": "The weak models: zero block by block, the dose, the controls",
    "guidance.md": "Guidance: every run, with its price",
    "seeds.md": "Other seeds: how outlier channels grow",
}
MADE = """Made by `make evidence`; no number here is typed. [The rules](../../evidence/rules.md), the
[result](../../EVIDENCE.md)."""


def texts(columns: Columns, small: Sequence[Small], seeds: Path) -> dict[str, str]:
    """All pages by file name."""
    return {
        "channels.md": channels(columns),
        "weak_models.md": weak_models(columns),
        "guidance.md": guidance(columns),
        "seeds.md": seeds_page(columns, small, seeds),
    }


def opening(name: str) -> list[str]:
    """Title and how it was made."""
    return [f"# {TITLES[name]}", "", MADE, ""]


def rows_of(column: Column, sections: tuple[str, ...]) -> str:
    """A column's rows of some sections, whole."""
    lines = [
        [f"`{row.key}`", row.text, f"{row.bound} {row.unit}".strip() if row.bound else "-", cell(row, long=True)]
        for row in column.rows.values()
        if row.section in sections
    ]
    return table(["row", "claim", "required", "verdict"], lines)


def channels(columns: Columns) -> str:
    """Rows of sections 1 and 2, and the table by block."""
    lines = opening("channels.md")
    lines += [
        f"Pictures of trained captions under noise, sigma {', '.join(map(str, rules.NOISE))}. Cells are where a "
        "channel is massive on detection captions. By block: the largest ratio to the median channel, the share of "
        "the stream's energy, the shares of the variance of mean abs(x) that noise level and prompt explain, and the "
        "slope of its log2 over sigma (below 0: it grows as t goes to 0).",
        "",
    ]
    for name, column in columns.items():
        facts = column.record["facts"]
        lines += [f"## {name}", "", rows_of(column, ("1", "2")), ""]
        if facts["by_block"]:
            wrote = ", ".join(f"{c} at {b}" for c, b in facts["writers"].items())
            lines += [f"Written most: channel {wrote}. {facts['tokens']} image tokens.", ""]
            header = list(facts["by_block"][0])
            body = [[x if isinstance(x, str) else number(x) for x in one.values()] for one in facts["by_block"]]
            lines += [table(header, body), ""]
    return "\n".join(lines)


def weak_models(columns: Columns) -> str:
    """Rows of section 3; zeroing by block, and the curve."""
    lines = opening("weak_models.md")
    lines += [
        "Zeroing, one step on development captions, by block: acts (median of the change of v over v, by norm), change "
        "of amt_c of x0, and the low band's correlation with clean x0. The samples: 10 steps, no guidance.",
        "",
    ]
    for name, column in columns.items():
        lines += [f"## {name}", "", rows_of(column, ("", "3")), ""]
        zero = column.record["chosen"].get("zero")
        if zero:
            header = ["block", *next(iter(zero["by_block"].values()))]
            body = [[block, *(number(v) for v in values.values())] for block, values in zero["by_block"].items()]
            amounts = ", ".join(f"{w}: {number(a, True)}" for w, a in zero["amounts"].items())
            lines += [f"Block {zero['block']} is used. amt_c of DG on development captions by w: {amounts}.", ""]
            lines += [table(header, body), ""]
        lines += [runs_table(column, lambda run: run.startswith(("rho", "weak"))), ""]
    return "\n".join(lines)


def guidance(columns: Columns) -> str:
    """Rows of section 4, and every run."""
    lines = opening("guidance.md")
    lines += [
        "The same noise in all rows; changes from `cond` with 95% intervals over captions. Forwards and passes are of "
        "one picture: passes are block calls over blocks, since a weak model starts at its block.",
        "",
    ]
    for name, column in columns.items():
        lines += [f"## {name}", "", rows_of(column, ("4",)), ""]
        if len(column.tables) == 1:
            lines += ["There is no run but `cond`: the model cannot do the task.", ""]
        lines += [runs_table(column, lambda run: not run.startswith(("rho", "weak", "control"))), ""]
        if controls := controls_range(column):
            lines += [*controls, ""]
    return "\n".join(lines)


def runs_table(column: Column, wanted: Callable[[str], bool]) -> str:
    """Changes from `cond` of the runs that are wanted."""
    base = column.tables["cond"]
    lines = []
    for run, one in column.tables.items():
        if not wanted(run):
            continue
        price = [number(column.price[run][key]) for key in ("forwards", "passes")]
        if run == "cond":
            cells = [number(one[k].mean(), True) for k in COLUMNS]
        else:
            cells = [change(one, base, k) for k in COLUMNS]
        lines.append([run, str(len(one)), *cells, *price])
    return table(["run", "captions", *COLUMNS, "forwards", "passes"], lines)


def controls_range(column: Column) -> list[str]:
    """How far the control draws go, in sentences."""
    said = []
    for weak in ("zero", "auto"):
        for kind, key in (("weak", "amt_c_clean"), ("DG", "amt_c")):
            runs = [n for n in column.tables if n.startswith(f"control {weak} ") and n.endswith(f", {kind}")]
            if not runs:
                continue
            base = column.tables["cond"][key]
            moved = [float((column.tables[n][key] - base[: len(column.tables[n])]).mean()) for n in runs]
            own = f"{kind}, {weak}"
            mine = float((column.tables[own][key] - base)[: len(column.tables[runs[0]])].mean())
            said.append(
                f"- Other channels in place of those of {own}, {len(runs)} draws on {len(column.tables[runs[0]])} "
                f"captions: amt_c {number(min(moved), True)} to {number(max(moved), True)}; the massive ones "
                f"{number(mine, True)}."
            )
    return said


def seeds_page(columns: Columns, small: Sequence[Small], seeds: Path) -> str:
    """Small models of other seeds: what is kept of them, and their training logs."""
    lines = opening("seeds.md")
    lines += [across.section(small), "", growth.section(growth.logs(seeds, list(models(columns))), growth.FIGURE), ""]
    return "\n".join(lines)


COLUMNS = ("amt_c", "amt", "right", "low", "margin")
