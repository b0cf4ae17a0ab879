"""The page of the comparison explorer: its controls, the grid, the current cell, and their layout."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
from PIL import Image

from dg_tools.widgets.cell_grid import CellGrid
from dg_tools.widgets.code_block import CodeBlock
from dg_tools.widgets.parts import (
    Tabs,
    check_box,
    control,
    markup,
    panel,
    row,
    set_text,
    side_by_side,
    table,
    text_block,
)
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.runner import Messages
from dg_tools.widgets.saving import SaveRow
from dg_tools.widgets.sweep_lookup import AXES, StoredSweep, unit
from dg_tools.widgets.sweep_view import SweepView


class ComparisonPage(widgets.VBox):
    """Controls and pictures, not yet connected to anything.

    Args:
        save: what the button that saves does.

    Attributes:
        controls: the control of each field of a selection, by name.
        places: the control of the current value on each axis, by the axis's name.
        grid: thumbnails; a click chooses a cell.
        picture, unguided: the current cell's picture, and the one without guidance from the same noise.
    """

    def __init__(self, save: Callable[[str], list[Path]]) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-comparison-explorer")
        self.messages = Messages()
        self.folder = control(widgets.Text, "Stored sweep", "400px", placeholder="folder that dg.sweep wrote")
        self.opening = widgets.Button(description="Open", icon="folder-open", layout={"width": "90px"})
        self.opening.tooltip = "Read the folder, or read it again"
        self._build_controls()
        self._build_pictures()
        cells, numbers = panel("Which setting? (click a cell)", self.grid), panel("Its numbers", self.numbers)
        both = self.title, self.code
        self.tabs = Tabs({"Cells": (cells, self.sides, *both), "Numbers": (numbers, *both)}, spread=True)
        self.tabs.add_class("dg-compared")
        areas = {"cells": cells, "sides": self.sides, "numbers": numbers, "title": self.title, "code": self.code}
        for name, part in areas.items():
            part.add_class(f"dg-area-{name}")
        self.views = widgets.VBox(
            [
                row(self.rows_field, self.columns_field, self.chosen_box, self.measure_field, self.mean_box),
                self.held,
                self.note,
                self.tabs,
            ],
            layout={"display": "none"},
        )
        self.saving = SaveRow("sweep.html", save, self.messages)
        self.saving.layout.display = "none"
        files = row(self.folder, self.opening, self.saving)
        files.add_class("dg-one-row")
        self.children = [files, self.messages, self.views]

    def _build_controls(self) -> None:
        self.rows_field = control(widgets.Dropdown, "Rows", "155px")
        self.columns_field = control(widgets.Dropdown, "Columns", "175px")
        self.measure_field = control(widgets.Dropdown, "Measure", "300px")
        self.mean_box = check_box("mean of the split", "150px")
        self.chosen_box = check_box("chosen settings only", "185px")
        self.controls = {
            "rows": self.rows_field,
            "columns": self.columns_field,
            "measure": self.measure_field,
            "mean": self.mean_box,
            "chosen": self.chosen_box,
        }
        self.places = {axis: control(widgets.Dropdown, name, "auto") for axis, name in AXES.items()}
        for field in self.places.values():
            field.layout.max_width = "330px"
            field.layout.margin = "2px 8px 2px 2px"
        self.held = row()
        self.held.add_class("dg-held")

    def _build_pictures(self) -> None:
        self.note = text_block("")
        self.title = text_block("")
        self.numbers = markup()
        self.grid = CellGrid(label="cells of the sweep: arrow keys or a click choose one")
        self.picture = Picture(label="picture of the chosen cell")
        self.unguided = Picture(label="picture: unguided")
        self.beside = [panel("The cell", self.picture), panel("Without guidance, same noise", self.unguided)]
        self.sides = side_by_side(*self.beside)
        self.code = CodeBlock()

    def set_ranges(self, stored: StoredSweep) -> None:
        """Let the controls offer what a sweep has."""
        axes = [(AXES[a], a) for a in stored.varying]
        self.rows_field.options = axes
        self.columns_field.options = axes
        self.measure_field.options = [(unit(m), m) for m in stored.measures]
        self.chosen_box.disabled = not stored.chosen
        self.held.children = [field for axis, field in self.places.items() if axis in stored.varying]
        self.views.layout.display = self.saving.layout.display = ""

    def show_cell(self, view: SweepView) -> None:
        """Put the current cell on the page: its pictures, numbers and code."""
        for picture, png in ((self.picture, view.picture), (self.unguided, view.unguided)):
            picture.png = png
            width = Image.open(io.BytesIO(png)).width if png else 0
            picture.width = min(max(width, 200), 512)
            picture.pixelated = width < 256
        self.sides.children = self.beside if view.unguided else self.beside[:1]
        set_text(self.title, view.title)
        set_text(self.note, view.note)
        self.numbers.value = table(view.numbers) if view.numbers else ""
        self.code.value = view.code
