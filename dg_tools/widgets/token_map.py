"""One value per image token over a grey picture, in the browser: one hue, read under the pointer, chosen by a click."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anywidget
import numpy as np
import traitlets as t

from dg_tools.widgets import front
from dg_tools.widgets.chart import packed


@dataclass(frozen=True)
class TokenValues:
    """What a map shows.

    Attributes:
        values: (rows x columns,); NaN where there is none.
        title: over it.
        name: what a value is.
        signed: whether values below zero have a meaning.
    """

    values: np.ndarray
    title: str
    name: str
    signed: bool

    def front(self) -> dict[str, Any]:
        """As the browser takes it."""
        return {"values": packed(self.values), "title": self.title, "name": self.name}


class TokenMap(anywidget.AnyWidget):
    """A map of tokens.

    Attributes:
        data: what `TokenValues.front` gives; `version` in it counts drawings.
        png: the picture under it, shown in grey; empty: none.
        grid: (rows, columns).
        aspect: width of the picture over its height.
        opacity: of the colours, 0 (the picture alone) to 1.
        cell: the chosen token; -1: none.
        clicks: counts clicks, also on the token that is chosen already.
        height: pixels, at most.
        label: a description for screen readers.
    """

    _esm = front.module("map.js", "renderMap")
    _css = front.STYLE
    data = t.Dict({}).tag(sync=True)
    png = t.Bytes(b"").tag(sync=True)
    grid = t.List(t.Int(), [1, 1]).tag(sync=True)
    aspect = t.Float(1.0).tag(sync=True)
    opacity = t.Float(0.75).tag(sync=True)
    cell = t.Int(-1).tag(sync=True)
    clicks = t.Int(0).tag(sync=True)
    height = t.Int(220).tag(sync=True)
    label = t.Unicode("").tag(sync=True)

    def __repr__(self) -> str:
        return f"TokenMap({self.label!r}, {self.grid[0]} x {self.grid[1]} tokens, token {self.cell})"

    def draw(self, values: TokenValues, grid: tuple[int, int], png: bytes, aspect: float, cell: int) -> None:
        """Show values with one token marked; one message to the browser."""
        with self.hold_sync():
            self.data = {**values.front(), "version": self.data.get("version", 0) + 1}
            self.png, self.grid, self.aspect, self.cell = png, list(grid), aspect, cell
