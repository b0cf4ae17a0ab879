"""Lack of detail, and gain: what a scaled massive channel does to a prediction, by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, QUIET, finish, headline, name_lines, of_doses, styled

THRESHOLD = 0.15  # of the score


@styled
def two_faces(scan: Any, *, names: Sequence[str] | None = None) -> Figure:
    """Two panels per model: the detail that a weak model lacks, its gain not counted, and its gain g; by block, with
    one line per rho.

    Args:
        scan: the table of `auto.scan_blocks`, or a profile that `auto` made; several in a mapping by name, a row of
            panels each.
        names: of the rows, where there are several.

    Filled points: settings that count as a weak model that lacks detail. Bars: 95% intervals over pictures.
    """
    several = isinstance(scan, Mapping) and "scan" not in scan
    tables = {k: table_of(v) for k, v in scan.items()} if several else {"": table_of(scan)}
    count = len(tables)
    figure, axes = plt.subplots(
        count, 2, figsize=(9.5, 0.6 + 2.9 * count), squeeze=False, layout="constrained", sharey="col"
    )
    for row, (name, table) in enumerate(tables.items()):
        label = names[row] if names else name
        left, right = axes[row]
        scores(left, table)
        gains(right, table)
        left.set_title(f"{label}: detail lacking beyond gain".lstrip(": "), fontsize=9)
        right.set_title(f"{label}: gain g of the weak prediction".lstrip(": "), fontsize=9)
        for axis in (left, right):
            axis.set_xlabel("block after which the massive channels are multiplied by rho", fontsize=8)
            axis.xaxis.get_major_locator().set_params(integer=True)
        name_lines(right, gap=0.1)
    every = pd.concat(list(tables.values()))
    count = int(every["eligible"].astype(bool).sum())
    headline(figure, f"{count} of {len(every)} settings make a weak model that lacks detail (filled)")
    return finish(figure)


def table_of(scan: Any) -> pd.DataFrame:
    """The rows of a scan: a table, or a profile's."""
    return pd.DataFrame(scan["scan"]) if isinstance(scan, Mapping) else pd.DataFrame(scan)


def scores(axis: Axes, table: pd.DataFrame) -> None:
    """Score and its interval by block."""
    axis.axhline(0, color=INK, lw=0.8)
    axis.axhline(THRESHOLD, color=QUIET, lw=0.8, ls="--")
    colours = of_doses(table["rho"])
    for rho, part in table.groupby("rho"):
        colour = colours[rho]
        axis.plot(part["block"], part["score"], "-", color=colour, lw=1.2, label=f"rho {rho:g}")
        axis.vlines(part["block"], part["score_low"], part["score_high"], color=colour, lw=1, alpha=0.6)
        faces = [colour if e else "white" for e in part["eligible"]]
        axis.scatter(part["block"], part["score"], c=faces, edgecolors=colour, s=22, zorder=3)
    axis.set_ylabel("score (doublings)", fontsize=8)
    name_lines(axis, gap=0.1, more=[(THRESHOLD, "needed\n(lower end)", QUIET)])


def gains(axis: Axes, table: pd.DataFrame) -> None:
    """G by block; 1 is the model's own prediction."""
    axis.axhline(1, color=INK, lw=0.8)
    colours = of_doses(table["rho"])
    for rho, part in table.groupby("rho"):
        colour = colours[rho]
        axis.plot(part["block"], part["gain"], "o-", color=colour, lw=1.2, ms=4, label=f"rho {rho:g}")
    axis.set_ylabel("gain g = <c, d> / <c, c>", fontsize=8)
