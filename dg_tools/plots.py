"""Figures from arrays and results: returned, never shown, each readable alone.

matplotlib for what must be read everywhere; plotly where turning the figure is the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

INK, MASSIVE, QUIET = "#22313f", "#c0392b", "#95a5a6"


def finish(figure: Figure) -> Figure:
    """Close: a returned figure is shown once, by whoever asked for it."""
    plt.close(figure)
    return figure


def image_grid(
    images: Sequence[Any],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 4,
    title: str = "",
    size: float = 1.9,
) -> Figure:
    """Pictures in rows of `columns`, each with a caption."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns, (size + 0.45) * rows), squeeze=False, layout="constrained"
    )
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            axis.imshow(np.asarray(images[i]), interpolation="nearest")
            if captions is not None:
                axis.set_title(wrap(captions[i]), fontsize=7, color=INK)
    figure.suptitle(title, fontsize=10)
    return finish(figure)


def wrap(text: str, width: int = 34) -> str:
    """Long captions over several lines."""
    import textwrap

    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""])


def token_channel_surface(hidden: np.ndarray, massive: Sequence[int] = (), *, title: str = "") -> Figure:
    """|activation| over token x channel (one block, one step) as a 3-D surface; massive channels in red.

    Args:
        hidden: (tokens, channels).
        massive: channels to mark.
    """
    size = np.abs(np.asarray(hidden, np.float32))
    tokens, channels = size.shape
    figure = plt.figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.add_subplot(projection="3d")
    x, y = np.meshgrid(np.arange(channels), np.arange(tokens))
    axis.plot_surface(x, y, size, rcount=min(tokens, 64), ccount=min(channels, 192), color="#aebfcf", linewidth=0)
    for channel in massive:
        axis.plot(np.full(tokens, channel), np.arange(tokens), size[:, channel], color=MASSIVE, linewidth=1.6)
        axis.text(channel, tokens, size[:, channel].max(), str(channel), color=MASSIVE, fontsize=8)
    axis.set(xlabel="channel", ylabel="image token", zlabel="|activation|")
    axis.set_title(title or "|activation| over token and channel", fontsize=10)
    axis.view_init(elev=28, azim=-60)
    return finish(figure)


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
    axis.set_xticklabels(part["site"].values, rotation=90 if len(places) > 16 else 0, fontsize=8)
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


def channel_map(
    values: np.ndarray, grid: tuple[int, int], picture: np.ndarray | None = None, *, title: str = ""
) -> Figure:
    """One value per image token as a map, beside and over the picture; colours symmetric around zero.

    Args:
        values: (tokens,), token y * columns + x.
        grid: (rows, columns).
        picture: (H, W, 3).
    """
    rows, columns = grid
    field = np.asarray(values, np.float32).reshape(rows, columns)
    limit = float(np.abs(field).max()) or 1.0
    panels = 1 if picture is None else 3
    figure, axes = plt.subplots(1, panels, figsize=(2.6 * panels + 0.6, 2.8), squeeze=False, layout="constrained")
    kwargs: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    if picture is not None:
        extent = (0, picture.shape[1], picture.shape[0], 0)
        kwargs["extent"] = extent
        axes[0, 0].imshow(picture)
        axes[0, 2].imshow(picture)
        axes[0, 2].imshow(field, alpha=0.6, **kwargs)
    drawn = axes[0, panels // 2].imshow(field, **kwargs)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(drawn, ax=axes[0, panels // 2], fraction=0.046)
    figure.suptitle(title or "activation by image token", fontsize=10)
    return finish(figure)


def band_errors(table: Any, *, title: str = "") -> Figure:
    """Error of an edit against its controls, relative to the clean run: one panel a band, sigma along x.

    Args:
        table: tidy, with columns edit, role (edit, control), sigma, band, ratio.
    """
    bands = list(dict.fromkeys(table["band"]))
    figure, axes = plt.subplots(
        1, len(bands), figsize=(3.2 * len(bands), 3.2), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, band in zip(axes[0], bands, strict=True):
        part = table[table["band"] == band]
        for role, colour, marker in (("control", QUIET, "."), ("edit", MASSIVE, "o")):
            shown = part[part["role"] == role]
            for i, (name, rows) in enumerate(shown.groupby("edit", sort=False)):
                label = (role if role == "control" else str(name)) if i == 0 or role == "edit" else None
                line = "-" if role == "edit" else ":"
                axis.plot(
                    rows["sigma"],
                    rows["ratio"],
                    marker + line,
                    color=colour,
                    alpha=0.9 if role == "edit" else 0.5,
                    label=label,
                )
        axis.axhline(1.0, color=INK, lw=0.8)
        axis.set(title=f"{band} frequencies", xlabel="sigma", yscale="log")
    axes[0, 0].set_ylabel("x0 error / clean error")
    axes[0, -1].legend(fontsize=7, frameon=False)
    figure.suptitle(title or "One-step error at the same z_t", fontsize=10)
    return finish(figure)
