"""The figures of a report: one column wide, lines labelled where they end, each drawn from plain numbers alone.

Colours are those of `style`, so that a page can replace them by its own in the dark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dg_tools.palette import READABLE
from dg_tools.plots.style import INK, MASSIVE, QUIET, STYLE, finish, label_ends, rank_channels, several, side_by_side

PAPER = "#ffffff"  # inside of an open mark
WIDTH = 7.0  # inches: one column of text
BARS = 384  # most bars that a column can show
HEAT = LinearSegmentedColormap.from_list("massive", ["#f4f1ee", "#e0a899", MASSIVE])
CLEAR: dict[Any, Any] = {  # on a page of any colour
    **STYLE,
    "axes.facecolor": "none",
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def quiet(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A function that draws in the style of reports."""

    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with plt.rc_context(CLEAR):
            return finish(draw(*args, **kwargs))

    return styled


def floats(values: Sequence[float | None]) -> np.ndarray:
    """Numbers, NaN where there is none."""
    return np.array([np.nan if v is None else v for v in values], float)


def sites_below(axis: Axes, sites: Sequence[str]) -> None:
    """The blocks' names under an axis, some of them where they are many."""
    every = -(-len(sites) // max(1, side_by_side(sites, 60)))
    axis.set_xticks(range(0, len(sites), every), list(sites)[::every])
    axis.set_xlim(-0.3, len(sites) - 0.7)


@quiet
def channels_figure(
    sites: Sequence[str],
    by_block: Mapping[str, Sequence[float | None]],
    median_by_block: Sequence[float | None],
    sigmas: Sequence[float],
    by_sigma: Mapping[str, Sequence[float | None]],
    median_by_sigma: Sequence[float | None],
    onset: Mapping[str, int],
    at: str,
) -> Figure:
    """Mean |x| over image tokens of the massive channels and of the median one: by block, and by noise level.

    Args:
        sites: blocks in order.
        by_block: a channel's number (as text) to its mean |x| at each block.
        median_by_block: of the median channel.
        sigmas: noise levels, 1 is noise.
        by_sigma, median_by_sigma: the same over noise levels, at one block.
        onset: a channel's number to the place in `sites` at which it is first massive; drawn as an open mark.
        at: the block of `by_sigma`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.6), sharey=True, layout="constrained", width_ratios=(1.4, 1))
    left, right = axes
    parts = ((left, np.arange(len(sites)), by_block, median_by_block), (right, sigmas, by_sigma, median_by_sigma))
    shades = several(len(by_block))
    own = dict(zip(by_block, shades, strict=False))
    for axis, x, lines, median in parts:
        axis.plot(x, floats(median), color=QUIET, lw=1.2)
        for values, colour in zip(lines.values(), shades, strict=False):
            axis.plot(x, floats(values), color=colour, lw=1.6)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.minorticks_off()
    for channel, first in onset.items():
        if channel in by_block:
            left.plot(first, floats(by_block[channel])[first], "o", color=own[channel], mfc=PAPER, ms=5)
    sites_below(left, sites)
    left.set_xlabel("block")
    left.set_ylabel("mean |x| over image tokens")
    left.set_title("By block")
    right.set_xlabel("noise level sigma (1 is noise)")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_title(f"By noise level, after block {at}")
    right.invert_xaxis()
    ends = [(floats(v)[-1], f"channel {c}", own.get(c, INK)) for c, v in by_sigma.items()]
    label_ends(right, [*ends, (floats(median_by_sigma)[-1], "median channel", QUIET)])
    return figure


@quiet
def surface_figure(hidden: np.ndarray, massive: Sequence[int], at: str) -> Figure:
    """|x| over token and channel at one block and step as a surface; massive channels as lines with their numbers.

    Args:
        hidden: (tokens, channels).
        massive: channels.
        at: where, in words.
    """
    size = np.abs(np.asarray(hidden, np.float32))
    tokens, channels = size.shape
    figure = plt.figure(figsize=(WIDTH, 3.9))
    axis: Any = figure.add_axes((0.08, 0.0, 0.84, 1.0), projection="3d")
    rows, columns = (np.unique(np.linspace(0, n, min(n, most), endpoint=False).astype(int))
                     for n, most in ((tokens, 64), (channels, 160)))  # fmt: skip
    pooled = np.maximum.reduceat(np.maximum.reduceat(size, rows, axis=0), columns, axis=1)  # no spike is lost
    x, y = np.meshgrid(columns, rows)
    axis.plot_surface(x, y, pooled, rcount=len(rows), ccount=len(columns), color="#aebfcf", lw=0, rasterized=True)
    for channel, colour in zip(massive, several(len(massive)), strict=False):
        axis.plot(np.full(tokens, channel), np.arange(tokens), size[:, channel], color=colour, lw=1.2)
        top, ink = size[:, channel].max() * 1.04, READABLE.get(colour, colour)
        axis.text(channel, tokens, top, str(channel), color=ink, ha="center")
    for side in (axis.xaxis, axis.yaxis, axis.zaxis):
        side.set_pane_color((0, 0, 0, 0))
        side.line.set_color(QUIET)
        side._axinfo["grid"].update(color=QUIET, linewidth=0.3)
        side.set_major_locator(MaxNLocator(4))
    axis.set(xlabel="channel", ylabel="image token", zlabel="|x|")
    axis.set_box_aspect((1.7, 1, 0.62), zoom=1.12)
    axis.view_init(elev=24, azim=-62)
    figure.text(0.0, 0.97, at, va="top")
    return figure


@quiet
def maps_figure(maps: Mapping[str, Sequence[Sequence[float]]], picture: Any = None) -> Figure:
    """Each massive channel over the picture's places, beside the picture; each map has its own scale, written under it.

    Args:
        maps: a channel's number (as text) to its |x|, (rows, columns) of image tokens.
        picture: (H, W, 3), or None.
    """
    panels = ([] if picture is None else [("", picture)]) + [(f"channel {c}", np.asarray(m)) for c, m in maps.items()]
    height, width = np.asarray(panels[0][1]).shape[:2]
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    side = min(WIDTH / 4, WIDTH / across)
    figure, axes = plt.subplots(
        down, across, figsize=(WIDTH, down * (side * height / width + 0.36)), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, values) in zip(axes.flat, panels, strict=False):
        if not name:
            axis.imshow(values)
            axis.set_title("the picture")
            continue
        low, high = float(values.min()), float(values.max())
        axis.imshow(values, cmap=HEAT, interpolation="nearest", vmin=min(0.0, low), extent=(0, width, height, 0))
        axis.set_title(f"{name}: {low:.3g} to {high:.3g}")
    return figure


@quiet
def gates_figure(gate: Sequence[float | None], massive: Sequence[int], at: str, part: str) -> Figure:
    """|AdaLN gate| of every channel at one block; massive channels are coloured and have their number and rank.

    Args:
        gate: by channel, as large as the stream is wide.
        massive: channels.
        at: the block. part: which of its gates.
    """
    values = np.abs(floats(gate))
    firsts = np.unique(np.linspace(0, len(values), min(BARS, len(values)), endpoint=False).astype(int))
    others = np.where(np.isin(np.arange(len(values)), massive), np.nan, values)
    tops = np.nan_to_num(np.fmax.reduceat(others, firsts))  # neighbours share a bar; no peak is lost
    figure, axis = plt.subplots(figsize=(WIDTH, 2.3), layout="constrained")
    edges = np.append(firsts, len(values))
    axis.stairs(tops, edges, color=QUIET, fill=True, lw=0)
    rank_channels(axis, values, massive, width=max(1.0, len(values) / BARS), middle=0.5)
    axis.set(xlim=(0, len(values)), xlabel="channel", ylabel=f"|gate| of {part}, block {at}")
    return figure


@quiet
def headroom_figure(
    sites: Sequence[str], largest: Mapping[str, Sequence[float | None]], limit: float, dtype: str
) -> Figure:
    """The largest |x| of each block by place, under the largest number of a dtype.

    Args:
        sites: blocks in order.
        largest: a place, such as `image stream`, to its largest |x| at each block; None where the place is not there.
        limit: the largest number of the dtype.
        dtype: its name.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    ends, x = [], np.arange(len(sites))
    styles = zip(largest.items(), ((MASSIVE, "-"), (INK, "-"), (QUIET, "-"), (QUIET, ":")), strict=False)
    for (place, values), (colour, dash) in styles:
        sizes = floats(values)
        there = np.flatnonzero(np.isfinite(sizes))
        axis.plot(x, sizes, dash, color=colour, lw=1.6)
        if len(there):
            ends.append((sizes[there[-1]], place, colour))
    axis.axhline(limit, color=INK, lw=0.8)
    axis.set_yscale("log")
    sites_below(axis, sites)
    axis.set(xlabel="block", ylabel="largest |x|")
    axis.yaxis.set_major_formatter("{x:,.10g}")
    axis.yaxis.minorticks_off()
    highest = max([limit, *(float(np.nanmax(floats(v))) for v in largest.values() if np.isfinite(floats(v)).any())])
    axis.set_ylim(top=highest * 2)
    label_ends(axis, [*ends, (limit, f"{dtype} ends at {limit:,.0f}", INK)])
    return figure
