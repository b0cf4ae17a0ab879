"""Hidden states: the surface over token and channel, magnitude by block and by noise level, gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.style import (
    INK,
    MASSIVE,
    QUIET,
    SERIES,
    finish,
    name_lines,
    rank_channels,
    several,
    side_by_side,
    styled,
)
from dg_tools.plots.surface import graph_objects


@styled
def token_channel_surface(hidden: np.ndarray, massive: Sequence[int] = (), *, title: str = "") -> Figure:
    """|activation| over token x channel (one block, one step) as a 3-D surface; each massive channel in its colour.

    Args:
        hidden: (tokens, channels).
        massive: channels to mark.
    """
    figure = plt.figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.add_subplot(projection="3d")
    draw_surface(axis, hidden, massive)
    axis.set_title(title or largest_words(hidden, massive), fontsize=10)
    return finish(figure)


def largest_words(hidden: np.ndarray, massive: Sequence[int] = ()) -> str:
    """A sentence: the channel with the largest |x|, of the massive ones or of all, and the median |x|."""
    size = np.abs(np.asarray(hidden, np.float32))
    most = size.max(0)
    top = max(massive or range(len(most)), key=lambda channel: most[channel])
    return f"Channel {top} reaches |x| = {most[top]:.3g}, the median is {np.median(size):.2g}"


def draw_surface(axis: Any, hidden: np.ndarray, massive: Sequence[int] = ()) -> None:
    """The surface of `token_channel_surface` on 3-D axes."""
    size = np.abs(np.asarray(hidden, np.float32))
    tokens, channels = size.shape
    x, y = np.meshgrid(np.arange(channels), np.arange(tokens))
    axis.plot_surface(x, y, size, rcount=min(tokens, 64), ccount=min(channels, 192), color="#aebfcf", linewidth=0)
    heights = number_heights(size.max(0), massive)
    for channel, height, colour in zip(massive, heights, several(len(massive)), strict=False):
        axis.plot(np.full(tokens, channel), np.arange(tokens), size[:, channel], color=colour, linewidth=1.6)
        axis.text(channel, tokens, height, str(channel), color=colour, fontsize=9, ha="center")
    for side in (axis.xaxis, axis.yaxis, axis.zaxis):
        side.set_pane_color((1, 1, 1, 0))
        side.line.set_color(QUIET)
    axis.set(xlabel="channel", ylabel="image token", zlabel="|activation|")
    axis.view_init(elev=28, azim=-60)


def number_heights(largest: np.ndarray, massive: Sequence[int]) -> list[float]:
    """Height of each massive channel's number over its wall; numbers of neighbouring channels do not overlap.

    Args:
        largest: (channels,) largest |x| of each channel.
        massive: the channels, in the order of the heights.
    """
    apart, line = len(largest) / 15, max((float(largest[channel]) for channel in massive), default=0.0) / 10
    heights: list[float] = []
    for channel in massive:
        height = float(largest[channel]) * 1.05
        while any(
            abs(channel - other) < apart and abs(height - taken) < line * 0.99
            for other, taken in zip(massive, heights, strict=False)
        ):
            height += line
        heights.append(height)
    return heights


def token_channel_surface_plotly(hidden: np.ndarray, massive: Sequence[int] = (), *, title: str = "") -> Any:
    """The same surface as a plotly figure that can be turned."""
    go = graph_objects()
    size = np.abs(np.asarray(hidden, np.float32))
    figure = go.Figure(go.Surface(z=size, colorscale="Blues", showscale=False))
    for channel, colour in zip(massive, several(len(massive)), strict=False):
        tokens = np.arange(len(size))
        line = {"color": colour, "width": 6}
        figure.add_scatter3d(
            x=np.full(len(size), channel),
            y=tokens,
            z=size[:, channel],
            mode="lines+text",
            line=line,
            name=f"channel {channel}",
            text=[str(channel)] + [""] * (len(size) - 1),
            textfont={"color": colour},
        )
    axes = {"xaxis_title": "channel", "yaxis_title": "image token", "zaxis_title": "|activation|"}
    room = {"l": 10, "r": 10, "t": 50, "b": 30}  # names of axes are not cut off
    words = {"title": title or largest_words(hidden, massive), "showlegend": False}
    figure.update_layout(scene=axes, width=760, height=520, margin=room, template="plotly_white", **words)
    return figure


@styled
def magnitude_by_block(data: Any, *, stream: str = "image", step: int | None = None) -> Figure:
    """The largest |x| at each block with the channel that holds it, beside the median channel's mean |x|.

    Both are means over prompts, seeds and steps. A channel's number stands at the block from which it is the largest in
    most of the runs.

    Args:
        data: of a capture.
        stream: of its tokens.
        step: one step; None: all.
    """
    part = data.sel(stream=stream) if step is None else data.sel(stream=stream, step=step)
    top = np.abs(part["top_value"]).isel(rank=0)
    other = [d for d in top.dims if d != "site"]
    largest = top.mean(other).values
    holders = most_frequent(part["top_channel"].isel(rank=0).transpose("site", *other).values)
    median = part["median_abs_mean"].mean([d for d in other if d in part["median_abs_mean"].dims]).values
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    places = np.arange(len(largest))
    axis.plot(places, largest, "o-", color=MASSIVE, ms=4, label="largest |x|")
    axis.plot(places, median, "s-", color=QUIET, ms=4, label="median channel,\nmean |x|")
    before = None
    for place, size, channel in zip(places, largest, holders, strict=True):
        if channel != before:
            words, side, at = (
                (f"channel {channel}", "left", (8, -4)) if before is None else (str(channel), "center", (0, 8))
            )
            axis.annotate(words, (place, size), at, textcoords="offset points", ha=side, color=MASSIVE, fontsize=8)
        before = channel
    axis.set(xlabel="block", ylabel="|activation|", yscale="log", xticks=places)
    axis.set_ylim(top=3 * float(np.nanmax(largest)))
    names = [str(site) for site in part["site"].values]
    axis.set_xticklabels(names, rotation=90 if len(names) > side_by_side(names, 100) else 0, fontsize=8)
    first, count = max(((c, holders.count(c)) for c in holders), key=lambda one: one[1])
    words = f"Channel {first} holds the largest activation in {count} of {len(holders)} blocks, {stream} stream"
    axis.set_title(words, fontsize=10)
    name_lines(axis, gap=0.12)
    return finish(figure)


def most_frequent(numbers: np.ndarray) -> list[int]:
    """The most frequent number of each row."""
    rows = [np.unique(row, return_counts=True) for row in np.reshape(numbers, (len(numbers), -1)).astype(int)]
    return [int(values[counts.argmax()]) for values, counts in rows]


@styled
def magnitude_by_sigma(data: Any, channels: Sequence[int], *, block: int, stream: str = "image") -> Figure:
    """Mean |x| over tokens of given channels against sigma at one block, beside the median channel and its spread."""
    part = data["abs_mean"].sel(stream=stream).isel(site=block)
    other = [d for d in part.dims if d not in ("step", "channel")]
    values, sigma = part.mean(other).transpose("step", "channel").values, data["sigma"].values
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    low, middle, high = np.percentile(values, [5, 50, 95], axis=1)
    axis.fill_between(sigma, low, high, color=QUIET, alpha=0.25, lw=0)
    axis.plot(sigma, middle, color=QUIET, label="median channel\n(band: 5% to 95%)")
    for channel, colour in zip(channels, several(len(channels)), strict=False):
        axis.plot(sigma, values[:, channel], "o-", ms=3, color=colour, label=f"channel {channel}")
    axis.set(xlabel="sigma (1 = noise, 0 = picture)", ylabel="mean |x| over tokens", yscale="log")
    axis.invert_xaxis()
    ratios = values[:, list(channels)] / middle[:, None]
    most = int(ratios.mean(0).argmax())
    spread = f"{ratios[:, most].min():.2g} to {ratios[:, most].max():.2g}"
    words = f"After block {data['site'].values[block]} channel {channels[most]} is {spread} times the median channel"
    axis.set_title(f"{words}, {stream} stream", fontsize=10)
    name_lines(axis, gap=0.1)
    return finish(figure)


@styled
def headroom(table: Any, *, dtype: str = "float16") -> Figure:
    """The largest |x| of each block against the largest number of a dtype, which is drawn as a line.

    Args:
        table: from `Activations.headroom`.
        dtype: the dtype that the table was made for.
    """
    limit = float((table["largest"] / table["share"]).median())
    sites = list(dict.fromkeys(table["site"]))
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    looks = {"image": ("o-", MASSIVE), "text": ("s-", SERIES[1]), "attn": ("^:", QUIET), "mlp": ("v:", SERIES[3])}
    looks["reference"] = ("D-", SERIES[2])
    words = {"image": "image stream", "text": "text stream", "attn": "attention's output", "mlp": "MLP's output"}
    words["reference"] = "reference pictures"
    for place, part in table.groupby("place", sort=False):
        marker, color = looks[place]
        at = [sites.index(site) for site in part["site"]]
        axis.plot(at, part["largest"], marker, ms=4, color=color, label=words[place])
    axis.axhline(limit, color=INK, lw=1)
    axis.text(0, limit, f"largest {dtype}: {limit:,.0f}", ha="left", va="bottom", fontsize=8)
    axis.set(xlabel="block", ylabel="largest |x|", yscale="log", xticks=range(len(sites)))
    axis.set_ylim(top=max(limit, table["largest"].max()) * 4)
    axis.set_xticklabels(sites, rotation=90 if len(sites) > side_by_side(sites, 100) else 0, fontsize=8)
    most = table.loc[table["largest"].idxmax()]
    axis.set_title(
        f"The largest |x|, {most['largest']:.3g}, is {most['share']:.2g} of the largest {dtype}", fontsize=10
    )
    name_lines(axis, gap=0.08)
    return finish(figure)


@styled
def gates(data: Any, channels: Sequence[int], *, block: int, part: str | None = None) -> Figure:
    """|AdaLN gate| by channel at one block (mean over the runs), massive channels marked."""
    part = part or str(data["part"].values[0])
    values = np.abs(data["gate"].sel(part=part).isel(site=block))
    values = values.mean([d for d in values.dims if d != "channel"]).values
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    axis.bar(np.arange(len(values)), values, width=1.0, color=QUIET)
    ranks = rank_channels(axis, values, channels, width=1.6)
    axis.set(xlabel="channel", ylabel=f"|gate {part}|, mean over the runs")
    where = f"Of block {data['site'].values[block]}'s AdaLN gates ({part})"
    best = min(ranks, key=lambda channel: ranks[channel], default=None)
    words = (
        f"channel {best}'s is number {ranks[best]} of {len(values)} by size" if best is not None else "few are large"
    )
    axis.set_title(f"{where} {words}", fontsize=10)
    return finish(figure)
