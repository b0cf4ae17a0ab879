"""The surface that can be turned: a plotly figure on the page, or a sentence where there is nothing to turn.

A plotly widget brings its script along, 5 MB once for each widget. An explorer therefore has one: its data are replaced
and the reader's angle stays. FigureWidget is imported with this module and not when a figure is drawn: in a kernel the
first picture came three seconds sooner. The library behind it that costs the time (a grammar that jsonschema compiles)
takes one to four seconds, depending on how its objects lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from plotly.graph_objects import FigureWidget

from dg_tools.widgets.parts import text_block

CHANGING = ("x", "y", "z", "surfacecolor", "text", "name")


class Surface(widgets.Box):
    """A place for a surface.

    Attributes:
        on_point: called with (x, y, whether it is a point of the surface itself) of a point that was clicked.
    """

    def __init__(self) -> None:
        super().__init__([], layout={"max_width": "100%", "overflow": "hidden"})
        self.on_point: Callable[[int, int, bool], None] = lambda x, y, own: None
        self.figure: Any = None

    def __repr__(self) -> str:
        return f"Surface({'empty' if self.figure is None else 'a figure'})"

    def say(self, sentence: str) -> None:
        """A sentence in the surface's place."""
        note = text_block(sentence)
        note.layout.width = "300px"
        self.children = (note,)
        self.figure = None

    def draw(self, figure: Any) -> None:
        """Show a plotly figure; one with as many traces as the last takes its place without a new widget."""
        if self.figure is None or len(self.figure.data) != len(figure.data):
            self.figure = FigureWidget(figure)
            for trace in self.figure.data:
                trace.on_click(self.clicked)
            self.children = (self.figure,)
            return
        with self.figure.batch_update():
            for old, new in zip(self.figure.data, figure.data, strict=True):
                old.update({k: new[k] for k in CHANGING if k in new and new[k] is not None})
            self.figure.layout.scene.zaxis.type = figure.layout.scene.zaxis.type
            self.figure.layout.title.text = figure.layout.title.text

    def clicked(self, trace: Any, points: Any, state: Any) -> None:
        """What plotly calls."""
        if points.xs:
            self.on_point(int(points.xs[0]), int(points.ys[0]), trace.type == "surface")
