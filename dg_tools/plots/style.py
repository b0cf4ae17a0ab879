"""What all figures share: colours, light axes, names at the ends of lines, wrapped captions, pictures from tables.

A figure has a sentence as its title, names its units, and names each line where it ends: there are no legends.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dg_tools.palette import INK, MASSIVE, POINT, QUIET, SERIES

__all__ = ["INK", "MASSIVE", "POINT", "QUIET", "SERIES", "STYLE", "finish", "from_tidy", "label_ends", "name_lines"]
__all__ += ["several", "side_by_side", "styled", "wrap"]

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.titlecolor": INK,
    "axes.prop_cycle": cycler(color=SERIES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.solid_capstyle": "round",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "dg_tools",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A function that draws in this style."""

    @wraps(draw)
    def in_style(*args: Any, **kwargs: Any) -> Figure:
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def finish(figure: Figure) -> Figure:
    """Close the figure, so that a notebook shows it once: as the value of its cell."""
    plt.close(figure)
    return figure


def wrap(text: str, width: int = 34) -> str:
    """Long captions over several lines."""
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""])


def several(count: int) -> tuple[str, ...]:
    """Colours for several of a kind; they begin again where there are more than the series has."""
    return SERIES * -(-max(count, 1) // len(SERIES))


def side_by_side(names: Sequence[str], characters: int) -> int:
    """How many of these tick labels fit beside each other, with gaps, in a line of `characters`."""
    return characters // (max(map(len, names)) + 2)


def from_tidy(table: Any, columns: Sequence[str] = ("r", "g", "b")) -> np.ndarray:
    """An array (y, x, columns) from a table with one row per place `y`, `x`."""
    ordered = table.sort_values(["y", "x"])
    return ordered[list(columns)].to_numpy().reshape(int(ordered["y"].max()) + 1, -1, len(columns))


def name_lines(axis: Axes, *, gap: float = 0.085, size: float = 8, more: Sequence[tuple[float, str, str]] = ()) -> None:
    """The name of each labelled line where it ends, in its colour, in place of a legend; after the limits are set.

    Args:
        axis: with lines that have labels.
        gap, size: as in `label_ends`.
        more: names of other things than lines, as in `label_ends`.
    """
    ends = list(more)
    for line in axis.get_lines():
        name, y = str(line.get_label()), np.asarray(line.get_ydata(), float)
        there = np.flatnonzero(np.isfinite(y))
        if not name.startswith("_") and len(there):
            ends.append((float(y[there[-1]]), name, to_hex(line.get_color())))
    label_ends(axis, ends, gap, size)


def label_ends(axis: Axes, ends: Sequence[tuple[float, str, str]], gap: float = 0.085, size: float = 9) -> None:
    """Names at the right of lines, moved apart where they would touch; after the limits are set.

    Args:
        axis: with the lines.
        ends: where each line ends in y, its name, its colour.
        gap: between two names, as a share of the axis' height.
        size: of the words, in points.
    """
    axis.get_ylim()  # which brings the scale up to date
    ends = [end for end in ends if np.isfinite(end[0])]
    if not ends:
        return
    places = axis.transAxes.inverted().transform(axis.transData.transform([(0, y) for y, _, _ in ends]))[:, 1]
    places = np.clip(places, 0, 1)  # of a line that leaves the axis
    order = np.argsort(places, kind="stable")
    wanted = places[order]
    for _ in range(200):  # two that touch move away from each other
        near = gap - np.diff(wanted)
        if not (near > 1e-6).any():
            break
        push = np.clip(near, 0, None) / 2
        wanted[:-1] -= push
        wanted[1:] += push
    for i, place in zip(order, wanted, strict=True):
        _, name, colour = ends[i]
        words: dict[str, Any] = {"color": colour, "va": "center", "fontsize": size}
        axis.annotate(name, (1, place), (6, 0), xycoords="axes fraction", textcoords="offset points", **words)
