"""The figures of a report on doses: the dose curve with its controls, and where a weak model lacks detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.report import PAPER, WIDTH, floats, quiet
from dg_tools.plots.style import INK, MASSIVE, QUIET, label_ends, of_doses

ROLES = {"massive": (MASSIVE, 2.0, "o-"), "samples": (MASSIVE, 1.4, "s--")}
ROLES |= {"control": (QUIET, 1.2, "o-"), "other": (INK, 1.0, ":")}


@quiet
def dose_curve_figure(amount: Sequence[Mapping[str, Any]], low: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """The amount of detail over the dose rho, and under it what is left of the low band.

    Args:
        amount: curves: `name` (where they end), `role` (massive, samples, control, other), `rho`, `middle`, and perhaps
            `low` and `high` (95% interval, drawn as a band), in doublings against the clean picture.
        low: curves of the low band's correlation with the clean picture.
    """
    rows = 2 if low else 1
    figure, axes = plt.subplots(
        rows,
        1,
        figsize=(WIDTH, 2.9 + 1.2 * (rows - 1)),
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=(2.2, 1)[:rows],
    )
    for axis, curves in zip(axes[:, 0], (amount, low), strict=False):
        ends = []
        for curve in curves:
            colour, thick, style = ROLES[curve["role"]]
            rho, middle = floats(curve["rho"]), floats(curve["middle"])
            axis.plot(rho, middle, style, color=colour, lw=thick, ms=3)
            if curve.get("low") is not None and curve.get("high") is not None:
                axis.fill_between(rho, floats(curve["low"]), floats(curve["high"]), color=colour, alpha=0.15, lw=0)
            there = np.flatnonzero(np.isfinite(middle))
            if len(there):
                ends.append((float(middle[there[-1]]), str(curve["name"]), colour))
        axis.axvline(1, color=QUIET, lw=0.8, ls=(0, (2, 3)))
        label_ends(axis, ends, gap=0.085 if axis is axes[0, 0] else 0.17)
    axes[0, 0].axhline(0, color=QUIET, lw=0.8)
    axes[0, 0].set_ylabel("detail, doublings\nagainst clean")
    axes[0, 0].annotate("clean", (1, 1), (3, -1), xycoords=("data", "axes fraction"), textcoords="offset points",
                        color=QUIET, va="top")  # fmt: skip
    if low:
        axes[1, 0].set_ylabel("low band kept,\ncorrelation")
    axes[-1, 0].set_xlabel("dose rho: the massive channels times this")
    return figure


@quiet
def choice_figure(scan: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None, asked: float) -> Figure:
    """The detail that each weak model lacks in one step, not counting its gain, by block and dose.

    Args:
        scan: of a profile: `block`, `rho`, `score`, `score_low`, `score_high`, `eligible`.
        chosen: `block` and `rho` of the choice; None where none was made.
        asked: the least score of a weak model that lacks detail.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.8), layout="constrained")
    colours = of_doses(row["rho"] for row in scan)
    rhos = sorted(colours)
    blocks = sorted({row["block"] for row in scan})
    step = min(np.diff(blocks), default=1)
    ends = []
    for i, rho in enumerate(rhos):
        rows = sorted((row for row in scan if row["rho"] == rho), key=lambda row: row["block"])
        shift = step * 0.14 * (i - (len(rhos) - 1) / 2)
        x = np.array([row["block"] for row in rows]) + shift
        score, low, high = (floats([row[name] for row in rows]) for name in ("score", "score_low", "score_high"))
        colour = colours[rho]
        axis.plot(x, score, "-", color=colour, lw=0.8)
        axis.vlines(x, low, high, color=colour, lw=1.2)
        for at, row in zip(x, rows, strict=True):
            fill = colour if row["eligible"] else PAPER
            axis.plot(at, row["score"], "o", color=colour, mfc=fill, ms=4.5)
            if chosen is not None and (row["block"], rho) == (chosen["block"], chosen["rho"]):
                axis.plot(at, row["score"], "o", color=MASSIVE, mfc="none", ms=11, mew=1.4)
                axis.annotate("chosen", (at, row["score"]), (9, 6), textcoords="offset points", color=MASSIVE)
        ends.append((float(score[-1]), f"rho {rho:g}", colour))
    axis.axhline(0, color=QUIET, lw=0.8)
    axis.axhline(asked, color=QUIET, lw=0.8, ls=(0, (2, 3)))
    axis.set_xticks(blocks)
    axis.set(xlabel="block after which the channels are scaled", ylabel="detail that it lacks,\ndoublings beyond gain")
    label_ends(axis, [*ends, (asked, f"{asked:g} is required", QUIET)])
    return figure
