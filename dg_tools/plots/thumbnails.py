"""Many small pictures at once, one for each cell of a grid."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dg_tools.plots.explorers import Chart
from dg_tools.plots.style import INK, MASSIVE, wrap

SIDE, GAP, LINE = 1.28, 0.08, 0.24  # inches: a thumbnail's width, between two, the words under it
TOP, RIGHT = 0.85, 0.1


def thumbnail_grid(
    pictures: Sequence[Sequence[np.ndarray | None]],
    words: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    ylabel: str = "",
    xlabel: str = "",
    title: str = "",
    marked: Sequence[tuple[int, int]] = (),
) -> Figure:
    """A table of pictures; the figure's first axes hold its cells, all of one size.

    Args:
        pictures: (H, W, 3) uint8 by row and column, of one shape; None: the words in its place.
        words: under each picture, short.
        rows, columns: what each of them is.
        ylabel, xlabel: what rows and columns are.
        title: over it.
        marked: (row, column) of cells to frame, with a star before their words.
    """
    shapes = [p.shape for line in pictures for p in line if p is not None]
    high = SIDE * (shapes[0][0] / shapes[0][1] if shapes else 1.0)
    cell = SIDE + GAP, high + GAP + LINE
    names = [short(r) for r in rows]
    left = 0.5 + 0.075 * max(len(line) for name in names for line in name.split("\n"))
    width, height = left + len(columns) * cell[0] + RIGHT, TOP + len(rows) * cell[1] + RIGHT
    figure = Chart(figsize=(width, height))
    axis = figure.add_axes(
        (left / width, RIGHT / height, len(columns) * cell[0] / width, len(rows) * cell[1] / height),
    )
    dx, dy, bottom = GAP / 2 / cell[0], GAP / 2 / cell[1], 1 - LINE / cell[1]
    for y, x in np.ndindex(len(rows), len(columns)):
        picture, said = pictures[y][x], words[y][x]
        if picture is None:
            axis.add_patch(Rectangle((x + dx, y + dy), 1 - 2 * dx, bottom - dy, fc="#f0f0f0", ec="#d0d0d0"))
            axis.text(x + 0.5, y + bottom / 2, wrap(said, 16), ha="center", va="center", fontsize=8, color="#555")
        else:
            place = (x + dx, x + 1 - dx, y + bottom, y + dy)
            sharp = "nearest" if picture.shape[1] <= 100 * SIDE else "antialiased"  # of pixels that can be seen
            axis.imshow(picture, extent=place, aspect="auto", origin="upper", interpolation=sharp)
            axis.add_patch(Rectangle((x + dx, y + dy), 1 - 2 * dx, bottom - dy, fill=False, ec="#d0d0d0", lw=0.8))
            star = "\u2605 " if (y, x) in marked else ""
            colour = MASSIVE if star else INK
            axis.text(x + 0.5, y + (1 + bottom) / 2, star + said, ha="center", va="center", fontsize=8.5, color=colour)
        if (y, x) in marked:
            axis.add_patch(Rectangle((x + dx, y + dy), 1 - 2 * dx, 1 - 2 * dy, fill=False, ec=MASSIVE, lw=2))
    axis.set_xlim(0, len(columns))
    axis.set_ylim(len(rows), 0)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=8.5, labeltop=True, labelbottom=False, colors=INK)
    axis.set_xticks(np.arange(len(columns)) + 0.5, [short(c) for c in columns])
    axis.set_yticks(np.arange(len(rows)) + 0.5, names)
    axis.set_xlabel(xlabel, fontsize=9, color=INK)
    axis.xaxis.set_label_position("top")
    axis.set_ylabel(ylabel, fontsize=9, color=INK)
    figure.suptitle(wrap(title, int(13 * width)), fontsize=9, y=1 - 0.06 / height, va="top", color=INK)
    return figure


def short(text: str) -> str:
    """At most two lines."""
    return wrap(textwrap.shorten(text, 34, placeholder=" ..."), 18)
