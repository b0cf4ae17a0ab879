"""The explorer of guidance: what CFG, Detail Guidance and both do to one picture, and the code that makes it again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import traitlets as t
from diffusers.guiders import BaseGuidance

from dg_tools.generation._generate import Generation, Interrupted, generate, name_of
from dg_tools.guidance.auto import default_profile
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import profile_words
from dg_tools.plots.pictures import image_grid
from dg_tools.widgets import guidance_settings as five
from dg_tools.widgets.edit_settings import dose_of
from dg_tools.widgets.guidance_page import GuidancePage
from dg_tools.widgets.guidance_settings import GAIN, GUIDED, VARIANTS, GuidanceSettings, code
from dg_tools.widgets.kept_page import page, pictures_data, write_page
from dg_tools.widgets.parts import check_range, parse_numbers, set_text, table
from dg_tools.widgets.picture_changes import difference_png
from dg_tools.widgets.run_fields import RunSettings
from dg_tools.widgets.runner import guarded
from dg_tools.widgets.saving import save
from dg_tools.widgets.watch import Tick, across, watched

FIELDS = ("weight", "channels", "block", "rho", "start", "stop")


class GuidanceExplorer(GuidancePage):
    """Turn CFG and Detail Guidance up and down on one prompt; five pictures from the same noise.

    The last shows only the gain that Detail Guidance contains: one pass gives it, without a weak model.

    Args:
        dit: from `load`; None is the embedded model.
        channels, block, rho: to disrupt, and the factor on the channels (0: zeroed, 1: clean). All None: those of the
            default profile, with its w and window; the page says so. Your own channels or block are zeroed where rho is
            None.
        steps: denoising steps to begin with.
        height, width: of the pictures, in pixels; the pipeline's default where None.

    Attributes:
        weight, channels, block, rho, start, stop: Detail Guidance (the window in fractions of the steps).
        images: PIL pictures of the last run by name.
        after: which of them the slider uncovers; `before`: over which.
    """

    weight = t.Float(0.5)
    channels = t.List(t.Int(), [])
    block = t.Int(0)
    rho = t.Float(0.0)
    start = t.Float(0.0)
    stop = t.Float(1.0)
    images = t.Dict({})
    before = t.Enum(VARIANTS, "CFG")
    after = t.Enum(VARIANTS, "DG + CFG")

    def __init__(
        self,
        dit: DiT | None = None,
        *,
        channels: Sequence[int] | None = None,
        block: int | None = None,
        rho: float | None = None,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        dit = load() if dit is None else dit
        super().__init__(dit, self._generate, self._generate_strip, self.save, steps, height, width)
        self.dit = dit
        self.lock = RLock()
        self._connect()
        profile = default_profile(dit) or {}
        own = channels is not None or block is not None
        profile_block = profile.get("block")
        self.block = block if block is not None else len(dit.blocks) // 2 if profile_block is None else profile_block
        self.channels = list(channels if channels is not None else profile.get("channels", []))
        self.rho = rho if rho is not None else 0.0 if own else dose_of(profile)
        if profile and not own and rho is None:
            self.weight = profile.get("detail_guidance_scale", self.weight)
            self.start, self.stop = profile.get("window", (self.start, self.stop))
            set_text(self.origin, f"The profile: {profile_words(profile)}.")
        check = guarded(self.messages, lambda change: self._changed())
        self.observe(check, names=list(FIELDS))
        self.run_fields.observe(check)
        self.observe(guarded(self.messages, lambda change: self._compare()), names=["before", "after"])
        check(None)

    def __repr__(self) -> str:
        return f"GuidanceExplorer(w {self.weight:g}, channels {list(self.channels)}, block {self.block})"

    @t.validate("weight", "block", "rho")
    def _in_range(self, proposal: Any) -> Any:
        return check_range(getattr(self, "links", {}).get(proposal["trait"].name), proposal)

    @property
    def state(self) -> GuidanceSettings:
        """The settings.

        Raises:
            ValueError: no channels.
        """
        if not self.channels:
            raise ValueError(
                "no channel to disrupt: write channel numbers such as 3, 7 (ActivationExplorer finds them)"
            )
        return GuidanceSettings(self.weight, tuple(self.channels), self.block, self.start, self.stop, self.rho)

    def render(self, images: dict[str, Any] | None = None) -> tuple[dict[str, bytes], bytes]:
        """PNG bytes by name of the last run's pictures, or of the pictures passed in, and of the uncovered one."""
        return five.render(self.images if images is None else images, self.after)

    def check(self) -> tuple[GuidanceSettings, RunSettings]:
        """The settings, checked on this model.

        Raises:
            ValueError, IndexError: what this model cannot take.
        """
        run, settings = self.run_fields.read(), self.state
        settings.guider(run.scale).check(self.dit, run.steps, *self.run_fields.size)
        return settings, run

    def _changed(self) -> None:
        """After a change: what was run with these settings before is shown, or what is shown is dimmed."""
        settings = None
        try:
            settings = self.check()
        finally:
            with self.lock:
                if settings is not None and settings != self.shown.settings and (kept := self.shown.kept(settings)):
                    made, guidances = kept
                    self._show(made, guidances, *settings)
                self.shown.compare(settings)
                self.strip.shown.compare(settings and self._of_strip(*settings))
                if settings is not None and self.shown.settings is None:
                    self.code.value = code(*settings)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Generate with the settings of the fields, here and now; errors are raised."""
        self.runner.run()

    def _generate(self, tick: Tick) -> None:
        settings, run = self.check()
        self.run_fields.warn(self.messages)
        guidances = settings.guidances(run.scale)
        draw = partial(generate, self.dit, run.prompt, **run.call, progress=False)
        made: list[Generation] = []
        try:
            with watched(self.dit, across(tick, len(VARIANTS))):
                made.append(draw(guidance=guidances))
                guidances.append(settings.own_gain(made[0].guided[GUIDED]))
                made.append(draw(guidance=guidances[-1]))
        except Interrupted as stopped:
            made += [stopped.kept] if stopped.kept.images else []
            if made:
                self._show(made, guidances, settings, run)
            raise
        with self.lock:
            self._show(made, guidances, settings, run)
        self._changed()  # the fields may have moved on meanwhile

    def _of_strip(self, settings: GuidanceSettings, run: RunSettings) -> tuple:
        """The settings that the strip depends on: all except the one that it varies."""
        over = self.strip.over.value
        return over, settings.moved(over, five.PLAIN[over]), run

    def _generate_strip(self, tick: Tick) -> None:
        settings, run = self.check()
        over, _, _ = of = self._of_strip(settings, run)
        put = partial(self.strip.put, over, settings=of, cell=self.dit.vae_scale_factor)
        guidances = five.strip_of(settings, over, run.scale)
        try:
            with watched(self.dit, across(tick, len(guidances))):
                put(generate(self.dit, run.prompt, **run.call, guidance=guidances, progress=False).images)
        except Interrupted as stopped:
            put(stopped.kept.images)
            raise
        self._changed()

    def _show(
        self,
        made: list[Generation],
        guidances: list[BaseGuidance | None],
        settings: GuidanceSettings,
        run: RunSettings,
    ) -> None:
        """Put the pictures of a run on the page; a run that was cancelled has fewer than five."""
        self.last = made, guidances, settings, run
        self.code.value = code(settings, run)
        self.images = dict(zip(VARIANTS, [image for part in made for image in part.images], strict=False))
        pngs, _ = self.render()
        for i, name in enumerate(VARIANTS):
            self.pictures[name].png = pngs.get(name, b"")
            title = f"{name}: not drawn" if name not in pngs else name_of(guidances[i])
            set_text(self.captions[name], f"DG's own: {title}" if name == GAIN and name in pngs else title, "title")
        self.numbers.value = table(five.numbers_of(self.images, made, self.dit.vae_scale_factor))
        self._compare()
        for part in self.drawn:
            part.layout.display = ""
        whole = len(self.images) == len(VARIANTS)
        self.shown.put((settings, run), (made, guidances) if whole else None)

    def _drawn(self) -> None:
        if not self.images:
            raise RuntimeError("nothing drawn yet: press Run first, or call .run()")

    def to_html(self, path: str | Path) -> Path:
        """Write what is shown as one file that opens without a kernel or a network; its path.

        Raises:
            RuntimeError: nothing was run yet.
            ValueError, FileNotFoundError: a path that cannot be written.
        """
        self._drawn()
        made, guidances, _, run = self.last
        changes = five.changes_of(self.images, self.dit.vae_scale_factor)
        sides = [name if name in self.images else VARIANTS[0] for name in (self.before, self.after)]
        rows = five.numbers_of(self.images, made, self.dit.vae_scale_factor)
        data = pictures_data(self.images, sides[0], sides[1], changes, rows, self.code.value)
        about = f"{run.prompt}, seed {run.seed}: {', '.join(map(name_of, guidances))}, from the same noise."
        return write_page(path, page("Guidance", about, {"pictures": data}))

    def save(self, path: str | Path) -> list[Path]:
        """Write a page (`.html`) or a figure (`.png`, `.svg`, `.pdf`) of what is shown; the paths."""
        self._drawn()
        return save(path, self.to_html, lambda: {"pictures": image_grid(list(self.images.values()), list(self.images))})

    def _compare(self) -> None:
        pngs, after = self.render()
        both = [self.images.get(name) for name in (self.before, self.after)]
        left, right = (None if image is None else np.asarray(image, np.float32) / 255 for image in both)
        self.difference.png = b"" if left is None or right is None else difference_png(right, left)
        self.slide.png = pngs.get(self.before, b"")
        self.slide.after = after
        self.slide.label = f"left {self.before}, right {self.after}: arrow keys move the edge"

    def export(self, folder: str | Path) -> list[Path]:
        """Write the pictures as PNG and the guidance as `profile.json`; the paths.

        Each PNG carries its recipe: `dg-tools generate --from PICTURE` makes it again. `DetailGuidance.from_profile`
        reads the profile. No file is replaced: a name that is taken gets a number.

        Raises:
            RuntimeError: nothing was run yet.
            ValueError: no folder named, or a file of that name.
        """
        self._drawn()
        if not str(folder).strip():
            raise ValueError("no folder named: write where the pictures should go")
        return five.export(Path(str(folder).strip()).expanduser(), self.dit, *self.last)

    def _export(self) -> None:
        paths = self.export(self.folder.value)
        self.messages.say(f"Written to {self.folder.value.strip()}: {', '.join(p.name for p in paths)}.")

    # -- controls and clicks ------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        say = self.messages
        for name, field in self.links.items():
            t.link((field, "value"), (self, name))
        self.channels_field.observe(guarded(say, lambda c: self._set_channels(c["new"])), names="value")
        self.observe(lambda c: setattr(self.channels_field, "value", ", ".join(map(str, c["new"]))), names="channels")
        self.window.observe(guarded(say, lambda c: self._set_window(*c["new"])), names="value")
        self.observe(lambda c: setattr(self.window, "value", (self.start, self.stop)), names=["start", "stop"])
        for name, picture in self.pictures.items():
            picture.observe(guarded(say, partial(self._uncover, name)), names="clicks")
        self.zoom.observe(guarded(say, lambda c: self.set_zoom(c["new"])), names="value")
        self.strip.over.observe(guarded(say, lambda c: self._changed()), names="value")
        t.link((self, "before"), (self.before_field, "value"))
        t.link((self, "after"), (self.after_field, "value"))
        self.export_button.on_click(guarded(say, lambda _: self._export()))

    def _set_channels(self, text: str) -> None:
        self.channels = parse_numbers(text, "channels")

    def _set_window(self, start: float, stop: float) -> None:
        self.start = round(start, 4)
        self.stop = round(stop, 4)

    def _uncover(self, name: str, change: Any) -> None:
        self.after = name
