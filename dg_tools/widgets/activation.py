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

import traitlets as t

from dg_tools.activations import Activations
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.widgets import capture_lookup as lookup
from dg_tools.widgets import word_maps
from dg_tools.widgets.activation_page import ActivationPage
from dg_tools.widgets.capture_lookup import Point
from dg_tools.widgets.capture_view import CaptureView, render
from dg_tools.widgets.kept_capture import MOST_MB, capture_data
from dg_tools.widgets.kept_page import page, write_page
from dg_tools.widgets.parts import set_text
from dg_tools.widgets.runner import guarded
from dg_tools.widgets.saving import save
from dg_tools.widgets.watch import Tick

FIELDS = ("prompt", "seed", "branch", "step", "block", "stream", "channel", "token", "log", "word", "head")


class ActivationExplorer(ActivationPage):
    """Look through a capture, or capture with a button.

    Args:
        source: an `Activations`, the folder of a saved one, or a `DiT`; None is the embedded model.
        dit: the model for new captures, where `source` is a capture.
        beside: a second capture, or its folder, shown at the same point beside the first; such as one with an edit.
        attention: the result of `attention(dit, ..., words=[...])` on the same runs as `source`: maps of these words.
        steps: of new captures, to begin with.
        height, width: of new captures, in pixels; the pipeline's default where None.

    Attributes:
        prompt, seed, branch, step, block: indices into the capture.
        stream: `image`, `text`, or `reference` where there are reference pictures.
        token, channel: numbers.
        log: logarithmic scales.
        word: whose attention is the map over the picture; empty: activations. head: of it; -1: the mean of all heads.
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
    word = t.Unicode("")
    head = t.Int(-1)
    activations = t.Any(None, allow_none=True)
    massive = t.List(t.Int(), [])

    def __init__(
        self,
        source: Any = None,
        dit: DiT | None = None,
        *,
        beside: Any = None,
        attention: Any = None,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        if source is None or isinstance(source, DiT):
            dit = source or load()
            source = None
        super().__init__(dit, self._capture, self.save, steps, height, width)
        self.dit = dit
        self.lock = RLock()
        self.beside: Activations | None = None
        self._moving = False
        self._connect()
        if source is not None:
            guarded(self.messages, partial(self.show, attention=attention))(source)
        else:
            self.messages.say("Write a prompt and press Capture: one sampling run is read block by block.")
        if beside is not None:
            guarded(self.messages, self.show_beside)(beside)

    def __repr__(self) -> str:
        if self.activations is None:
            return "ActivationExplorer(no capture yet)"
        return (
            f"ActivationExplorer(block {self.block}, step {self.step}, {self.stream} token {self.token}, "
            f"channel {self.channel})"
        )

    @t.validate("prompt", "seed", "branch", "step", "block", "token", "channel", "word", "head")
    def _in_range(self, proposal: Any) -> Any:
        name, value, acts = proposal["trait"].name, proposal["value"], self.activations
        if acts is not None and name in ("word", "head"):
            word_maps.check(acts, name, value)
        elif acts is not None:
            count = acts.data.sizes["site" if name == "block" else name]
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
        point = state or self.state
        words = lookup.words_of(self.activations, point.prompt, point.stream)
        return render(self.activations, point, list(self.massive), words)

    def to_html(self, path: str | Path, *, most_mb: float = MOST_MB) -> Path:
        """Write the capture as one file that opens without a kernel or a network, at the current point; its path.

        Map, charts, surface and pictures are drawn from numbers in the file (bfloat16: within 0.4 %).

        Args:
            path: ends in `.html`; a file there is replaced.
            most_mb: megabytes of hidden states, at most; beyond, the massive channels' alone are kept.

        Raises:
            RuntimeError: nothing was captured yet.
            ValueError, FileNotFoundError: a path that cannot be written, or a capture that is too large for a page.

        Example:
            >>> explorer.to_html("apple.html")  # doctest: +SKIP
            PosixPath('apple.html')
        """
        if self.activations is None:
            raise RuntimeError("nothing captured yet: press Capture, call .run(), or pass an Activations")
        data = {"capture": capture_data(self.activations, self.state, list(self.massive), most_mb)}
        about = f"{self.activations.data.attrs.get('model', 'A capture')}. Values are kept to within 0.4 %."
        return write_page(path, page("Activations", about, data))

    def save(self, path: str | Path) -> list[Path]:
        """Write a page (`.html`) or the figures (`.png`, `.svg`, `.pdf`) of the current point; the paths."""
        view = self.render()
        figures = {"map": view.map, "channels": view.channels, "blocks": view.blocks, "steps": view.steps}
        return save(path, self.to_html, lambda: figures)

    def show(self, source: Any, attention: Any = None) -> None:
        """Put an `Activations`, or the folder of a saved one, on the page; with maps of words from an `Attention`.

        Raises:
            ValueError: a folder without a capture.
            TypeError: something else.
        """
        acts = lookup.capture_of(source)
        if attention is not None:
            acts = word_maps.with_attention(acts, attention)
        massive = lookup.massive_channels(acts)
        with self.lock:
            first = self.activations is None
            self._moving = True
            self.activations = acts
            self.massive = massive
            point = lookup.clipped(acts, self.state)
            if first:
                point = lookup.opening(acts, massive)
            self.set_ranges(acts, massive, self.channel)
            self._move_to(point)
        self.shown.settings = None  # an opened capture holds its own settings
        self.shown.compare(None)
        self.messages.say("")

    def show_beside(self, source: Any) -> None:
        """Put a second capture, or the folder of one, beside the first, at the same point; None takes it away.

        Raises:
            ValueError: a folder without a capture, or a capture of another size.
            TypeError: something else.
        """
        acts = None if source is None else lookup.capture_of(source)
        if acts is not None and self.activations is not None:
            lookup.check_beside(self.activations, acts)
        self.beside = acts
        self.show_both(acts is not None)
        self.refresh()

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
        view = self.render(point)
        self.panel.draw(view)
        if self.beside is not None:
            self.beside_panel.draw(render(self.beside, lookup.clipped(self.beside, point), view.massive, view.words))
        set_text(self.numbers, view.sentence)

    # -- a live model -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Capture with the settings of the fields, here and now; errors are raised."""
        self.runner.run()

    def _capture(self, tick: Tick) -> None:
        if self.dit is None:
            raise ValueError("this explorer has a capture and no model: pass dit= to capture more")
        from dg_tools.widgets.live_capture import capture_run  # imports diffusers, which a stored capture never needs

        settings = self.run_fields.read()
        self.show(capture_run(self.dit, settings, self.block, tick, words=self.words_box.value))
        self.shown.put(settings)
        self.run_fields.warn(self.messages)
        self._changed()  # the fields may have moved on meanwhile

    def _changed(self) -> None:
        """After a change in the fields of a run: a capture of other settings is dimmed."""
        settings = None
        try:
            settings = self.run_fields.read()
        finally:
            self.shown.compare(settings)

    # -- controls and clicks ------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        say = self.messages
        self.run_fields.observe(guarded(say, lambda change: self._changed()))
        self.opening_beside.on_click(guarded(say, lambda _: self.show_beside(self.folder.value)))
        self.opening.on_click(guarded(say, lambda _: self.show(self.folder.value)))
        for name, field in self.controls.items():
            field.observe(guarded(say, partial(self._set, name)), names="value")
            self.observe(partial(self._follow, field), names=name)
        self.offered.observe(guarded(say, partial(self._clicked, "channel")), names="value")
        for name, view in [*self.panel.choosers, *self.beside_panel.choosers]:
            view.observe(guarded(say, partial(self._clicked, name)), names="cell")
        self.spikes.observe(guarded(say, lambda change: self._surface_clicked(*self.spikes.point)), names="clicks")
        self.observe(guarded(say, lambda change: self.refresh()), names=list(FIELDS))

    def _set(self, name: str, change: Any) -> None:
        try:
            setattr(self, name, change["new"])
        except ValueError:  # the page keeps what it shows, and the message says why
            self.controls[name].value = getattr(self, name)
            raise

    def _follow(self, field: Any, change: Any) -> None:
        """A control shows the trait; `set_ranges` has made room for it."""
        if field.value != change["new"]:
            field.value = change["new"]

    def _clicked(self, name: str, change: Any) -> None:
        if change["new"] is not None and change["new"] >= 0:
            setattr(self, name, change["new"])

    def _surface_clicked(self, token: int, channel: int) -> None:
        """Choose a point of the surface; where a cell covers several tokens and channels, the largest of these."""
        assert self.activations is not None
        if self.spikes.data["pooled"]:
            token, channel = lookup.largest_near(self.activations, self.state, token, channel)
        self.move(channel=channel, token=token)
