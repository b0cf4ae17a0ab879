"""What all figures share: colours, light axes, names at the ends of lines, wrapped captions, pictures from tables.

A figure has a sentence as its title, names its units, and names each line where it ends: there are no legends.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dg_tools.palette import INK, MASSIVE, POINT, QUIET, READABLE, SERIES

__all__ = ["INK", "MASSIVE", "POINT", "QUIET", "SERIES", "STYLE", "finish", "from_tidy", "label_ends", "name_lines"]
__all__ += ["headline", "name_clouds", "of_doses", "rank_channels", "several", "side_by_side", "styled", "wrap"]

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "figure.titlesize": 10,
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


def headline(figure: Any, sentence: str, *, size: float = 10) -> None:
    """A sentence over a whole figure, on as many lines as its width asks for."""
    width = figure.get_figure(root=True).get_figwidth()
    figure.suptitle(wrap(sentence, int(width * 130 / size)), fontsize=size, color=INK)


def several(count: int) -> tuple[str, ...]:
    """Colours for several things of one kind; they repeat where there are more things than colours."""
    return SERIES * -(-max(count, 1) // len(SERIES))


def of_doses(rhos: Iterable[float]) -> dict[float, str]:
    """A colour for each dose rho: cold below 1, warm above 1, and stronger the farther from 1."""
    ordered = sorted(set(rhos), key=lambda rho: -abs(rho - 1))
    cold, warm = [r for r in ordered if r < 1], [r for r in ordered if r >= 1]
    colours = {r: c for r, c in zip(cold, (POINT, SERIES[4], SERIES[3]), strict=False)}
    colours |= {r: c for r, c in zip(warm, (MASSIVE, SERIES[2], SERIES[5]), strict=False)}
    return {rho: colours.get(rho, INK) for rho in ordered}


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


def rank_channels(
    axis: Axes, values: np.ndarray, channels: Sequence[int], *, width: float, middle: float = 0.0
) -> dict[int, int]:
    """Draw bars of these channels in their colours, each with its rank at the end of a line above it; returns the ranks
    by channel.

    Args:
        axis: with the others' bars.
        values: by channel.
        channels: to mark.
        width: of a bar, in channels.
        middle: of a channel's bar beyond its number.
    """
    ranks = {channel: 1 + int((values > values[channel]).sum()) for channel in sorted(channels)}
    shades = dict(zip(channels, several(len(channels)), strict=False))  # in the order given, as in other figures
    for i, (channel, colour) in enumerate((channel, shades[channel]) for channel in ranks):
        place, height = channel + middle, 0.98 - 0.08 * i  # of the axis; neighbours do not stand on each other
        axis.bar(place, values[channel], width=width, color=colour, lw=0)
        line = {"arrowstyle": "-", "color": colour, "lw": 0.6}
        axis.annotate("", (place, values[channel]), (place, height), "data", ("data", "axes fraction"), line)
        side, apart = ("right", -3) if channel > 0.8 * len(values) else ("left", 3)
        words: dict[str, Any] = {"textcoords": "offset points", "ha": side, "va": "top", "fontsize": 8, "color": colour}
        axis.annotate(
            f"{channel}, rank {ranks[channel]}", (place, height), (apart, 0), ("data", "axes fraction"), **words
        )
    axis.set_ylim(0, (float(np.nanmax(values)) or 1.0) / (0.94 - 0.08 * min(len(ranks), 6)))
    return ranks


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
    if wanted[-1] - wanted[0] <= 1:  # no name below or above the axis where all have room beside it
        wanted += max(0.0, -wanted[0]) + min(0.0, 1 - wanted[-1])
    for i, place in zip(order, wanted, strict=True):
        _, name, colour = ends[i]
        words: dict[str, Any] = {"color": READABLE.get(colour, colour), "va": "center", "fontsize": size}
        axis.annotate(name, (1, place), (6, 0), xycoords="axes fraction", textcoords="offset points", **words)


SIDES = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))  # of a point, the best first


def name_clouds(axis: Axes, clouds: Sequence[tuple[Any, Any, str, str]], size: float = 7, *, avoid: Any = ()) -> None:
    """Write the name of each cloud of points beside one of its points, where it covers least; call this last, after the
    limits are set.

    Args:
        axis: with the points.
        clouds: x and y of the points, the cloud's name, its colour.
        size: of the words, in points.
        avoid: (n, 2), x and y of what else they should not cover.
    """
    figure: Any = axis.get_figure(root=True)
    figure.draw_without_rendering()  # which sets the size of the axes
    frame = axis.get_window_extent()
    places = [axis.transData.transform(np.column_stack(np.broadcast_arrays(x, y))) for x, y, *_ in clouds]
    points = np.concatenate([*places, axis.transData.transform(np.reshape(avoid, (-1, 2)))])
    boxes: list[np.ndarray] = []  # left, bottom, right, top of the names so far, in pixels
    for (x, y, name, colour), own in zip(clouds, places, strict=True):
        words: dict[str, Any] = {"textcoords": "offset points", "fontsize": size, "va": "bottom"}
        words["color"] = READABLE.get(colour, colour)
        data = np.column_stack(np.broadcast_arrays(x, y))
        text = axis.annotate(name, data[0], (0, 0), **words)  # outside of the limits it would have no size
        shape = np.array(text.get_window_extent().size)
        best, least = (0, own[0]), np.inf
        for (i, point), side in itertools.product(enumerate(own), SIDES):
            corner = point + (np.array(side) - 1) / 2 * shape + 8 * np.array(side)
            box = np.concatenate([corner, corner + shape])
            cost = np.all((points > box[:2] - 3) & (points < box[2:] + 3), axis=1).sum()
            cost += 5 * sum(np.all(box[:2] < b[2:]) and np.all(b[:2] < box[2:]) for b in boxes)
            cost += 20 * (np.any(box[:2] < frame.min) or np.any(box[2:] > frame.max))
            if cost < least:
                best, least = (i, box), cost
        i, box = best
        boxes.append(box)
        text.xy = tuple(data[i])
        text.set_position(tuple((box[:2] - own[i]) * 72 / figure.dpi))
