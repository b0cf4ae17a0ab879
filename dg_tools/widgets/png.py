"""Figures and pictures as PNG bytes, with the place of their cells."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image


@dataclass(frozen=True)
class Drawing:
    """A PNG, the grid of its cells (rows, columns), and the part of it that they fill: left, top, right, bottom."""

    png: bytes = field(repr=False)
    grid: tuple[int, int] = (1, 1)
    frame: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def draw(figure: Figure, grid: tuple[int, int] = (1, 1), dpi: int = 100) -> Drawing:
    """A figure as PNG; its first axes hold the grid."""
    into = io.BytesIO()
    figure.savefig(into, format="png", dpi=dpi, facecolor="white")
    if grid == (1, 1):
        return Drawing(into.getvalue())
    box = figure.axes[0].get_position()  # as drawn: an equal aspect has shrunk it
    return Drawing(into.getvalue(), grid, (float(box.x0), float(1 - box.y1), float(box.x1), float(1 - box.y0)))


def picture_png(picture: Any) -> bytes:
    """PNG of a PIL picture or a uint8 array."""
    into = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    image.convert("RGB").save(into, format="png")
    return into.getvalue()
