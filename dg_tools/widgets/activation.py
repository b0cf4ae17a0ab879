"""The explorer of a capture: what is in the residual stream at this block, step, token and channel?

Everything that a slider shows is looked up in a capture; the button makes a new one. `render` is the view of a point,
as figures; the widget only keeps the point and puts the figures on the page.
"""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import traitlets as t

from dg_tools.activations import Activations
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.plots.surface import spike
from dg_tools.widgets import capture_lookup as lookup
from dg_tools.widgets.activation_page import ActivationPage
from dg_tools.widgets.capture_lookup import Point
from dg_tools.widgets.capture_view import CaptureView, render
from dg_tools.widgets.parts import set_text
from dg_tools.widgets.png import draw
from dg_tools.widgets.runner import guarded
from dg_tools.widgets.watch import Tick

FIELDS = ("prompt", "seed", "branch", "step", "block", "stream", "channel", "token", "log")


class ActivationExplorer(ActivationPage):
    """Look through a capture, or capture with a button.

    Args:
        source: an `Activations`, the folder of a saved one, or a `DiT`; None is the embedded model.
        dit: the model for new captures, where `source` is a capture.
        steps: of new captures, to begin with.
        height, width: of new captures, in pixels; the pipeline's default where None.

    Attributes:
        prompt, seed, branch, step, block: indices into the capture.
        stream: `image`, `text`, or `reference` where there are reference pictures.
        token, channel: numbers.
        log: logarithmic scales.
        activations: the capture on the page; None before the first one.
        massive: channels that `find_massive` finds in it.
    """

    prompt = t.Int(0)
    seed = t.Int(0)
    branch = t.Int(0)
    step = t.Int(0)
    block = t.Int(0)
    token = t.Int(0)
    channel = t.Int(0)
    stream = t.Enum(("image", "text", "reference"), "image")
    log = t.Bool(False)
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
        if source is None or isinstance(source, DiT):
            dit = source or load()
            source = None
        super().__init__(dit, self._capture, steps, height, width)
        self.dit = dit
        self.lock = RLock()
        self._moving = False
        self._connect()
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
    def _in_range(self, proposal: Any) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        if self.activations is not None:
            count = self.activations.data.sizes["site" if name == "block" else name]
            if not 0 <= value < count:
                raise t.TraitError(f"{name} {value} requested; this capture has 0 to {count - 1}")
        return value

    # -- state and view ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> Point:
        """The point on the page."""
        return Point(**{name: getattr(self, name) for name in FIELDS})

    def render(self, state: Point | None = None) -> CaptureView:
        """The view of a point, without a change to the widget.

        Raises:
            RuntimeError: nothing was captured yet.
        """
        if self.activations is None:
            raise RuntimeError("nothing captured yet: press Capture, call .run(), or pass an Activations")
        return render(self.activations, state or self.state, list(self.massive))

    def show(self, source: Any) -> None:
        """Put an `Activations`, or the folder of a saved one, on the page.

        Raises:
            ValueError: a folder without a capture.
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
            self._moving = True
            self.activations = acts
            self.massive = massive
            point = lookup.clipped(acts, self.state)
            if first:
                point = self._opening(acts, point)
            self.set_ranges(acts, massive, self.channel)
            self._move_to(point)
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

    def _move_to(self, point: Point) -> None:
        self.move(**dict(zip(FIELDS, astuple(point), strict=True)))

    def _opening(self, acts: Activations, point: Point) -> Point:
        """The first view: the most massive channel, at a block and step with raw hidden states where there are any."""
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
                token = self.token
                self._move_to(point)
                self.messages.say(f"The {point.stream} stream ends at token {point.token}; there is no token {token}.")
                return
            self._draw(self.activations, point)

    def _draw(self, acts: Activations, point: Point) -> None:
        view, sizes = self.render(point), acts.data.sizes
        cells = acts.grid if point.stream == "image" else (1, max(lookup.token_count(acts, point), 1))
        self.map.draw(draw(view.map, cells), point.token)
        self.map.label = f"{point.stream} tokens: arrow keys or a click choose one"
        self.channels.draw(draw(view.channels, (1, sizes["channel"])), point.channel)
        self.blocks.draw(draw(view.blocks, (1, sizes["site"])), point.block)
        self.steps.draw(draw(view.steps, (1, sizes["step"])), point.step)
        set_text(self.numbers, view.sentence)
        if view.surface is None:
            self.surface.say(lookup.advice_on_raw(acts, point))
        else:
            self.surface.draw(view.surface)

    # -- a live model -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Capture with the settings of the fields, here and now; errors are raised."""
        self.runner.run()

    def _capture(self, tick: Tick) -> None:
        if self.dit is None:
            raise ValueError("this explorer has a capture and no model: pass dit= to capture more")
        from dg_tools.widgets.live_capture import capture_run  # imports diffusers, which a stored capture never needs

        self.show(capture_run(self.dit, self.run_fields.read(), self.block, tick))
        self.run_fields.warn(self.messages)

    # -- controls and clicks ------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        say = self.messages
        self.opening.on_click(guarded(say, lambda _: self.show(self.folder.value)))
        for name, field in self.controls.items():
            field.observe(guarded(say, partial(self._set, name)), names="value")
            self.observe(partial(self._follow, field), names=name)
        self.offered.observe(guarded(say, self._choose_offered), names="value")
        pictures = {"token": self.map, "channel": self.channels, "block": self.blocks, "step": self.steps}
        for name, picture in pictures.items():
            picture.observe(guarded(say, partial(self._clicked, name)), names="cell")
        self.surface.on_point = lambda *point: guarded(say, lambda _: self._surface_clicked(*point))(None)
        self.observe(guarded(say, lambda change: self.refresh()), names=list(FIELDS))

    def _set(self, name: str, change: Any) -> None:
        setattr(self, name, change["new"])

    def _follow(self, field: Any, change: Any) -> None:
        """A control shows the trait; `set_ranges` has made room for it."""
        if field.value != change["new"]:
            field.value = change["new"]

    def _choose_offered(self, change: Any) -> None:
        if change["new"] is not None:
            self.channel = change["new"]

    def _clicked(self, name: str, change: Any) -> None:
        if change["new"] >= 0:
            setattr(self, name, change["new"])

    def _surface_clicked(self, channel: int, token: int, pooled: bool) -> None:
        """Choose a point of the surface; where a cell covers several tokens and channels, the largest of these."""
        assert self.activations is not None
        hidden = lookup.hidden_at(self.activations, self.state)
        if pooled and hidden is not None:
            row, column = np.searchsorted(hidden.tokens, token), np.searchsorted(hidden.channels, channel)
            y, x = spike(np.abs(hidden.values), int(row), int(column))
            channel, token = int(hidden.channels[x]), int(hidden.tokens[y])
        self.move(channel=channel, token=token)
