"""Hidden states: the surface over token and channel, magnitude by block and by noise level, gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.style import MASSIVE, QUIET, finish, side_by_side


def token_channel_surface(hidden: np.ndarray, massive: Sequence[int] = (), *, title: str = "") -> Figure:
    """|activation| over token x channel (one block, one step) as a 3-D surface; massive channels in red.

    Args:
        hidden: (tokens, channels).
        massive: channels to mark.
    """
    figure = plt.figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.add_subplot(projection="3d")
    draw_surface(axis, hidden, massive)
    axis.set_title(title or "|activation| over token and channel", fontsize=10)
    return finish(figure)


def draw_surface(axis: Any, hidden: np.ndarray, massive: Sequence[int] = ()) -> None:
    """The surface of `token_channel_surface` on 3-D axes."""
    size = np.abs(np.asarray(hidden, np.float32))
    tokens, channels = size.shape
    x, y = np.meshgrid(np.arange(channels), np.arange(tokens))
    axis.plot_surface(x, y, size, rcount=min(tokens, 64), ccount=min(channels, 192), color="#aebfcf", linewidth=0)
    for channel in massive:
        axis.plot(np.full(tokens, channel), np.arange(tokens), size[:, channel], color=MASSIVE, linewidth=1.6)
        axis.text(channel, tokens, size[:, channel].max(), str(channel), color=MASSIVE, fontsize=8)
    axis.set(xlabel="channel", ylabel="image token", zlabel="|activation|")
    axis.view_init(elev=28, azim=-60)


def token_channel_surface_plotly(hidden: np.ndarray, massive: Sequence[int] = (), *, title: str = "") -> Any:
    """The same surface as a plotly figure that can be turned."""
    import plotly.graph_objects as go

    size = np.abs(np.asarray(hidden, np.float32))
    figure = go.Figure(go.Surface(z=size, colorscale="Blues", showscale=False))
    for channel in massive:
        tokens = np.arange(len(size))
        line = {"color": MASSIVE, "width": 6}
        figure.add_scatter3d(
            x=np.full(len(size), channel),
            y=tokens,
            z=size[:, channel],
            mode="lines",
            line=line,
            name=f"channel {channel}",
        )
    axes = {"xaxis_title": "channel", "yaxis_title": "image token", "zaxis_title": "|activation|"}
    figure.update_layout(title=title or "|activation| over token and channel", scene=axes, width=760, height=520)
    return figure


def magnitude_by_block(data: Any, *, stream: str = "image", step: int | None = None) -> Figure:
    """Top-1, 2, 3 of |x| and the median channel's mean |x| at each block (mean over prompts, seeds and steps)."""
    part = data.sel(stream=stream) if step is None else data.sel(stream=stream, step=step)
    other = [d for d in part["top_value"].dims if d not in ("site", "rank")]
    top = np.abs(part["top_value"]).mean(other).transpose("site", "rank").values
    median = part["median_abs_mean"].mean([d for d in other if d in part["median_abs_mean"].dims]).values
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    places = np.arange(len(top))
    for rank, alpha in zip(range(top.shape[1]), (1.0, 0.6, 0.35), strict=False):
        axis.plot(places, top[:, rank], "o-", color=MASSIVE, alpha=alpha, ms=4, label=f"top {rank + 1} value")
    axis.plot(places, median, "s-", color=QUIET, ms=4, label="median channel")
    axis.set(xlabel="block", ylabel="|activation|", yscale="log", xticks=places)
    names = [str(site) for site in part["site"].values]
    axis.set_xticklabels(names, rotation=90 if len(names) > side_by_side(names, 100) else 0, fontsize=8)
    axis.set_title(f"Largest activations by block, {stream} stream", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    return finish(figure)


def magnitude_by_sigma(data: Any, channels: Sequence[int], *, block: int, stream: str = "image") -> Figure:
    """Mean |x| over tokens of given channels against sigma at one block, beside the median channel and its spread."""
    part = data["abs_mean"].sel(stream=stream).isel(site=block)
    other = [d for d in part.dims if d not in ("step", "channel")]
    values, sigma = part.mean(other).transpose("step", "channel").values, data["sigma"].values
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    low, middle, high = np.percentile(values, [5, 50, 95], axis=1)
    axis.fill_between(sigma, low, high, color=QUIET, alpha=0.3, lw=0, label="5% to 95% of channels")
    axis.plot(sigma, middle, color=QUIET, label="median channel")
    for i, channel in enumerate(channels):
        shade = 1.0 - 0.6 * i / max(1, len(channels))
        axis.plot(sigma, values[:, channel], "o-", ms=3, color=MASSIVE, alpha=shade, label=f"channel {channel}")
    axis.set(xlabel="sigma (1 = noise, 0 = picture)", ylabel="mean |x| over tokens", yscale="log")
    axis.invert_xaxis()
    axis.set_title(f"Magnitude by noise level after block {data['site'].values[block]}, {stream} stream", fontsize=10)
    axis.legend(fontsize=8, frameon=False, ncols=2)
    return finish(figure)


def headroom(table: Any, *, dtype: str = "float16") -> Figure:
    """The largest |x| of each block against the largest number of a dtype, which is drawn as a line.

    Args:
        table: from `Activations.headroom`.
        dtype: that it was made for.
    """
    limit = float((table["largest"] / table["share"]).median())
    sites = list(dict.fromkeys(table["site"]))
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    looks = {"image": ("o-", MASSIVE), "text": ("s-", "#3b6ea5"), "attn": ("^:", QUIET), "mlp": ("v:", "#666666")}
    looks["reference"] = ("D-", "#8a6d3b")
    words = {"image": "image stream", "text": "text stream", "attn": "attention's output", "mlp": "MLP's output"}
    words["reference"] = "reference pictures"
    for place, part in table.groupby("place", sort=False):
        marker, color = looks[place]
        at = [sites.index(site) for site in part["site"]]
        axis.plot(at, part["largest"], marker, ms=4, color=color, label=words[place])
    axis.axhline(limit, color="black", lw=1)
    axis.text(len(sites) - 1, limit, f"largest {dtype}: {limit:,.0f}", ha="right", va="bottom", fontsize=8)
    axis.set(xlabel="block", ylabel="largest |x|", yscale="log", xticks=range(len(sites)))
    axis.set_ylim(top=max(limit, table["largest"].max()) * 4)
    axis.set_xticklabels(sites, rotation=90 if len(sites) > side_by_side(sites, 100) else 0, fontsize=8)
    axis.set_title(f"Headroom in {dtype} by block", fontsize=10)
    axis.legend(fontsize=8, frameon=False, ncols=2)
    return finish(figure)


def gates(data: Any, channels: Sequence[int], *, block: int, part: str | None = None) -> Figure:
    """|AdaLN gate| by channel at one block (mean over the runs), massive channels marked."""
    part = part or str(data["part"].values[0])
    values = np.abs(data["gate"].sel(part=part).isel(site=block))
    values = values.mean([d for d in values.dims if d != "channel"]).values
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    axis.bar(np.arange(len(values)), values, width=1.0, color=QUIET)
    axis.bar(list(channels), values[list(channels)], width=1.6, color=MASSIVE, label="massive channels")
    axis.set(xlabel="channel", ylabel=f"|gate {part}|")
    axis.set_title(f"AdaLN gate ({part}) of block {data['site'].values[block]}", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    return finish(figure)
