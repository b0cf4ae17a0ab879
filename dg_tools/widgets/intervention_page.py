"""The page of the intervention explorer: its controls, three pictures with what changed, and their layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from dg_tools.models.dit import DiT
from dg_tools.widgets.chart import Chart
from dg_tools.widgets.code_block import CodeBlock
from dg_tools.widgets.edit_settings import CONTROL_KINDS, EDIT_MODES, NAMES
from dg_tools.widgets.parts import (
    Tabs,
    control,
    knob,
    markup,
    panel,
    row,
    set_text,
    side_by_side,
    slider,
    table,
    text_block,
)
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.picture_changes import TIMES, PictureChanges, difference_png
from dg_tools.widgets.png import picture_png
from dg_tools.widgets.run_fields import RunFields
from dg_tools.widgets.runner import Messages, Runner
from dg_tools.widgets.saving import SaveRow
from dg_tools.widgets.shown import Shown
from dg_tools.widgets.watch import Tick


class InterventionPage(widgets.VBox):
    """Controls and pictures, not yet connected to anything.

    Args:
        dit: the model.
        generate, detect, save: what the buttons do.
        steps, height, width: of the pictures, as in `RunFields`.

    Attributes:
        run_fields: prompt, seed, steps and scale of a run.
        links: controls that share their value with the trait of the same name.
        pictures: by name; a box on the clean one, or a click, chooses tokens.
        differences: disrupted and control, each minus the clean picture, five times as large.
        shown: says whether what is on the page was made with the settings in the fields.
    """

    def __init__(
        self,
        dit: DiT,
        generate: Callable[[Tick], None],
        detect: Callable[[Tick], None],
        save: Callable[[str], list[Path]],
        steps: int | None,
        height: int | None,
        width: int | None,
    ) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-intervention-explorer")
        self.messages = Messages()
        self.run_fields = RunFields(dit, steps, height, width)
        self.runner = Runner("Run", generate, self.messages)
        self.detector = Runner("Detect channels", detect, self.messages)
        self.detector.button.icon = "search"
        self.detector.button.button_style = ""
        self._build_controls(len(dit.blocks), self.run_fields.steps.value - 1)
        self._build_pictures(dit.grid(*self.run_fields.size))
        titles = {"clean": "clean (drag a box)", "disrupted": "disrupted", "control": "matched control"}
        changes = [panel(f"{n} - clean, x{TIMES}", p) for n, p in zip(NAMES[1:], self.differences, strict=True)]
        spectrum = widgets.VBox([self.spectrum], layout={"flex": "1 1 280px", "max_width": "420px"})
        saving = row(SaveRow("edit.html", save, self.messages))
        self.tabs = Tabs({"Numbers": panel("Numbers", self.table), "Spectra": spectrum, "Save": saving}, spread=True)
        self.below = widgets.VBox(
            [
                side_by_side(*(panel(titles[n], p) for n, p in self.pictures.items()), *changes),
                row(self.everywhere, self.region),
                self.tabs,
            ],
            layout={"display": "none"},
        )
        self.shown = Shown([self.below], "Run")
        self.children = [
            row(*self.run_fields.row.children, self.runner),
            row(self.channels_field, self.offered, self.detector),
            row(self.block_slider, self.rho_field, self.mode_field, self.step_range, self.kind_field, self.draw_field),
            self.words,
            self.origin,
            self.messages,
            self.shown.under_note(self.below),
            self.code,
        ]

    def _build_controls(self, blocks: int, last_step: int) -> None:
        self.channels_field = control(widgets.Text, "Channels", "160px", continuous_update=False)
        self.offered = control(widgets.SelectMultiple, "Detected", "140px", options=[], rows=2)
        self.block_slider = slider("Block", blocks - 1, width="200px", at_once=True)
        self.mode_field = control(widgets.Dropdown, "Mode", "140px", options=EDIT_MODES)
        self.rho_field = knob(0.5)
        self.rho_field.disabled = True  # `scale` is the one mode that reads it
        self.step_range = control(
            widgets.IntRangeSlider,
            "Steps of the edit",
            "300px",
            min=0,
            max=last_step,
            value=(0, last_step),
        )
        self.kind_field = control(widgets.Dropdown, "Control", "180px", options=CONTROL_KINDS)
        self.draw_field = control(widgets.BoundedIntText, "Draw", "105px", min=0, max=9999)
        self.everywhere = widgets.Button(description="All tokens", layout={"width": "110px"})
        self.region = text_block("Edit acts on all tokens.")
        self.words = text_block("")
        self.origin = text_block("")
        self.code = CodeBlock()
        self.links: dict[str, Any] = {
            "block": self.block_slider,
            "mode": self.mode_field,
            "rho": self.rho_field,
            "kind": self.kind_field,
            "draw": self.draw_field,
        }

    def _build_pictures(self, grid: tuple[int, int]) -> None:
        self.pictures = {n: Picture(width=210, pixelated=True, label=f"picture: {n}") for n in NAMES}
        clean = self.pictures["clean"]
        clean.grid = list(grid)
        clean.boxes = True
        clean.label = "clean picture: drag a box over the tokens to edit, or press Shift and arrow keys; Escape for all"
        self.differences = [Picture(width=210, pixelated=True, label=f"difference: {n}") for n in NAMES[1:]]
        self.spectrum = Chart(label="spectra", fixed=True, axis="frequency", height=170)
        self.table = markup()

    def show_pictures(self, images: dict[str, Any], changes: PictureChanges) -> None:
        """Put the pictures of a run on the page, with what changed."""
        for name, image in images.items():
            self.pictures[name].png = picture_png(image)
        clean, *others = changes.arrays.values()
        for picture, array in zip(self.differences, others, strict=True):
            picture.png = difference_png(array, clean)
        self.spectrum.draw(changes.curves)
        self.table.value = table(changes.rows)
        self.below.layout.display = ""

    def follow_steps(self, steps: int) -> None:
        """The steps of the edit are among those of the run; where they were all of them, they still are."""
        field = self.step_range
        whole = field.value == (field.min, field.max)
        field.max = steps - 1
        if whole:
            field.value = (field.min, field.max)

    def show_token_count(self, count: int) -> None:
        """Say on how many tokens the edit acts; 0: all of them, and the clean picture has no box."""
        clean = self.pictures["clean"]
        if not count:
            clean.box = []
        rows, columns = clean.grid
        sentence = f"Edit acts on {count} of {rows * columns} tokens." if count else "Edit acts on all tokens."
        set_text(self.region, sentence)
