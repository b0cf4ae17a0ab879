"""What sets a massive channel's size: magnitude by noise level, variance by cause, gates, swaps of modulation."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, QUIET, SERIES, finish, headline, name_lines, several, styled


@styled
def timestep_figure(result: Any) -> Figure:
    """Four panels from a `timestep` result: mean |x| against sigma (prompts as thin lines) beside the median channel;
    shares of variance of the relative size; gates by channel; how much each swap of modulation changes the size.
    """
    channels, block = result.settings["channels"], result.settings["block"]
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.2), layout="constrained")
    magnitude(axes[0, 0], result.table[result.table["block"] == block], channels, block)
    shares(axes[0, 1], result.tables["variance"])
    gates(axes[1, 0], result.tables["gates"], channels, block)
    changes(axes[1, 1], result.tables["swaps"])
    headline(figure, result.primary.headline())
    return finish(figure)


def magnitude(axis: Axes, table: Any, channels: list[int], block: int) -> None:
    """Mean |x| over tokens by sigma; one thin line per prompt."""
    for channel, colour in zip(channels, several(len(channels)), strict=False):
        rows = table[table["channel"] == channel]
        for _, one in rows.groupby("prompt"):
            line = one.groupby("sigma")["size"].mean()
            axis.plot(line.index, line, color=colour, lw=0.5, alpha=0.3)
        mean = rows.groupby("sigma")["size"].mean()
        axis.plot(mean.index, mean, "o-", ms=3, color=colour, label=f"channel {channel}")
    median = table.groupby("sigma")["median_channel"].mean()
    axis.plot(median.index, median, "s-", ms=3, color=QUIET, label="median channel")
    axis.invert_xaxis()
    axis.set(xlabel="sigma (1 = noise, 0 = picture)", ylabel="mean |x| over tokens", yscale="log")
    axis.set_title(f"Magnitude by noise level after block {block}", fontsize=9)
    name_lines(axis, gap=0.1)


def shares(axis: Axes, table: Any) -> None:
    """Variance of log2(size / median channel's) by what it goes with; controls as their mean."""
    parts = ["timestep", "prompt", "seed", "rest"]
    mean = table.groupby("kind")[parts].mean().loc[["massive", "control"]]
    left = np.zeros(2)
    for part, colour in zip(parts, (SERIES[3], MASSIVE, SERIES[2], QUIET), strict=True):
        axis.barh([1, 0], mean[part], left=left, color=colour)
        for y, at, share in zip((1, 0), left, mean[part], strict=True):
            if share > 0.08:  # room for its name
                axis.text(
                    at + share / 2, y, f"{part}\n{share:.0%}", color="white", ha="center", va="center", fontsize=8
                )
        left += mean[part].to_numpy()
    axis.set_yticks([1, 0], ["massive\nchannels", "controls\n(mean)"], fontsize=8)
    axis.set(xlabel="share of variance of the relative size", xlim=(0, 1))
    axis.set_title(f"What the size goes with: {', '.join(parts)}", fontsize=9)


def gates(axis: Axes, table: Any, channels: list[int], block: int) -> None:
    """Mean |gate| by channel, the largest part of the block's gates in front, massive channels marked."""
    for i, (part, rows) in enumerate(table.groupby("part", sort=False)):
        rows = rows.sort_values("channel")
        axis.plot(rows["channel"], rows["gate"], lw=0.8, color=(QUIET, SERIES[3], SERIES[2])[i % 3], label=str(part))
        for channel, colour in zip(channels, several(len(channels)), strict=False):
            marked = rows[rows["channel"] == channel]
            axis.plot(marked["channel"], marked["gate"], "v", color=colour, ms=5)
    for i, (channel, colour) in enumerate(zip(channels, several(len(channels)), strict=False)):
        axis.axvline(channel, color=colour, lw=0.5, alpha=0.5)
        axis.annotate(str(channel), (channel, 1), (2, -9 - 9 * i), xycoords=("data", "axes fraction"), color=colour,
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axis.set(xlabel="channel (massive ones marked)", ylabel="mean |gate|")
    axis.set_title(f"AdaLN gates of block {block}", fontsize=9)
    name_lines(axis, gap=0.1)


def changes(axis: Axes, table: Any) -> None:
    """|Change| of the relative size under each swap: prompts in red, control draws in grey."""
    places = list(dict.fromkeys(zip(table["swap"], table["reach"], strict=True)))
    for x, (swap, reach) in enumerate(places):
        rows = table[(table["swap"] == swap) & (table["reach"] == reach)]
        for kind, words, colour, shift in (
            ("massive", "massive channels, by prompt", MASSIVE, -0.15),
            ("control", "control draws", QUIET, 0.15),
        ):
            values = np.sort(rows[rows["kind"] == kind]["change"].to_numpy())
            axis.plot(
                x + shift + np.linspace(-0.1, 0.1, len(values)),
                values,
                "o",
                ms=3,
                color=colour,
                alpha=0.7,
            )
            if not x:
                axis.annotate(words, (x + shift, values.max()), (0, 5 if shift < 0 else 15), color=colour, fontsize=8,
                              textcoords="offset points")  # fmt: skip
            axis.plot([x + shift - 0.12, x + shift + 0.12], [values.mean()] * 2, color=INK, lw=1)
    axis.set_xticks(range(len(places)), [f"{swap}\n{reach}" for swap, reach in places], fontsize=7)
    axis.set(ylabel="|change| of log2 relative size", yscale="log")
    axis.set_title("Given another timestep's or prompt's modulation", fontsize=9)
    axis.margins(y=0.2)
