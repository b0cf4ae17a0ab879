"""What do CFG, Detail Guidance and both do to one picture, and what must be written to get it again?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets as t

from dg_tools.generation._generate import Interrupted, generate, name_of
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.widgets.guidance_settings import WAYS, Settings, code, export_pictures, export_profile, render
from dg_tools.widgets.parts import control, numbers, panel, panels, row, slider, within, words, write
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.run_fields import Asked, AskedFields, across
from dg_tools.widgets.runner import Messages, Runner, Tick, guarded
from dg_tools.widgets.watch import watched

FIELDS = ("weight", "channels", "block", "start", "stop")


class GuidanceExplorer(widgets.VBox):
    """Turn CFG and Detail Guidance up and down on one prompt; four pictures from the same noise.

    Args:
        dit: from `load`; None is the embedded model.
        channels, block: to disrupt; those of the model's profile where None.
        steps: denoising steps to begin with.
        height, width: of the pictures, in pixels; the pipeline's default where None.

    Attributes:
        weight, channels, block, start, stop: Detail Guidance (the window in fractions of the steps).
        images: PIL pictures of the last run by name.
        after: which of them the slider uncovers; `before`: over which.
    """

    weight, channels, block = t.Float(0.5), t.List(t.Int(), []), t.Int(0)
    start, stop = t.Float(0.0), t.Float(1.0)
    images = t.Dict({})
    before, after = t.Enum(WAYS, "CFG"), t.Enum(WAYS, "DG + CFG")

    def __init__(
        self,
        dit: DiT | None = None,
        *,
        channels: Sequence[int] | None = None,
        block: int | None = None,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-guidance-explorer")
        self.dit = load() if dit is None else dit
        self.messages = Messages()
        known = self.dit.profile or {}
        known_block = known.get("block")
        self._build(steps, (height, width))
        self.block = block if block is not None else len(self.dit.blocks) // 2 if known_block is None else known_block
        self.channels = list(channels if channels is not None else known.get("channels", []))
        check = guarded(self.messages, lambda change: self.check())
        self.observe(check, names=list(FIELDS))
        self.asked.observe(check)
        self.observe(guarded(self.messages, lambda change: self._compare()), names=["before", "after"])
        check(None)

    def __repr__(self) -> str:
        return f"GuidanceExplorer(w {self.weight:g}, channels {list(self.channels)}, block {self.block})"

    @t.validate("weight", "block")
    def _possible(self, proposal: Any) -> Any:
        return within(getattr(self, "links", {}).get(proposal["trait"].name), proposal)

    @property
    def state(self) -> Settings:
        """The settings.

        Raises:
            ValueError: no channels.
        """
        if not self.channels:
            raise ValueError(
                "no channel to disrupt: write channel numbers such as 3, 7 (ActivationExplorer finds them)"
            )
        return Settings(self.weight, tuple(self.channels), self.block, self.start, self.stop)

    def render(self, images: dict[str, Any] | None = None) -> tuple[dict[str, bytes], bytes]:
        """PNG bytes by name of the last run's pictures, or of pictures given, and of the uncovered one."""
        return render(self.images if images is None else images, self.after)

    def check(self) -> tuple[Settings, Asked]:
        """The settings, checked on this model and written out as code.

        Raises:
            ValueError, IndexError: what this model cannot take.
        """
        asked, settings = self.asked.read(), self.state
        height, width = self.asked.size
        for guidance in settings.guidances(asked.scale)[2:]:
            guidance.disrupt.check(self.dit, asked.steps, height, width)  # type: ignore[union-attr]
            guidance.check_window(asked.steps)  # type: ignore[union-attr]
        self.code.value = code(settings, asked)
        return settings, asked

    def run(self) -> None:
        """Draw what the fields say, here and now; errors are raised."""
        self.runner.run()

    def _draw(self, tick: Tick) -> None:
        settings, asked = self.check()
        self.asked.warn(self.messages)
        guidances = settings.guidances(asked.scale)
        try:
            with watched(self.dit, across(tick, len(guidances))):
                made = generate(self.dit, asked.prompt, **asked.call, guidance=guidances, progress=False)
        except Interrupted as stopped:
            if stopped.kept.images:
                self._show(dict(zip(WAYS, stopped.kept.images, strict=False)), settings, asked)
            raise
        self._show(dict(zip(WAYS, made.images, strict=True)), settings, asked)

    def _show(self, images: dict[str, Any], settings: Settings, asked: Asked) -> None:
        self.images, self.made_with = images, (settings, asked)
        pngs, _ = self.render()
        for name, guidance in zip(WAYS, settings.guidances(asked.scale), strict=True):
            self.pictures[name].png = pngs.get(name, b"")
            write(self.captions[name], name_of(guidance) if name in pngs else f"{name}: not drawn", "title")
        self._compare()
        self.below.layout.display = ""

    def _compare(self) -> None:
        pngs, after = self.render()
        self.slide.png, self.slide.after = pngs.get(self.before, b""), after
        self.slide.label = f"left {self.before}, right {self.after}: arrow keys move the edge"
        write(self.sides, f"left of the edge: {self.before}; right of it: {self.after}")

    def export(self, folder: str | Path) -> list[Path]:
        """Write the pictures as PNG, settings inside, and the profile as JSON; the paths.

        Raises:
            RuntimeError: nothing was run yet.
            ValueError: no folder named, or a file of that name.
        """
        if not self.images:
            raise RuntimeError("nothing drawn yet: press Run first, or call .run()")
        if not str(folder).strip():
            raise ValueError("no folder named: write where the pictures should go")
        settings, asked = self.made_with
        where, model = Path(str(folder).strip()).expanduser(), str(getattr(self.dit.pipeline, "name_or_path", ""))
        model = Path(model).name or type(self.dit.pipeline).__name__
        said = {**asked._asdict(), "model": model, "detail_guidance_scale": settings.weight,
                "channels": list(settings.channels), "block": settings.block,
                "detail_guidance_start": settings.start, "detail_guidance_stop": settings.stop}  # fmt: skip
        return [
            *export_pictures(where, self.images, said),
            export_profile(where / "profile.json", settings, asked, model),
        ]

    def _export(self) -> None:
        paths = self.export(self.folder.value)
        self.messages.say(f"Written to {self.folder.value.strip()}: {', '.join(p.name for p in paths)}.")

    # -- the page -----------------------------------------------------------------------------------------------------

    def _build(self, steps: int | None, size: tuple[int | None, int | None]) -> None:
        self.asked = AskedFields(self.dit, steps, *size, scale=3.0)
        self.runner = Runner("Run", self._draw, self.messages)
        self.weight_slider = control(
            widgets.FloatSlider, "DG weight w", "300px", min=0, max=5, step=0.1, value=0.5, continuous_update=False
        )
        self.channels_field = control(widgets.Text, "Channels", "220px", continuous_update=False)
        self.block_slider = slider("Block", len(self.dit.blocks) - 1)
        self.window = control(
            widgets.FloatRangeSlider, "DG window", "320px", min=0, max=1, step=0.05, value=(0, 1),
            continuous_update=False,
        )  # fmt: skip
        self.links = {"weight": self.weight_slider, "block": self.block_slider}
        for name, made in self.links.items():
            t.link((made, "value"), (self, name))
        say = self.messages
        self.channels_field.observe(
            guarded(say, lambda c: setattr(self, "channels", numbers(c["new"], "channels"))), names="value"
        )
        self.observe(lambda c: setattr(self.channels_field, "value", ", ".join(map(str, c["new"]))), names="channels")
        self.window.observe(guarded(say, lambda c: self._windowed(*c["new"])), names="value")
        self.observe(lambda c: setattr(self.window, "value", (self.start, self.stop)), names=["start", "stop"])

        self.captions = {n: words(n, "title") for n in WAYS}
        self.pictures = {
            n: Picture(width=210, pixelated=True, label=f"picture: {n}; Enter shows it right of the edge") for n in WAYS
        }
        for name, picture in self.pictures.items():
            picture.grid = [1, 1]
            picture.observe(guarded(say, partial(self._uncover, name)), names="clicks")
        self.slide, self.sides = Picture(width=320, pixelated=True), words("")
        self.zoom = control(widgets.IntSlider, "Zoom (pixels wide)", "320px", min=100, max=1000, step=10, value=210)
        self.zoom.observe(guarded(say, lambda c: self._zoomed(c["new"])), names="value")
        self.before_field = control(widgets.Dropdown, "Left", "170px", options=WAYS)
        self.after_field = control(widgets.Dropdown, "Right", "170px", options=WAYS)
        t.link((self, "before"), (self.before_field, "value"))
        t.link((self, "after"), (self.after_field, "value"))
        self.folder = control(widgets.Text, "Export to", "260px", value="guided")
        self.export_button = widgets.Button(description="PNG and profile", icon="download", layout={"width": "160px"})
        self.export_button.on_click(guarded(say, lambda _: self._export()))
        self.code = control(widgets.Textarea, "Code", "100%", rows=6)
        four = [widgets.VBox([self.captions[n], self.pictures[n]]) for n in WAYS]
        for box in four:
            box.add_class("dg-panel")
        self.below = widgets.VBox(
            [
                self.zoom,
                panels(*four),
                panel(
                    "Before and after (drag the edge)", row(self.before_field, self.after_field), self.slide, self.sides
                ),
                row(self.folder, self.export_button),
            ],
            layout={"display": "none"},
        )
        self.children = [
            self.asked.row,
            row(self.weight_slider, self.window),
            row(self.channels_field, self.block_slider),
            self.runner, self.messages, self.below, self.code,
        ]  # fmt: skip

    def _uncover(self, name: str, change: Any) -> None:
        self.after = name

    def _windowed(self, start: float, stop: float) -> None:
        self.start, self.stop = round(start, 4), round(stop, 4)

    def _zoomed(self, width: int) -> None:
        for picture in self.pictures.values():
            picture.width = width
        self.slide.width = round(1.5 * width)
