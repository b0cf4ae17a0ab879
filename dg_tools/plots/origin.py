"""Who writes a massive channel: writes by block, what its gates cause, its size once zeroed; and who reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, QUIET, SERIES, finish, headline, label_ends, name_lines, several, styled

COLOURS = {  # of SERIES, by who writes
    "patch": SERIES[4],
    "position": QUIET,
    "attention": SERIES[3],
    "attention 2": SERIES[1],
    "MLP": MASSIVE,
    "joint": SERIES[2],
}

READERS = {  # of SERIES, by who reads
    "q": SERIES[1],
    "k": SERIES[2],
    "v": SERIES[4],
    "MLP": MASSIVE,
    "q 2": SERIES[3],
    "k 2": SERIES[5],
    "v 2": INK,
}


@styled
def origin_figure(result: Any) -> Figure:
    """From an `origin` result: for each channel its signed writes by block, stacked by writer (mean over runs); the
    share of its final size that is gone when the gates are zeroed; its size after each block once it was zeroed; and
    how strongly each block's weights read it.
    """
    channels = result.settings["channels"][:4]
    figure = plt.figure(figsize=(9.5, 2.3 * -(-len(channels) // 2) + 3), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[-(-len(channels) // 2), 1.2])
    top, bottom = parts
    rows = -(-len(channels) // 2)
    panels = top.subplots(rows, min(2, len(channels)), squeeze=False)
    for axis in panels.flat[len(channels) :]:
        axis.axis("off")
    for axis, channel in zip(panels.flat, channels, strict=False):
        writes(axis, result.table[result.table["channel"] == channel], channel)
    panels = bottom.subplots(1, 2 + ("readers" in result.tables))
    removed(panels[0], result.tables["gates"])
    healing(panels[1], result.tables["healing"], result.settings["block"])
    if "readers" in result.tables:  # results saved before readers were measured have none
        readers(panels[2], result.tables["readers"])
    headline(figure, result.primary.headline())
    return finish(figure)


def writes(axis: Axes, table: Any, channel: int) -> None:
    """Signed token mean of each write, stacked up and down from zero."""
    blocks = sorted(table["block"].unique())
    above, below = np.zeros(len(blocks)), np.zeros(len(blocks))
    mean = table.groupby(["writer", "block"])["write"].mean().unstack("block").reindex(columns=blocks).fillna(0)
    for writer in [w for w in COLOURS if w in mean.index]:
        value = mean.loc[writer].to_numpy()
        axis.bar(blocks, value, bottom=np.where(value >= 0, above, below), color=COLOURS[writer], label=writer)
        above, below = above + np.maximum(value, 0), below + np.minimum(value, 0)
    low, high = float(below.min()), float(above.max())
    room = 0.12 * ((high - low) or 1.0)  # no bar is cut off
    axis.set_ylim(low - room * (low < 0), high + room * (high > 0))
    last = mean[blocks].to_numpy()
    ends = [
        (0.5 * (high + low), w, COLOURS[w])
        for w, row in zip(mean.index, last, strict=True)
        if w in COLOURS and np.any(row)
    ]
    label_ends(axis, ends, 0.12, 8)
    axis.axhline(0, color=INK, lw=0.6)
    axis.set_xticks(blocks, ["in" if b < 0 else str(b) for b in blocks], fontsize=7)
    axis.set(xlabel="block (in: before the first)", ylabel="write, token mean")
    axis.set_title(f"Channel {channel}: who writes it (at the end {table['final'].mean():.3g})", fontsize=9)


def removed(axis: Axes, table: Any) -> None:
    """Share of the final size gone without the gates: one dot per draw."""
    kinds: Sequence[tuple[str, str, str]] = (
        ("own block", "massive channels,\ntheir own block", MASSIVE),
        ("other blocks", "massive channels,\nother blocks", INK),
        ("other channels", "other channels,\ntheir own block", QUIET),
    )
    for x, (kind, _, colour) in enumerate(kinds):
        values = np.sort(table[table["kind"] == kind]["removed"].to_numpy())
        axis.plot(x + np.linspace(-0.15, 0.15, len(values)) * (len(values) > 1), values, "o", ms=4, color=colour)
    axis.axhline(0, color=QUIET, lw=0.6)
    axis.set_xticks(range(3), [words for _, words, _ in kinds], fontsize=7)
    axis.set(ylabel="share of the final size gone")
    axis.set_title("Gates set to zero", fontsize=9)


def healing(axis: Axes, table: Any, block: int) -> None:
    """Size relative to the clean run's after each block: massive channels in red, control draws in grey."""
    for i, (_, one) in enumerate(table[table["kind"] == "other zeroed"].groupby("draw")):
        axis.plot(one["block"], one["relative"], color=QUIET, lw=0.7, alpha=0.6, label=None if i else "other channels")
    zeroed = list(table[table["kind"] == "zeroed"].groupby("channel", sort=False))
    for (name, one), colour in zip(zeroed, several(len(zeroed)), strict=False):
        axis.plot(one["block"], one["relative"], "o-", ms=3, color=colour, label=f"channel {name}")
    axis.axhline(1, color=INK, lw=0.6, ls=":")
    axis.set(xlabel="block", ylabel="size relative to clean")
    axis.set_title(f"Zeroed after block {block}: does it come back?", fontsize=9)
    name_lines(axis)


def readers(axis: Axes, table: Any) -> None:
    """How strongly each block reads the channels, mean over them: one line for each reader; the controls in grey."""
    mean = table.groupby(["reader", "block"])[["read", "others"]].mean()
    for reader, colour in READERS.items():
        if reader in mean.index:
            rows = mean.loc[reader]
            axis.plot(rows.index, rows["read"], "o-", ms=3, color=colour, label=reader)
            axis.plot(rows.index, rows["others"], color=QUIET, lw=0.7)
    axis.axhline(1, color=INK, lw=0.6, ls=":")
    axis.set(xlabel="block", ylabel="weights x |1 + scale|,\nover the median channel's")
    axis.set_title("Who reads it (grey: other channels)", fontsize=9)
    name_lines(axis)
