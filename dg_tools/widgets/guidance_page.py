"""The page of the guidance explorer: its controls, five pictures, and their layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from dg_tools.models.dit import DiT
from dg_tools.widgets.code_block import CodeBlock
from dg_tools.widgets.guidance_settings import VARIANTS
from dg_tools.widgets.guidance_strip import Strip
from dg_tools.widgets.parts import Tabs, control, knob, markup, panel, panels, row, side_by_side, slider, text_block
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.picture_changes import TIMES
from dg_tools.widgets.run_fields import RunFields
from dg_tools.widgets.runner import Messages, Runner
from dg_tools.widgets.saving import SaveRow
from dg_tools.widgets.shown import Shown
from dg_tools.widgets.watch import Tick


class GuidancePage(widgets.VBox):
    """Controls and pictures, not yet connected to anything.

    Args:
        dit: the model.
        generate, strip, save: what the buttons do.
        steps, height, width: of the pictures, as in `RunFields`.

    Attributes:
        run_fields: prompt, seed, steps and scale of a run.
        links: controls that share their value with the trait of the same name.
        pictures, captions: by variant.
        slide: two pictures under one edge; `difference`: the right one minus the left one, five times as large.
        strip: pictures over w or rho.
        drawn: parts that are shown once there are pictures.
        shown: says whether what is on the page was made with the settings in the fields.
    """

    def __init__(
        self,
        dit: DiT,
        generate: Callable[[Tick], None],
        strip: Callable[[Tick], None],
        save: Callable[[str], list[Path]],
        steps: int | None,
        height: int | None,
        width: int | None,
    ) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-guidance-explorer")
        self.messages = Messages()
        self.run_fields = RunFields(dit, steps, height, width, scale=3.0)
        self.runner = Runner("Run", generate, self.messages)
        self.strip = Strip(strip, self.messages)
        self._build_controls(len(dit.blocks))
        self._build_pictures()
        variants = [widgets.VBox([self.captions[n], self.pictures[n]]) for n in VARIANTS]
        for box in variants:
            box.add_class("dg-panel")
        self.variants = widgets.VBox([side_by_side(*variants)])
        edge = panel("Before and after (drag the edge)", self.slide)
        change = panel(f"right - left, x{TIMES} (grey: no change)", self.difference)
        pair = side_by_side(edge, change)
        pair.add_class("dg-compare")
        self.compared = widgets.VBox([row(self.before_field, self.after_field), pair])
        self.compared.add_class("dg-beside-strip")
        self.saving = row(self.zoom, self.folder, self.export_button, SaveRow("guidance.html", save, self.messages))
        self.drawn = (self.variants, self.compared, self.saving)
        for part in self.drawn:
            part.layout.display = "none"
        self.tabs = Tabs({"Numbers": self.numbers, "Strip": self.strip, "Zoom and save": self.saving})
        self.tabs.layout.flex = "1 1 300px"
        self.shown = Shown([self.variants, self.compared, self.numbers], "Run")
        self.children = [
            row(*self.run_fields.row.children, self.runner),
            row(self.weight_slider, self.window, self.rho_slider, self.block_slider),
            row(self.channels_field, self.origin),
            self.messages,
            self.shown.under_note(self.variants),
            panels(self.compared, self.tabs),
            self.code,
        ]

    def _build_controls(self, blocks: int) -> None:
        self.weight_slider = control(widgets.FloatSlider, "DG weight w", "240px", min=0, max=5, step=0.1, value=0.5)
        self.channels_field = control(widgets.Text, "Channels", "180px", continuous_update=False)
        self.block_slider = slider("Block", blocks - 1, width="200px", at_once=True)
        self.window = control(
            widgets.FloatRangeSlider,
            "DG window",
            "270px",
            min=0,
            max=1,
            step=0.05,
            value=(0, 1),
        )
        self.rho_slider = knob(0.0)
        self.links = {"weight": self.weight_slider, "block": self.block_slider, "rho": self.rho_slider}
        self.origin = text_block("")
        self.zoom = control(widgets.IntSlider, "Zoom (pixels wide)", "320px", min=100, max=1000, step=10, value=200)
        self.before_field = control(widgets.Dropdown, "Left", "125px", options=VARIANTS)
        self.after_field = control(widgets.Dropdown, "Right", "125px", options=VARIANTS)
        self.folder = control(widgets.Text, "Export to", "260px", value="guided")
        self.export_button = widgets.Button(description="PNG and profile", icon="download", layout={"width": "160px"})
        self.code = CodeBlock()

    def _build_pictures(self) -> None:
        self.captions = {name: text_block(name, "title") for name in VARIANTS}
        label = "picture: {}; Enter shows it right of the edge"
        self.pictures = {name: Picture(width=200, pixelated=True, label=label.format(name)) for name in VARIANTS}
        for picture in self.pictures.values():
            picture.grid = [1, 1]
        self.slide = Picture(width=200, pixelated=True)
        self.difference = Picture(width=200, pixelated=True, label="difference")
        self.numbers = markup()

    def set_zoom(self, width: int) -> None:
        """Show the pictures at a width in pixels."""
        for picture in (*self.pictures.values(), self.slide, self.difference):
            picture.width = width
