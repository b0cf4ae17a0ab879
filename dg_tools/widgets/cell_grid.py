"""A table of small pictures in the browser, a number under each; a click or the arrow keys choose a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets as t

from dg_tools.widgets import front


class CellGrid(anywidget.AnyWidget):
    """Cells with a picture and a number.

    Attributes:
        data: what `sweep_view.Page.front` gives; `version` in it counts drawings.
        pictures: bytes of each picture by the name that `data` has for it.
        cell: index of the chosen cell, row * columns + column; -1: none.
        clicks: counts clicks, also on the cell that is chosen already.
        height: pixels of all rows, at most; the cells are smaller where there are many.
        label: a description for screen readers.
    """

    _esm = front.module("cells.js", "renderCells")
    _css = front.STYLE
    data = t.Dict({}).tag(sync=True)
    pictures = t.Dict({}).tag(sync=True)
    cell = t.Int(-1).tag(sync=True)
    clicks = t.Int(0).tag(sync=True)
    height = t.Int(460).tag(sync=True)
    label = t.Unicode("").tag(sync=True)

    def __repr__(self) -> str:
        return f"CellGrid({self.label!r}, cell {self.cell})"

    def draw(self, data: Mapping[str, Any], pictures: Mapping[str, bytes], cell: int) -> None:
        """Show other cells with one of them chosen; one message to the browser."""
        with self.hold_sync():
            self.pictures = dict(pictures)
            self.data = {**data, "version": self.data.get("version", 0) + 1}
            self.cell = cell
