"""What is in the residual stream at this block, step, token and channel?

Everything that a slider shows is looked up in a capture; the button makes a new one. `render` is the view of a point,
as figures; the widget only keeps the point and puts the figures on the page.
"""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets as t

from dg_tools.activations import Activations
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.plots.surface import spike
from dg_tools.widgets import lookup
from dg_tools.widgets.lookup import Point
from dg_tools.widgets.parts import control, panel, panels, row, slider, words, write
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.png import draw
from dg_tools.widgets.run_fields import AskedFields
from dg_tools.widgets.runner import Messages, Runner, Tick, guarded
from dg_tools.widgets.surface import Turning
from dg_tools.widgets.view import View, render

FIELDS = ("prompt", "seed", "branch", "step", "block", "stream", "channel", "token", "log")


class ActivationExplorer(widgets.VBox):
    """Look through a capture, or capture with a button.

    Args:
        source: an `Activations`, the folder of a saved one, or a `DiT`; None is the embedded model.
        dit: the model for new captures, where `source` is a capture.
        steps: of new captures, to begin with.
        height, width: of new captures, in pixels; the pipeline's default where None.

    Attributes:
        prompt, seed, branch, step, block: indices into the capture.
        stream: `image` or `text`.
        token, channel: numbers.
        log: logarithmic scales.
        activations: what is looked at; None before the first capture.
        massive: channels that `find_massive` finds in it.
    """

    prompt, seed, branch = t.Int(0), t.Int(0), t.Int(0)
    step, block, token, channel = t.Int(0), t.Int(0), t.Int(0), t.Int(0)
    stream, log = t.Enum(("image", "text"), "image"), t.Bool(False)
    activations = t.Any(None, allow_none=True)
    massive = t.List(t.Int(), [])

    def __init__(
        self,
        source: Any = None,
        dit: DiT | None = None,
        *,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-activation-explorer")
        self.lock, self._moving = RLock(), False
        self.messages = Messages()
        if source is None or isinstance(source, DiT):
            self.dit: DiT | None = source or load()
            source = None
        else:
            self.dit = dit
        self.asked = AskedFields(self.dit, steps, height, width)
        self._build()
        self.observe(guarded(self.messages, lambda change: self.refresh()), names=list(FIELDS))
        if source is not None:
            guarded(self.messages, self.show)(source)
        else:
            self.messages.say("Write a prompt and press Capture: one sampling run is read block by block.")

    def __repr__(self) -> str:
        if self.activations is None:
            return "ActivationExplorer(no capture yet)"
        return (
            f"ActivationExplorer(block {self.block}, step {self.step}, {self.stream} token {self.token}, "
            f"channel {self.channel})"
        )

    @t.validate("prompt", "seed", "branch", "step", "block", "token", "channel")
    def _inside(self, proposal: Any) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        if self.activations is not None:
            count = self.activations.data.sizes["site" if name == "block" else name]
            if not 0 <= value < count:
                raise t.TraitError(f"{name} {value} asked for; this capture has 0 to {count - 1}")
        return value

    # -- state and view ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> Point:
        """Where the reader looks."""
        return Point(**{name: getattr(self, name) for name in FIELDS})

    def render(self, state: Point | None = None) -> View:
        """The view of a point, without a change to the widget.

        Raises:
            RuntimeError: nothing was captured yet.
        """
        if self.activations is None:
            raise RuntimeError("nothing captured yet: press Capture, call .run(), or pass an Activations")
        return render(self.activations, state or self.state, list(self.massive))

    def show(self, source: Any) -> None:
        """Look at an `Activations`, or at the folder of a saved one.

        Raises:
            ValueError: a folder that is no capture.
            TypeError: something else.
        """
        if isinstance(source, str | Path):
            acts = lookup.read_capture(source)
        elif isinstance(source, Activations):
            acts = lookup.checked(source)
        else:
            raise TypeError(f"a {type(source).__name__} cannot be explored: pass an Activations, its folder, or a DiT")
        massive = lookup.massive_channels(acts)
        with self.lock:
            first = self.activations is None
            self.activations, self.massive, self._moving = acts, massive, True
            point = lookup.clipped(acts, self.state)
            if first:
                point = self._opening(acts, point)
            self._ranges(acts)
            self.move(**dict(zip(FIELDS, astuple(point), strict=True)))
        self.messages.say("")

    def move(self, **fields: Any) -> None:
        """Set several fields of the point and draw once."""
        with self.lock:
            self._moving = True
            try:
                for name, value in fields.items():
                    setattr(self, name, value)
            finally:
                self._moving = False
            self.refresh()

    def _opening(self, acts: Activations, point: Point) -> Point:
        """The first look: the most massive channel, at a block and step whose hidden states were kept, if any were."""
        data = acts.data
        block, step = data.sizes["site"] // 2, data.sizes["step"] // 2
        if "hidden_states" in data:
            blocks = [list(data["site"].values).index(s) for s in data["raw_site"].values]
            block = min(blocks, key=lambda b: abs(b - block))
            step = min((int(s) for s in data["raw_step"].values), key=lambda s: abs(s - step))
        rows, columns = acts.grid
        middle = rows // 2 * columns + columns // 2
        channel = self.massive[0] if self.massive else int(np.argmax(lookup.by_channel(acts, point)))
        return Point(block=block, step=step, channel=channel, token=middle)

    def refresh(self) -> None:
        """Draw the current point again."""
        if self.activations is None or self._moving:
            return
        with self.lock:
            point = lookup.clipped(self.activations, self.state)
            if point != self.state:  # the streams differ in length
                asked = self.token
                self.move(**dict(zip(FIELDS, astuple(point), strict=True)))
                self.messages.say(f"The {point.stream} stream ends at token {point.token}; there is no token {asked}.")
                return
            view, sizes = self.render(point), self.activations.data.sizes
            tokens = lookup.token_count(self.activations, point)
            cells = self.activations.grid if point.stream == "image" else (1, max(tokens, 1))
            self.map.draw(draw(view.map, cells), point.token)
            self.map.label = f"{point.stream} tokens: arrow keys or a click choose one"
            self.channels.draw(draw(view.channels, (1, sizes["channel"])), point.channel)
            self.blocks.draw(draw(view.blocks, (1, sizes["site"])), point.block)
            self.steps.draw(draw(view.steps, (1, sizes["step"])), point.step)
            write(self.numbers, view.sentence)
            if view.surface is None:
                self.surface.say(lookup.advice_on_raw(self.activations, point))
            else:
                self.surface.draw(view.surface)

    def _picked(self, channel: int, token: int, pooled: bool) -> None:
        """A point of the surface; where a cell stands for several tokens and channels, the largest of these."""
        assert self.activations is not None
        raw = lookup.raw_at(self.activations, self.state)
        if pooled and raw is not None:
            row, column = np.searchsorted(raw.tokens, token), np.searchsorted(raw.channels, channel)
            y, x = spike(np.abs(raw.values), int(row), int(column))
            channel, token = int(raw.channels[x]), int(raw.tokens[y])
        self.move(channel=channel, token=token)

    # -- a live model -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Capture what the fields say, here and now; errors are raised."""
        self.runner.run()

    def _capture(self, tick: Tick) -> None:
        if self.dit is None:
            raise ValueError("this explorer has a capture and no model: pass dit= to capture more")
        from dg_tools.widgets.live import capture_run  # with diffusers; a stored capture does without

        self.show(capture_run(self.dit, self.asked.read(), self.block, tick))
        self.asked.warn(self.messages)

    # -- the page -----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.runner = Runner("Capture", self._capture, self.messages)
        self.folder = control(widgets.Text, "Saved capture", "300px", placeholder="folder that Activations.save wrote")
        opening = widgets.Button(description="Open", icon="folder-open", layout={"width": "90px"})
        opening.on_click(guarded(self.messages, lambda _: self.show(self.folder.value)))
        self.opening = opening

        self.prompts = control(widgets.Dropdown, "Run: prompt", "280px", options=[("none yet", 0)])
        self.seeds = control(widgets.Dropdown, "seed", "120px", options=[("none yet", 0)])
        self.branches = control(widgets.Dropdown, "branch", "150px", options=[("cond", 0)])
        self.block_slider, self.step_slider = slider("Block", 0), slider("Step", 0)
        self.channel_field = control(widgets.BoundedIntText, "Channel", "140px", min=0, max=0)
        self.token_field = control(widgets.BoundedIntText, "Token", "130px", min=0, max=0)
        self.offered = control(widgets.ToggleButtons, "Massive", options=[])
        self.offered.style.button_width = "56px"
        self.stream_buttons = control(widgets.ToggleButtons, "Stream", options=["image", "text"])
        self.stream_buttons.style.button_width = "64px"
        self.log_box = widgets.Checkbox(False, description="log scale", indent=False, layout={"width": "110px"})
        pairs = {
            "prompt": self.prompts, "seed": self.seeds, "branch": self.branches, "block": self.block_slider,
            "step": self.step_slider, "channel": self.channel_field, "token": self.token_field,
            "stream": self.stream_buttons, "log": self.log_box,
        }  # fmt: skip
        self.controls = pairs
        for name, made in pairs.items():
            made.observe(guarded(self.messages, partial(self._set, name)), names="value")
            self.observe(partial(self._follow, made), names=name)
        self.offered.observe(guarded(self.messages, self._offer), names="value")

        self.map, self.channels = Picture(width=400), Picture(width=500, label="channels: arrow keys or a click")
        self.blocks, self.steps = Picture(width=400, label="blocks"), Picture(width=400, label="steps")
        for picture, field in (
            (self.map, "token"),
            (self.channels, "channel"),
            (self.blocks, "block"),
            (self.steps, "step"),
        ):
            picture.observe(guarded(self.messages, partial(self._point, field)), names="cell")
        picked = self._picked
        self.surface = Turning(lambda *point: guarded(self.messages, lambda _: picked(*point))(None))
        self.numbers = words("")
        live = [self.asked.row, self.runner] if self.dit else []
        self.views = widgets.VBox(
            [
                row(self.prompts, self.seeds, self.branches, self.stream_buttons),
                row(self.block_slider, self.step_slider, self.token_field, self.channel_field, self.log_box),
                self.offered,
                self.numbers,
                panels(
                    panel("Where on the picture? (click a token)", self.map),
                    panel("Token x channel (drag to turn, click a point)", self.surface),
                    panel("Which channels? (click one)", self.channels),
                    panel("At which block? (click one)", self.blocks),
                    panel("At which step? (click one)", self.steps),
                ),
            ],
            layout={"display": "none"},
        )
        self.children = [*live, row(self.folder, opening), self.messages, self.views]

    def _set(self, field: str, change: Any) -> None:
        setattr(self, field, change["new"])

    def _point(self, field: str, change: Any) -> None:
        if change["new"] >= 0:
            setattr(self, field, change["new"])

    def _follow(self, made: Any, change: Any) -> None:
        """A control shows the trait; `_ranges` has made room for it."""
        if made.value != change["new"]:
            made.value = change["new"]

    def _offer(self, change: Any) -> None:
        if change["new"] is not None:
            self.channel = change["new"]

    def _ranges(self, acts: Activations) -> None:
        """What the controls can be set to."""
        data = acts.data
        for made, dim in ((self.prompts, "prompt"), (self.seeds, "seed"), (self.branches, "branch")):
            made.options = [(str(v), i) for i, v in enumerate(data[dim].values)]
        self.block_slider.max, self.step_slider.max = data.sizes["site"] - 1, data.sizes["step"] - 1
        self.channel_field.max = data.sizes["channel"] - 1
        self.token_field.max = data.sizes["token"] - 1
        self.stream_buttons.options = [str(s) for s in data["stream"].values]
        self.offered.options = [(str(c), c) for c in self.massive]
        self.offered.value = self.channel if self.channel in self.massive else None
        self.offered.layout.display = "" if self.massive else "none"
        self.views.layout.display = ""
