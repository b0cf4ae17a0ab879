"""A picture over a grid of cells: the reader clicks a cell, moves to it with keys, drags a box, or compares two
pictures.

One small front end serves them all: a region of tokens (rows x columns) that is dragged on a picture, and two pictures
under one sliding edge. Keys do what the pointer does. It is an anywidget: its script travels with the widget, so
nothing is loaded from the network.
"""

from __future__ import annotations

import anywidget
import traitlets as t

from dg_tools.widgets import front


class Picture(anywidget.AnyWidget):
    """A PNG with cells.

    Attributes:
        png: the picture.
        after: a second one over it, right of `split`; empty: none.
        split: 0 to 1, where the second picture begins.
        grid: (rows, columns) of cells; (1, 1): none.
        cell: index of the marked cell, row * columns + column; -1: none.
        clicks: counts clicks and presses of Enter, also on the cell that is marked already.
        box: left, top, right, bottom of the region, in fractions of the picture; empty: none.
        boxes: whether a drag draws a region.
        width: pixels on the screen; less where there is no room.
        pixelated: enlarge without smoothing.
        label: a description for screen readers.
    """

    _esm = front.module("picture.js", "renderPicture")
    _css = front.STYLE
    png = t.Bytes(b"").tag(sync=True)
    after = t.Bytes(b"").tag(sync=True)
    split = t.Float(0.5).tag(sync=True)
    grid = t.List(t.Int(), [1, 1]).tag(sync=True)
    cell = t.Int(-1).tag(sync=True)
    clicks = t.Int(0).tag(sync=True)
    box = t.List(t.Float(), []).tag(sync=True)
    boxes = t.Bool(False).tag(sync=True)
    width = t.Int(320).tag(sync=True)
    pixelated = t.Bool(False).tag(sync=True)
    label = t.Unicode("").tag(sync=True)

    def __repr__(self) -> str:
        return f"Picture({self.label!r}, {self.grid[0]} x {self.grid[1]} cells, cell {self.cell})"
