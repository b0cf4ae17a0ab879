"""A strip of pictures over one setting of Detail Guidance, w or rho, from the same noise; it can be played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import traitlets as t

from dg_tools.kinds import counted
from dg_tools.widgets.guidance_settings import PLAIN, STRIPS
from dg_tools.widgets.parts import control, row, set_text, text_block
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.picture_changes import POWER, compare_pictures
from dg_tools.widgets.png import picture_png
from dg_tools.widgets.runner import Messages, Runner
from dg_tools.widgets.shown import Shown
from dg_tools.widgets.watch import Tick

WORDS = {"weight": "w", "rho": "rho"}


class Strip(widgets.VBox):
    """Pictures over w or rho.

    Args:
        generate: what the button does.
        messages: where errors are shown.

    Attributes:
        over: which setting.
        images: PIL pictures by value.
        index: which of them is shown large; `play` moves it.
    """

    def __init__(self, generate: Callable[[Tick], None], messages: Messages) -> None:
        options = [("weight w", "weight"), ("dose rho", "rho")]
        self.over = control(widgets.Dropdown, "Strip over", "180px", options=options)
        self.runner = Runner("Run strip", generate, messages)
        self.images: dict[float, Any] = {}
        self.index = control(widgets.IntSlider, "Picture", "220px", min=0, max=0, continuous_update=True)
        self.play = widgets.Play(interval=600, tooltip="Play the strip", max=0, layout={"width": "120px"})
        t.link((self.play, "value"), (self.index, "value"))
        most = max(map(len, STRIPS.values()))
        self.pictures = [Picture(width=76, pixelated=True) for _ in range(most)]
        self.captions = [text_block("") for _ in range(most)]
        self.large = Picture(width=200, pixelated=True, label="picture of the strip")
        self.large_caption = text_block("", "title")
        cells = [
            widgets.VBox([p, c], layout={"width": "92px"}) for p, c in zip(self.pictures, self.captions, strict=True)
        ]
        for cell in cells:
            cell.add_class("dg-panel")
        small = widgets.HBox(cells, layout={"flex_flow": "row wrap", "align_items": "flex-start", "flex": "1 1 280px"})
        large = widgets.VBox([self.large_caption, self.large], layout={"margin": "0 8px 0 0"})
        both = widgets.HBox([large, small], layout={"align_items": "flex-start"})
        self.views = widgets.VBox([row(self.index, self.play), both], layout={"display": "none"})
        self.shown = Shown([self.views], "Run strip")
        super().__init__([row(self.over, self.runner), self.shown.under_note(self.views)])
        self.add_class("dg-strip")
        self.index.observe(lambda change: self._turn(change["new"]), names="value")
        for i, picture in enumerate(self.pictures):
            picture.observe(lambda change, i=i: setattr(self.index, "value", i), names="clicks")

    def __repr__(self) -> str:
        return f"Strip({counted(len(self.images), 'picture')})"

    def put(self, name: str, images: Sequence[Any], settings: Any, cell: int) -> None:
        """Show pictures over the values of `name`; their numbers are against the picture where DG adds nothing.

        `cell`: pixels of a latent cell.
        """
        values = STRIPS[name]
        self.images = dict(zip(values, images, strict=False))
        plain = self.images.get(PLAIN[name])
        for i, (picture, caption) in enumerate(zip(self.pictures, self.captions, strict=True)):
            there = i < len(images)
            picture.png = picture_png(images[i]) if there else b""
            picture.label = f"picture: {WORDS[name]} {values[i]:g}" if there else ""
            set_text(caption, self._words(name, values[i], images[i], plain, cell) if there else "")
        self.index.max = self.play.max = max(len(images) - 1, 0)
        self.views.layout.display = "" if images else "none"
        self.name = name
        self.shown.put(settings)
        self._turn(self.index.value)

    def _words(self, name: str, value: float, image: Any, plain: Any, cell: int) -> str:
        words = f"{WORDS[name]} {value:g}"
        if plain is None:
            return words
        rows = compare_pictures([plain, image], cell, ("plain", "here")).rows
        power = [row[2] for row in rows if row[0].startswith(POWER)]
        return f"{words}: high band x {power[0]}" if power else words

    def _turn(self, index: int) -> None:
        """Show one picture large."""
        if index < len(self.images):
            value = list(self.images)[index]
            self.large.png = self.pictures[index].png
            set_text(self.large_caption, f"{WORDS[self.name]} {value:g}", "title")
