"""What sets a massive channel's size: magnitude by noise level, variance by cause, gates, swaps of modulation."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, QUIET, finish


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
    figure.suptitle(
        f"Channels {', '.join(map(str, channels))} after block {block}: {result.primary.status}", fontsize=10
    )
    return finish(figure)


def magnitude(axis: Axes, table: Any, channels: list[int], block: int) -> None:
    """Mean |x| over tokens by sigma; one thin line per prompt."""
    for i, channel in enumerate(channels):
        rows = table[table["channel"] == channel]
        shade = 1.0 - 0.6 * i / max(1, len(channels))
        for _, one in rows.groupby("prompt"):
            line = one.groupby("sigma")["size"].mean()
            axis.plot(line.index, line, color=MASSIVE, lw=0.5, alpha=0.3 * shade)
        mean = rows.groupby("sigma")["size"].mean()
        axis.plot(mean.index, mean, "o-", ms=3, color=MASSIVE, alpha=shade, label=f"channel {channel}")
    median = table.groupby("sigma")["median_channel"].mean()
    axis.plot(median.index, median, "s-", ms=3, color=QUIET, label="median channel")
    axis.invert_xaxis()
    axis.set(xlabel="sigma (1 = noise, 0 = picture)", ylabel="mean |x| over tokens", yscale="log")
    axis.set_title(f"magnitude by noise level after block {block}", fontsize=9)
    axis.legend(fontsize=7, frameon=False)


def shares(axis: Axes, table: Any) -> None:
    """Variance of log2(size / median channel's) by what it goes with; controls as their mean."""
    parts = ["timestep", "prompt", "seed", "rest"]
    mean = table.groupby("kind")[parts].mean().loc[["massive", "control"]]
    left = np.zeros(2)
    for part, colour in zip(parts, (INK, MASSIVE, "#e0a458", QUIET), strict=True):
        axis.barh([1, 0], mean[part], left=left, color=colour, label=part)
        left += mean[part].to_numpy()
    axis.set_yticks([1, 0], ["massive\nchannels", "controls\n(mean)"], fontsize=8)
    axis.set(xlabel="share of variance of the relative size", xlim=(0, 1))
    axis.set_title("what the size goes with", fontsize=9)
    axis.legend(fontsize=7, ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22))


def gates(axis: Axes, table: Any, channels: list[int], block: int) -> None:
    """Mean |gate| by channel, the largest part of the block's gates in front, massive channels marked."""
    for i, (part, rows) in enumerate(table.groupby("part", sort=False)):
        rows = rows.sort_values("channel")
        axis.plot(rows["channel"], rows["gate"], lw=0.8, color=(QUIET, INK, "#e0a458")[i % 3], label=str(part))
        marked = rows[rows["channel"].isin(channels)]
        axis.plot(marked["channel"], marked["gate"], "v", color=MASSIVE, ms=5)
    for channel in channels:
        axis.axvline(channel, color=MASSIVE, lw=0.5, alpha=0.5)
    axis.set(xlabel="channel (massive ones marked)", ylabel="mean |gate|")
    axis.set_title(f"AdaLN gates of block {block}", fontsize=9)
    axis.legend(fontsize=7, frameon=False)


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
                label=None if x else words,
            )
            axis.plot([x + shift - 0.12, x + shift + 0.12], [values.mean()] * 2, color=INK, lw=1)
    axis.set_xticks(range(len(places)), [f"{swap}\n{reach}" for swap, reach in places], fontsize=7)
    axis.set(ylabel="|change| of log2 relative size", yscale="log")
    axis.set_title("given another timestep's or prompt's modulation", fontsize=9)
    axis.legend(fontsize=7, frameon=False)
