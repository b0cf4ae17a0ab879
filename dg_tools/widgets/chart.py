"""A chart in the browser: stems or lines over places that the reader chooses by a click or by keys.

It is drawn from the numbers, so that a move costs a few milliseconds, takes the theme's colours, and stays sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import numpy as np
import traitlets as t

from dg_tools.widgets import front


def packed(values: Any) -> bytes:
    """Numbers as the browser takes them: float32, not written out as text."""
    return np.ascontiguousarray(values, "<f4").tobytes()


@dataclass(frozen=True)
class Curves:
    """What a chart shows.

    Attributes:
        lines: name -> (n,); of stems the first alone is drawn.
        title, xlabel, ylabel: words; `place`: the name of one place, shown with a value.
        stems: draw one stem per place instead of lines.
        marked: places whose stems are coloured and numbered.
        names: of the places; None: their numbers.
        x: where the places lie; None: evenly.
        log: a logarithmic axis of sizes.
    """

    lines: dict[str, np.ndarray]
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    place: str = ""
    stems: bool = False
    marked: Sequence[int] = ()
    names: Sequence[str] | None = None
    x: np.ndarray | None = None
    log: bool = False

    def front(self) -> dict[str, Any]:
        """As the browser takes it."""
        return {
            "kind": "stems" if self.stems else "lines",
            "series": [{"name": name, "values": packed(values)} for name, values in self.lines.items()],
            "title": self.title,
            "xlabel": self.xlabel,
            "ylabel": self.ylabel,
            "place": self.place or self.xlabel,
            "marked": [int(i) for i in self.marked],
            "names": None if self.names is None else [str(name) for name in self.names],
            "x": None if self.x is None else packed(self.x),
            "log": self.log,
        }


class Chart(anywidget.AnyWidget):
    """Stems or lines.

    Attributes:
        data: what `Curves.front` gives; `version` in it counts drawings.
        cell: the chosen place; -1: none.
        clicks: counts clicks, also on the place that is chosen already.
        axis: what the places are (`channel`, `block`, `step`, `token`): charts and maps of one explorer share a cursor.
        fixed: the reader cannot choose a place.
        height: pixels; the width is what the page gives.
        label: a description for screen readers.
    """

    _esm = front.module("chart.js", "renderChart")
    _css = front.STYLE
    data = t.Dict({}).tag(sync=True)
    cell = t.Int(-1).tag(sync=True)
    clicks = t.Int(0).tag(sync=True)
    axis = t.Unicode("").tag(sync=True)
    fixed = t.Bool(False).tag(sync=True)
    height = t.Int(150).tag(sync=True)
    label = t.Unicode("").tag(sync=True)

    def __repr__(self) -> str:
        return f"Chart({self.label!r}, place {self.cell})"

    def draw(self, curves: Curves, cell: int = -1) -> None:
        """Show curves with one place marked; one message to the browser."""
        with self.hold_sync():
            self.data = {**curves.front(), "version": self.data.get("version", 0) + 1}
            self.cell = cell
