"""Pictures in a grid; a channel laid over its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, finish, styled, wrap

HUE = LinearSegmentedColormap.from_list("hue", ["#f6ddd9", MASSIVE])  # none to most


@styled
def image_grid(
    images: Sequence[Any],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 4,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
    title: str = "",
    size: float = 1.9,
) -> Figure:
    """Pictures in rows of `columns`.

    Args:
        images: PIL or arrays, row by row.
        captions: over each of them.
        columns: pictures in a row.
        rows, heads: labels of the rows and of the columns, written once at the beginning of each; empty: no labels.
        title: of all.
        size: inches of a picture.
    """
    lines = -(-len(images) // columns)
    tops = [wrap(words, int(13 * size)) for words in heads]
    side = 1.1 if any(rows) else 0.0
    over = 0.3 + 0.16 * (1 + max(top.count("\n") for top in tops)) if any(heads) else 0.0
    each = 0.45 if captions is not None else 0.08
    shape = (size * columns + side, (size + each) * lines + over + (0.35 if title else 0.0))
    figure, axes = plt.subplots(lines, columns, figsize=shape, squeeze=False, layout="constrained")
    for i, axis in enumerate(axes.flat):
        axis.set(xticks=[], yticks=[], frame_on=False)
        if i < len(images):
            axis.imshow(np.asarray(images[i]), interpolation="nearest")
            if captions is not None:
                axis.set_title(wrap(captions[i], int(16 * size)), fontsize=8, color=INK)
    if captions is None:
        for axis, words in zip(axes[0], tops, strict=False):
            axis.set_title(words, fontsize=9, color=INK)
    for line, words in zip(axes, rows, strict=False):
        label = {"rotation": 0, "ha": "right", "va": "center"}
        line[0].set_ylabel(wrap(words, 16), fontsize=9, color=INK, **label)
    figure.suptitle(wrap(title, int(14 * shape[0])), fontsize=10, color=INK)
    if title and any(heads):
        figure.set_layout_engine("constrained", h_pad=0.1)  # inches: the title does not lie on the heads
    return finish(figure)


@styled
def channel_map(
    values: np.ndarray, grid: tuple[int, int], picture: np.ndarray | None = None, *, title: str = ""
) -> Figure:
    """One value per image token as a map with its sign, beside the picture, and its size over the picture in grey.

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
    kwargs: dict[str, Any] = {"interpolation": "nearest"}
    if picture is not None:
        kwargs["extent"] = (0, picture.shape[1], picture.shape[0], 0)
        axes[0, 0].imshow(picture)
        axes[0, 0].set_title("The picture", fontsize=8)
        grey_under(axes[0, 2], picture)
        over(axes[0, 2], np.abs(field), limit, **kwargs)
        axes[0, 2].set_title("Its size over the picture in grey", fontsize=8)
    middle = axes[0, panels // 2]
    image = middle.imshow(field, cmap="RdBu_r", vmin=-limit, vmax=limit, **kwargs)
    middle.set_title("Value by image token", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    figure.colorbar(image, ax=middle, fraction=0.046, label="activation")
    figure.suptitle(title or "The value of each image token, and where in the picture it is large", fontsize=10)
    return finish(figure)


def grey_under(axis: Any, picture: np.ndarray, **kwargs: Any) -> None:
    """A picture (H, W, 3) of bytes or 0..1 in light grey, so that a colour over it can be read."""
    values = np.asarray(picture, np.float32) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    axis.imshow(0.35 + 0.6 * values @ np.array([0.299, 0.587, 0.114]), cmap="gray", vmin=0, vmax=1, **kwargs)


def over(axis: Any, size: np.ndarray, limit: float, **kwargs: Any) -> None:
    """Draw a size from 0 to `limit` as one hue over what is already drawn; larger values are more opaque."""
    axis.imshow(size, cmap=HUE, vmin=0, vmax=limit, alpha=0.85 * np.clip(size / limit, 0, 1), **kwargs)
