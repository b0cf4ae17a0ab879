"""What does this edit take away, and does a control of the same size take away the same?

The reader builds a `Disrupt`; the button draws clean, disrupted and control from the same noise. `render` compares the
pictures; `code` writes the edit out, so that what was found here can be run elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets as t

from dg_tools.activations import capture
from dg_tools.generation._generate import generate
from dg_tools.guidance.cfg import CFG
from dg_tools.interventions import Disrupt
from dg_tools.massive import find_massive
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.widgets.edit_settings import CONTROL_KINDS, NAMES, OWN, Comparison, Plan, code, render
from dg_tools.widgets.parts import control, numbers, panel, panels, row, slider, table, within, words, write
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.png import draw, picture_png
from dg_tools.widgets.run_fields import Asked, AskedFields, across
from dg_tools.widgets.runner import Messages, Runner, Tick, guarded
from dg_tools.widgets.watch import watched

FIELDS = ("channels", "block", "mode", "rho", "steps", "tokens", "kind", "draw")


class InterventionExplorer(widgets.VBox):
    """Build an edit, and see clean, disrupted and control from the same noise.

    Args:
        dit: from `load`; None is the embedded model.
        massive: channels to offer; those of the model's profile where None, and a button detects them.
        steps: denoising steps to begin with.
        height, width: of the pictures, in pixels; the pipeline's default where None.

    Attributes:
        channels, block, mode, rho, steps, tokens: of the edit (`steps` first and last; empty: all).
        kind, draw: of the control.
        images: PIL pictures of the last run by name.
    """

    channels, block = t.List(t.Int(), []), t.Int(0)
    mode, rho = t.Enum(OWN, "zero"), t.Float(0.5)
    steps, tokens = t.List(t.Int(), []), t.List(t.Int(), [])
    kind, draw = t.Enum(CONTROL_KINDS, "shift"), t.Int(0)
    images = t.Dict({})

    def __init__(
        self,
        dit: DiT | None = None,
        *,
        massive: Sequence[int] | None = None,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-intervention-explorer")
        self.dit = load() if dit is None else dit
        self.lock, self.messages = RLock(), Messages()
        known = self.dit.profile or {}
        self._clean: tuple[Asked, Any] | None = None
        self._build(steps, (height, width))
        block = known.get("block")
        self.block = len(self.dit.blocks) // 2 if block is None else block
        self.offer(list(massive) if massive is not None else list(known.get("channels", [])))
        self.observe(guarded(self.messages, lambda change: self.check()), names=list(FIELDS))
        self.asked.observe(guarded(self.messages, lambda change: self.check()))
        guarded(self.messages, lambda _: self.check())(None)

    def __repr__(self) -> str:
        return f"InterventionExplorer({self.mode} channels {list(self.channels)}, block {self.block})"

    @t.validate("block", "rho", "draw")
    def _possible(self, proposal: Any) -> Any:
        return within(getattr(self, "links", {}).get(proposal["trait"].name), proposal)

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Plan:
        """The edit and its control.

        Raises:
            ValueError: no channels yet.
        """
        if not self.channels:
            raise ValueError("no channel chosen: press Detect, or write channel numbers such as 3, 7")
        steps = (self.steps[0], self.steps[1]) if self.steps and self.steps != [0, self.asked.steps.value - 1] else None
        tokens = tuple(self.tokens) or None
        return Plan(tuple(self.channels), self.block, self.mode, self.rho, steps, tokens, self.kind, self.draw)

    def render(self, images: Sequence[Any] | None = None) -> Comparison:
        """The comparison of the last run, or of pictures given (the clean one first).

        Raises:
            RuntimeError: nothing was run yet.
        """
        if images is None and not self.images:
            raise RuntimeError("nothing drawn yet: press Run, or call .run()")
        return render(list(self.images.values()) if images is None else images)

    def check(self) -> tuple[Plan, Asked]:
        """The settings, checked on this model, written out as a sentence and as code.

        Raises:
            ValueError, IndexError: what this model cannot take.
        """
        asked = self.asked.read()
        self.step_range.max = asked.steps - 1
        plan = self.state
        off, _ = plan.edits()
        height, width = self.asked.size
        off.check(self.dit, asked.steps, height, width)
        write(self.words, off.sentence())
        self.code.value = code(plan, asked)
        return plan, asked

    def offer(self, channels: Sequence[int]) -> None:
        """Offer detected channels, and choose them."""
        self.offered.options = [(str(c), int(c)) for c in channels]
        self.offered.rows = max(2, min(5, len(channels)))
        if channels:
            self.channels = [int(c) for c in channels]

    # -- runs ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Draw what the fields say, here and now; errors are raised."""
        self.runner.run()

    def _draw(self, tick: Tick) -> None:
        plan, asked = self.check()
        self.asked.warn(self.messages)
        edits: list[Disrupt | None] = list(plan.edits())
        known = self._clean[1] if self._clean and self._clean[0] == asked else None
        if known is None:
            edits.insert(0, None)
        guidance = CFG(asked.scale) if asked.scale > 1 else None
        with watched(self.dit, across(tick, len(edits))):
            made = generate(
                self.dit, asked.prompt, **asked.call, guidance=guidance, edits=edits,
                progress=False,
            )  # fmt: skip
        images = made.images if known is None else [known, *made.images]
        self._clean = (asked, images[0])
        with self.lock:
            self.images = dict(zip(NAMES, images, strict=True))
            self._show()

    def _detect(self, tick: Tick) -> None:
        asked = self.asked.read()
        with watched(self.dit, tick):
            acts = capture(
                self.dit, asked.prompt, seeds=asked.seed, steps=asked.steps, height=asked.height, width=asked.width,
                progress=False,
            )  # fmt: skip
        found = find_massive(acts, blocks=min(2, len(self.dit.blocks)))
        if not found.channels:
            raise ValueError(f"no massive channel on this prompt ({found.rule}): write channel numbers yourself")
        self.offer(found.channels)
        self.messages.say(f"Detected: channels {found.channels} ({found.rule}).")

    def _show(self) -> None:
        """Put the pictures of the last run on the page."""
        view = self.render()
        for name, image in self.images.items():
            self.pictures[name].png = picture_png(image)
        for picture, figure in zip(self.differences, view.differences, strict=True):
            picture.draw(draw(figure))
        self.spectrum.draw(draw(view.spectrum))
        self.table.value = table(view.rows)
        self.below.layout.display = ""

    # -- the page -----------------------------------------------------------------------------------------------------

    def _build(self, steps: int | None, size: tuple[int | None, int | None]) -> None:
        self.asked = AskedFields(self.dit, steps, *size)
        self.runner = Runner("Run", self._draw, self.messages)
        self.detector = Runner("Detect channels", self._detect, self.messages)
        self.detector.button.icon, self.detector.button.button_style = "search", ""
        self.channels_field = control(widgets.Text, "Channels", "220px", continuous_update=False)
        self.offered = control(widgets.SelectMultiple, "Detected", "170px", options=[], rows=2)
        self.block_slider = slider("Block", len(self.dit.blocks) - 1)
        self.mode_field = control(widgets.Dropdown, "Mode", "150px", options=OWN)
        self.rho_field = control(widgets.FloatSlider, "rho", "220px", min=0, max=2, step=0.05, value=0.5)
        last = self.asked.steps.value - 1
        self.step_range = control(
            widgets.IntRangeSlider, "Steps of the edit", "320px", min=0, max=last, value=(0, last),
            continuous_update=False,
        )  # fmt: skip
        self.kind_field = control(widgets.Dropdown, "Control", "200px", options=CONTROL_KINDS)
        self.draw_field = control(widgets.BoundedIntText, "Draw", "120px", min=0, max=9999)
        self.everywhere = widgets.Button(description="All tokens", layout={"width": "110px"})
        self.region = words("Edit acts on all tokens.")

        self.links: dict[str, Any] = {"block": self.block_slider, "mode": self.mode_field, "rho": self.rho_field}
        self.links |= {"kind": self.kind_field, "draw": self.draw_field}
        for name, made in self.links.items():
            t.link((made, "value"), (self, name))
        self.rho_field.disabled = True  # `scale` is the one mode that reads it
        self.observe(lambda c: setattr(self.rho_field, "disabled", c["new"] != "scale"), names="mode")
        say = self.messages
        self.channels_field.observe(
            guarded(say, lambda c: setattr(self, "channels", numbers(c["new"], "channels"))), names="value"
        )
        self.observe(lambda c: setattr(self.channels_field, "value", ", ".join(map(str, c["new"]))), names="channels")
        self.offered.observe(guarded(say, lambda c: self._offered(c["new"])), names="value")
        self.step_range.observe(guarded(say, lambda c: setattr(self, "steps", list(c["new"]))), names="value")
        self.everywhere.on_click(guarded(say, lambda _: setattr(self, "tokens", [])))
        self.observe(guarded(say, lambda c: self._mark(c["new"])), names="tokens")

        rows, columns = self.dit.grid(*self.asked.size)
        self.pictures = {n: Picture(width=210, pixelated=True, label=f"picture: {n}") for n in NAMES}
        clean = self.pictures["clean"]
        clean.grid, clean.boxes = [rows, columns], True
        clean.label = "clean picture: drag a box over the tokens to edit, or press Shift and arrow keys; Escape for all"
        clean.observe(guarded(say, lambda c: self._boxed(c["new"])), names="box")
        clean.observe(guarded(say, lambda c: self._clicked()), names="clicks")
        self.differences = [Picture(width=290, label=f"difference: {n}") for n in NAMES[1:]]
        self.spectrum, self.table = Picture(width=400, label="spectra"), widgets.HTML()
        self.words = words("")
        self.code = control(widgets.Textarea, "Code", "100%", rows=6)
        titles = {"clean": "clean (drag a box)", "disrupted": "disrupted", "control": "matched control"}
        self.below = widgets.VBox(
            [
                panels(*(panel(titles[n], p) for n, p in self.pictures.items())),
                row(self.everywhere, self.region),
                panels(
                    *(panel("What changed?", p) for p in self.differences),
                    panel("Which detail is gone?", self.spectrum),
                ),
                panel("Numbers", self.table),
            ],
            layout={"display": "none"},
        )
        self.children = [
            self.asked.row,
            row(self.channels_field, self.offered, self.detector),
            row(self.block_slider, self.mode_field, self.rho_field),
            row(self.step_range, self.kind_field, self.draw_field),
            self.words, self.runner, self.messages, self.below, self.code,
        ]  # fmt: skip

    def _boxed(self, box: list[float]) -> None:
        if not box:
            self.tokens = []
            return
        height, width = self.asked.size
        left, top, right, bottom = box
        inside = self.dit.tokens(
            [(left * width, top * height, right * width, bottom * height)], height=height, width=width
        )
        self.tokens = inside

    def _offered(self, chosen: Sequence[int]) -> None:
        if chosen:
            self.channels = list(chosen)

    def _clicked(self) -> None:
        """A click on a token takes that one."""
        picture = self.pictures["clean"]
        rows, columns = picture.grid
        y, x = divmod(picture.cell, columns)
        picture.box = [x / columns, y / rows, (x + 1) / columns, (y + 1) / rows]

    def _mark(self, tokens: list[int]) -> None:
        if not tokens:
            self.pictures["clean"].box = []
        count, whole = len(tokens), int(np.prod(self.dit.grid(*self.asked.size)))
        write(self.region, f"Edit acts on {count} of {whole} tokens." if tokens else "Edit acts on all tokens.")
