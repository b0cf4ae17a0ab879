"""Pictures in a grid; a channel laid over its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, finish, wrap


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
    image = axes[0, panels // 2].imshow(field, **kwargs)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(image, ax=axes[0, panels // 2], fraction=0.046)
    figure.suptitle(title or "activation by image token", fontsize=10)
    return finish(figure)
