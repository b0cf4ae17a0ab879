"""The explorer of edits: what does this edit remove, and does a control of the same size remove the same?

The reader builds a `Disrupt`; the button makes clean, disrupted and control pictures from the same noise. `render`
compares the pictures; `code` writes the edit out, so that it can be run elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import traitlets as t
from matplotlib.figure import Figure

from dg_tools.activations import capture
from dg_tools.generation._generate import generate
from dg_tools.guidance.auto import default_profile
from dg_tools.guidance.cfg import CFG
from dg_tools.interventions import Disrupt
from dg_tools.massive import find_massive
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import profile_words
from dg_tools.plots.pictures import image_grid
from dg_tools.widgets.edit_settings import CONTROL_KINDS, EDIT_MODES, NAMES, EditSettings, code, dose_of
from dg_tools.widgets.intervention_page import InterventionPage
from dg_tools.widgets.kept_page import page, pictures_data, write_page
from dg_tools.widgets.parts import check_range, parse_numbers, set_text
from dg_tools.widgets.picture_changes import PictureChanges, compare_pictures
from dg_tools.widgets.run_fields import RunSettings
from dg_tools.widgets.runner import guarded
from dg_tools.widgets.saving import save
from dg_tools.widgets.watch import Tick, across, watched

FIELDS = ("channels", "block", "mode", "rho", "steps", "tokens", "kind", "draw")


class InterventionExplorer(InterventionPage):
    """Build an edit, and see clean, disrupted and control from the same noise.

    Args:
        dit: from `load`; None is the embedded model.
        massive: channels to offer; those of the default profile where None, with its block and its dose, which the page
            says; a button detects them.
        steps: denoising steps to begin with.
        height, width: of the pictures, in pixels; the pipeline's default where None.

    Attributes:
        channels, block, mode, rho, steps, tokens: of the edit (`steps` first and last; empty: all).
        kind, draw: of the control.
        images: PIL pictures of the last run by name.
    """

    channels = t.List(t.Int(), [])
    block = t.Int(0)
    mode = t.Enum(EDIT_MODES, "zero")
    rho = t.Float(0.5)
    steps = t.List(t.Int(), [])
    tokens = t.List(t.Int(), [])
    kind = t.Enum(CONTROL_KINDS, "shift")
    draw = t.Int(0)
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
        dit = load() if dit is None else dit
        super().__init__(dit, self._generate, self._detect, self.save, steps, height, width)
        self.dit = dit
        self.lock = RLock()
        self._clean: tuple[RunSettings, Any] | None = None
        self._connect()
        profile = default_profile(dit) or {}
        block = profile.get("block")
        self.block = len(dit.blocks) // 2 if block is None else block
        if massive is None and profile.get("mode") in EDIT_MODES:
            self.mode, self.rho = profile["mode"], dose_of(profile)
        if massive is None and profile:
            set_text(self.origin, f"The profile: {profile_words(profile)}.")
        self.offer(list(massive) if massive is not None else list(profile.get("channels", [])))
        check = guarded(self.messages, lambda change: self._changed())
        self.observe(check, names=list(FIELDS))
        self.run_fields.observe(check)
        check(None)

    def __repr__(self) -> str:
        return f"InterventionExplorer({self.mode} channels {list(self.channels)}, block {self.block})"

    @t.validate("block", "rho", "draw")
    def _in_range(self, proposal: Any) -> Any:
        return check_range(getattr(self, "links", {}).get(proposal["trait"].name), proposal)

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> EditSettings:
        """The edit and its control.

        Raises:
            ValueError: no channels yet.
        """
        if not self.channels:
            raise ValueError("no channel chosen: press Detect, or write channel numbers such as 3, 7")
        every_step = not self.steps or self.steps == [0, self.run_fields.steps.value - 1]
        steps = None if every_step else (self.steps[0], self.steps[1])
        tokens = tuple(self.tokens) or None
        return EditSettings(tuple(self.channels), self.block, self.mode, self.rho, steps, tokens, self.kind, self.draw)

    def render(self, images: Sequence[Any] | None = None) -> PictureChanges:
        """What changed in the last run's pictures, or in pictures passed in (the clean one first).

        Raises:
            RuntimeError: nothing was run yet.
        """
        if images is None and not self.images:
            raise RuntimeError("nothing drawn yet: press Run, or call .run()")
        return compare_pictures(list(self.images.values()) if images is None else images, self.dit.vae_scale_factor)

    def check(self) -> tuple[EditSettings, RunSettings]:
        """The settings, checked on this model and written out as a sentence.

        Raises:
            ValueError, IndexError: what this model cannot take.
        """
        run, settings = self.run_fields.read(), self.state
        off, _ = settings.edits()
        off.check(self.dit, run.steps, *self.run_fields.size)
        set_text(self.words, settings.sentence())
        return settings, run

    def _changed(self) -> None:
        """After a change: what was run with these settings before is shown, or what is shown is dimmed."""
        settings = None
        try:
            settings = self.check()
        finally:
            with self.lock:
                if settings is not None and (images := self.shown.kept(settings)):
                    self._show(settings, images)
                self.shown.compare(settings)
                if settings is not None and self.shown.settings is None:
                    self.code.value = code(*settings)

    def _show(self, settings: tuple[EditSettings, RunSettings], images: dict[str, Any]) -> None:
        """Put pictures, and the settings that made them, on the page."""
        if self.shown.settings != settings:
            self.images = images
            self.show_pictures(images, self.render())
            self.code.value = code(*settings)
        self.shown.put(settings, images)

    def to_html(self, path: str | Path) -> Path:
        """Write what is shown as one file that opens without a kernel or a network; its path.

        Raises:
            RuntimeError: nothing was run yet.
            ValueError, FileNotFoundError: a path that cannot be written.
        """
        changes = self.render()
        data = pictures_data(self.images, *NAMES[:2], changes, changes.rows, self.code.value)
        settings, run = self.shown.settings
        about = f"{run.prompt}, seed {run.seed}: {settings.sentence()}."
        return write_page(path, page("An edit and its control", about, {"pictures": data}))

    def save(self, path: str | Path) -> list[Path]:
        """Write a page (`.html`) or the figures (`.png`, `.svg`, `.pdf`) of what is shown; the paths."""
        changes = self.render()
        names = list(self.images)

        def figures() -> dict[str, Figure]:
            differences = {f"difference_{n}": f for n, f in zip(names[1:], changes.differences, strict=True)}
            pictures = image_grid(list(self.images.values()), names)
            return {"pictures": pictures, **differences, "spectrum": changes.spectrum}

        return save(path, self.to_html, figures)

    def offer(self, channels: Sequence[int]) -> None:
        """Offer detected channels, and choose them."""
        self.offered.options = [(str(c), int(c)) for c in channels]
        self.offered.rows = max(2, min(5, len(channels)))
        if channels:
            self.channels = [int(c) for c in channels]

    # -- runs ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Generate with the settings of the fields, here and now; errors are raised."""
        self.runner.run()

    def _generate(self, tick: Tick) -> None:
        settings, run = self.check()
        self.run_fields.warn(self.messages)
        edits: list[Disrupt | None] = list(settings.edits())
        clean = self._clean[1] if self._clean and self._clean[0] == run else None
        if clean is None:
            edits.insert(0, None)
        guidance = CFG(run.scale) if run.scale > 1 else None
        with watched(self.dit, across(tick, len(edits))):
            generation = generate(self.dit, run.prompt, **run.call, guidance=guidance, edits=edits, progress=False)
        images = generation.images if clean is None else [clean, *generation.images]
        self._clean = (run, images[0])
        with self.lock:
            self._show((settings, run), dict(zip(NAMES, images, strict=True)))
        self._changed()  # the fields may have moved on meanwhile

    def _detect(self, tick: Tick) -> None:
        run = self.run_fields.read()
        with watched(self.dit, tick):
            acts = capture(
                self.dit,
                run.prompt,
                seeds=run.seed,
                steps=run.steps,
                height=run.height,
                width=run.width,
                progress=False,
            )
        massive = find_massive(acts, blocks=min(2, len(self.dit.blocks)))
        if not massive.channels:
            raise ValueError(f"no massive channel on this prompt ({massive.rule}): write channel numbers yourself")
        self.offer(massive.channels)
        self.messages.say(f"Detected: channels {massive.channels} ({massive.rule}).")

    # -- controls and clicks ------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        say = self.messages
        for name, field in self.links.items():
            t.link((field, "value"), (self, name))
        self.observe(lambda c: setattr(self.rho_field, "disabled", c["new"] != "scale"), names="mode")
        self.channels_field.observe(guarded(say, lambda c: self._set_channels(c["new"])), names="value")
        self.observe(lambda c: setattr(self.channels_field, "value", ", ".join(map(str, c["new"]))), names="channels")
        self.offered.observe(guarded(say, lambda c: self._choose_offered(c["new"])), names="value")
        self.run_fields.steps.observe(guarded(say, lambda c: self.follow_steps(c["new"])), names="value")
        self.step_range.observe(guarded(say, lambda c: setattr(self, "steps", list(c["new"]))), names="value")
        self.everywhere.on_click(guarded(say, lambda _: setattr(self, "tokens", [])))
        self.observe(guarded(say, lambda c: self.show_token_count(len(c["new"]))), names="tokens")
        clean = self.pictures["clean"]
        clean.observe(guarded(say, lambda c: self._boxed(c["new"])), names="box")
        clean.observe(guarded(say, lambda c: self._clicked()), names="clicks")

    def _set_channels(self, text: str) -> None:
        self.channels = parse_numbers(text, "channels")

    def _choose_offered(self, channels: Sequence[int]) -> None:
        if channels:
            self.channels = list(channels)

    def _boxed(self, box: list[float]) -> None:
        """A box chooses the tokens that it touches."""
        if not box:
            self.tokens = []
            return
        height, width = self.run_fields.size
        left, top, right, bottom = box
        pixels = (left * width, top * height, right * width, bottom * height)
        self.tokens = list(self.dit.tokens([pixels], height=height, width=width))

    def _clicked(self) -> None:
        """A click on a token chooses that one."""
        picture = self.pictures["clean"]
        rows, columns = picture.grid
        y, x = divmod(picture.cell, columns)
        picture.box = [x / columns, y / rows, (x + 1) / columns, (y + 1) / rows]
