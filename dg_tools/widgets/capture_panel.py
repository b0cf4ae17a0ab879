"""One capture on the page: its map, surface and charts at one point, drawn in the browser."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from dg_tools.activations import Activations
from dg_tools.widgets import capture_lookup as lookup
from dg_tools.widgets.capture_lookup import Point
from dg_tools.widgets.capture_view import CaptureView
from dg_tools.widgets.chart import Chart
from dg_tools.widgets.parts import set_text, text_block
from dg_tools.widgets.png import picture_png
from dg_tools.widgets.spikes import Spikes
from dg_tools.widgets.token_map import TokenMap

SIDE = 384  # pixels of the picture under the map, at most: it is shown smaller than that


class CapturePanel(widgets.Box):
    """The views of a capture.

    Attributes:
        map, text: tokens of the image, or of another stream; a click chooses one.
        spikes: token x channel; `missing` says what to capture where there is none.
        channels, blocks, steps: charts; a click chooses a place.
        choosers: what a click on a view chooses, and the view.
    """

    def __init__(self) -> None:
        self.map = TokenMap(label="image tokens: arrow keys or a click choose one")
        self.text = Chart(label="text tokens: arrow keys or a click choose one", axis="token", height=220)
        self.spikes = Spikes(label="surface of token x channel: arrow keys turn it, a click chooses a point")
        self.missing = text_block("")
        self.channels = Chart(label="channels: arrow keys or a click choose one", axis="channel", height=155)
        self.blocks = Chart(label="blocks: arrow keys or a click choose one", axis="block", height=125)
        self.steps = Chart(label="steps: arrow keys or a click choose one", axis="step", height=125)
        self.choosers: list[tuple[str, Any]] = [
            ("block", self.blocks),
            ("step", self.steps),
            ("channel", self.channels),
        ]
        self.choosers += [("token", self.map), ("token", self.text)]
        areas = {
            "tokens": [self.map, self.text],
            "surface": [self.spikes, self.missing],
            "channels": [self.channels],
            "blocks": [self.blocks],
            "steps": [self.steps],
        }
        boxes = [widgets.VBox(children) for children in areas.values()]
        for name, box in zip(areas, boxes, strict=True):
            box.add_class(f"dg-area-{name}")
        views = widgets.Box(boxes)
        views.add_class("dg-views")
        super().__init__([views])
        self.add_class("dg-capture")
        self._surface: Any = None  # the values that the surface shows

    def __repr__(self) -> str:
        return f"CapturePanel({self.map!r})"

    def draw(self, view: CaptureView) -> None:
        """Put a view on the page; a surface is sent only if it changed."""
        acts, point = view.acts, view.point
        shown(self.map, view.tokens is not None)
        shown(self.text, view.tokens is None)
        if view.tokens is not None:
            png, aspect = background(acts, point)
            self.map.draw(view.tokens, acts.grid, png, aspect, point.token)
        elif view.text is not None:
            self.text.draw(view.text, point.token)
        self.channels.draw(view.by_channel, point.channel)
        self.blocks.draw(view.by_block, point.block)
        self.steps.draw(view.by_step, point.step)
        shown(self.spikes, view.ridges_kept)
        shown(self.missing, not view.ridges_kept)
        if not view.ridges_kept:
            set_text(self.missing, lookup.advice_on_raw(acts, point))
            return
        at = (point.token, point.channel)
        run = (id(acts.data), point.prompt, point.seed, point.branch)
        fresh = (*run, point.step, point.block, point.stream, point.log)
        if self._surface == fresh:
            self.spikes.at = list(at)
        elif view.ridges is not None:
            self.spikes.draw(view.ridges, at)
            self._surface = fresh


def shown(part: Any, there: bool) -> None:
    """Show a part of the page, or take it out."""
    part.layout.display = "" if there else "none"


def background(acts: Activations, point: Point) -> tuple[bytes, float]:
    """The picture under the map as PNG, empty where there is none, and its width over its height."""
    by_step = "step_picture" in acts.data
    picture, _ = lookup.picture_at(acts, point)
    if picture is None:
        rows, columns = acts.grid
        return b"", columns / rows
    key = (id(acts.data), point.prompt, point.seed, point.branch, point.step if by_step else -1)
    return small_png(Pixels(picture, key)), picture.shape[1] / picture.shape[0]


class Pixels:
    """A picture whose key in a cache is its place in the capture."""

    def __init__(self, array: np.ndarray, key: tuple) -> None:
        self.array, self.key = array, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pixels) and self.key == other.key


@lru_cache(maxsize=256)
def small_png(pixels: Pixels) -> bytes:
    """A picture as PNG, at most SIDE pixels wide and high; cached, because a PNG takes longer than all the rest."""
    image = Image.fromarray(np.asarray(pixels.array)).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    return picture_png(image)
