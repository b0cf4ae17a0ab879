"""The evidence in one figure: detail over the dose, and what each guidance buys, for each model and the planted one."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dg_tools.metrics import bootstrap_interval
from dg_tools.plots.style import MASSIVE, POINT, QUIET, finish, headline, name_clouds, styled
from dg_tools.report import rules
from dg_tools.report.kept import Column
from evidence.kept import Columns

COLOURS = 64  # of a stored figure


@styled
def draw(columns: Columns) -> Figure:
    """Two rows: the dose curve; amt_c against right of every run, changes from `cond`; DG in red."""
    shown = [c for c in columns.values() if "rho 0" in c.tables]
    figure, axes = plt.subplots(2, max(len(shown), 1), figsize=(4.1 * max(len(shown), 1), 7), layout="constrained")
    for (top, bottom), column in zip(np.reshape(axes, (2, -1)).T, shown, strict=False):
        curve(top, column)
        bought(bottom, column)
    headline(figure, "Above: what the massive channels do to detail; below: what each guidance buys (DG in red)")
    for bottom, column in zip(np.reshape(axes, (2, -1))[1], shown, strict=False):
        bars = [path.vertices for bar in bottom.collections for path in bar.get_paths()]  # of one run: two ends
        between = np.linspace(0, 1, 12)[:, None]
        avoid = np.concatenate([low + between * (high - low) for low, high in bars])
        names = [(x, y, name, colour) for name, (x, y), colour in runs(column)]
        name_clouds(bottom, names, avoid=np.concatenate([avoid, *zero_lines(bottom, between)]))
    return finish(figure)


def zero_lines(axis: Axes, between: np.ndarray) -> list[np.ndarray]:
    """Places on the lines of no change."""
    across, up = (low + between * (high - low) for low, high in (axis.get_xlim(), axis.get_ylim()))
    return [np.hstack([across, 0 * across]), np.hstack([0 * up, up])]


def runs(column: Column) -> list[tuple[str, tuple[float, float], str]]:
    """Name, changes of amt_c and of right from `cond`, and colour of each run; of the gains the last is named."""
    base, made = column.tables["cond"], []
    for name, table in column.tables.items():
        if not name.startswith(("control", "weak", "rho", "CFG 1.5 and", "cond", "gain")):
            made.append((name, table, MASSIVE if name.startswith("DG") else POINT))
    last = f"gain {rules.GAINS[-1]:g}"
    made.append((f"gain {rules.GAINS[0]:g} to {rules.GAINS[-1]:g}", column.tables[last], POINT))
    changes = [[(t[key] - base[key]).mean() for key in ("amt_c", "right")] for _, t, _ in made]
    return [(name, (x, y), colour) for (name, _, colour), (x, y) in zip(made, changes, strict=True)]


def curve(axis: Axes, column: Column) -> None:
    """amt_c against clean over rho, with its interval."""
    points = []
    for rho in rules.RHOS:
        table = column.tables["cond" if rho == 1 else f"rho {rho:g}"]
        points.append(bootstrap_interval(table["amt_c_clean"]))
    middle, low, high = np.array(points).T
    axis.axhline(0, color=QUIET, lw=0.8)
    axis.errorbar(rules.RHOS, middle, [middle - low, high - middle], fmt="o-", color=MASSIVE, capsize=3)
    axis.axvline(1, color=QUIET, lw=0.8, ls=":")
    axis.set_title(column.name, fontsize=10)
    axis.set_xlabel("rho: the massive channels times this (1: clean)", fontsize=8)
    axis.set_ylabel("detail against clean, doublings at equal contrast", fontsize=8)


def bought(axis: Axes, column: Column) -> None:
    """Change of amt_c against change of right, one mark per run."""
    base = column.tables["cond"]
    for name, table in column.tables.items():
        if name.startswith(("control", "weak", "rho", "CFG 1.5 and", "cond")):
            continue
        amount = (table["amt_c"] - base["amt_c"]).mean()
        low, high = bootstrap_interval(table["right"] - base["right"])[1:]
        right = (table["right"] - base["right"]).mean()
        colour = MASSIVE if name.startswith("DG") else POINT
        axis.errorbar(amount, right, [[right - low], [high - right]], fmt="o", color=colour, ms=4, lw=0.8)
    gains = [column.tables[f"gain {gain:g}"] for gain in rules.GAINS]
    points = [((t["amt_c"] - base["amt_c"]).mean(), (t["right"] - base["right"]).mean()) for t in gains]
    axis.plot(*zip(*points, strict=True), color=POINT, lw=0.8)
    axis.axhline(0, color=QUIET, lw=0.8)
    axis.axvline(0, color=QUIET, lw=0.8)
    axis.set_xlabel("more detail than cond, doublings at equal contrast", fontsize=8)
    axis.set_ylabel("right detail: change of correlation", fontsize=8)
    axis.margins(x=0.16)  # room for names


def save(figure: Figure, path: Path, dpi: int = 90) -> None:
    """A small PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=dpi)
    with Image.open(partial) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(partial, optimize=True)
    partial.replace(path)
