"""Five pictures of one prompt as settings, as code, and as files that say how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers.guiders import BaseGuidance

from dg_tools.generation._generate import Generation
from dg_tools.generation.recipes import recipe, write_picture
from dg_tools.guidance.baselines.gain import Gain
from dg_tools.guidance.cfg import CFG
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.guidance.report import Report
from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import write_profile
from dg_tools.paths import free
from dg_tools.widgets.picture_changes import PictureChanges, compare_pictures
from dg_tools.widgets.png import picture_png
from dg_tools.widgets.run_fields import RunSettings

GAIN = "gain"  # the gain that DG contains, from one pass and without a weak model
VARIANTS = ("cond", "CFG", "DG", "DG + CFG", GAIN)
GUIDED = VARIANTS.index("DG")
STRIPS = {"weight": (0.0, 0.5, 1.0, 2.0, 3.0, 5.0), "rho": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)}
PLAIN = {"weight": 0.0, "rho": 1.0}  # where Detail Guidance adds nothing


@dataclass(frozen=True)
class GuidanceSettings:
    """Detail Guidance as settings: w, the channels and block to disrupt, the window as fractions of the steps, and rho.

    `rho` is the factor on the channels; 0 zeroes them.
    """

    weight: float
    channels: tuple[int, ...]
    block: int
    start: float = 0.0
    stop: float = 1.0
    rho: float = 0.0

    def disrupt(self) -> Disrupt:
        """The disruption: zero, or a dose.

        Raises:
            ValueError: a dose of 1.
        """
        if self.rho == 1:
            raise ValueError("rho 1 is the model as it is, so there is nothing to steer away from: move rho")
        if not self.rho:
            return Disrupt(self.channels, self.block)
        return Disrupt(self.channels, self.block, "scale", rho=self.rho)

    def moved(self, name: str, value: float) -> GuidanceSettings:
        """These settings with another `weight` or `rho`."""
        return replace(self, weight=value) if name == "weight" else replace(self, rho=value)

    def guider(self, scale: float) -> DetailGuidance:
        """The guider at one CFG scale s."""
        return DetailGuidance(scale, self.weight, self.disrupt(), self.start, self.stop)

    def guidances(self, scale: float) -> list[BaseGuidance | None]:
        """Guidances of all pictures except the last, whose gain is known after DG has run; ordered as `VARIANTS`."""
        return [None, CFG(scale), self.guider(1.0), self.guider(scale)]

    def own_gain(self, report: Report | None) -> BaseGuidance | None:
        """The gain that a run of DG contained, in its window; None where it guided in no step (w = 0).

        Raises:
            ValueError: it is not above 0.
        """
        if report is None or not report.gain:
            return None
        return Gain(1.0, gain=report.own_gain(self.weight), start=self.start, stop=self.stop)


def strip_of(settings: GuidanceSettings, over: str, scale: float) -> list[BaseGuidance | None]:
    """Both guidances at each value of a strip over `weight` or `rho`; where DG adds nothing, CFG alone."""
    plain = CFG(scale) if scale > 1 else None
    return [plain if v == PLAIN[over] else settings.moved(over, v).guider(scale) for v in STRIPS[over]]


def code(settings: GuidanceSettings, run: RunSettings) -> str:
    """The same pictures in the library's own words."""
    window = ""
    if (settings.start, settings.stop) != (0.0, 1.0):
        window = f", detail_guidance_start={settings.start:g}, detail_guidance_stop={settings.stop:g}"
    dose = f", mode='scale', rho={settings.rho:g}" if settings.rho else ""
    dg = f"{settings.weight:g}, disrupt=off{window})"
    louder = ""
    if settings.weight:
        acting = f", start={settings.start:g}, stop={settings.stop:g}" if window else ""
        gain = f"gain=made.guided[{GUIDED}].own_gain({settings.weight:g})"
        louder = f"louder = dg.generate({run.code()}, guidance=dg.baselines.Gain({gain}{acting}))\n"
    return (
        f"off = dg.Disrupt({list(settings.channels)}, block={settings.block}{dose})\n"
        f"both = [dg.DetailGuidance(1.0, {dg}, dg.DetailGuidance({run.scale:g}, {dg}]\n"
        f"guidance = [None, dg.CFG({run.scale:g}), *both]\n"
        f"made = dg.generate({run.code()}, guidance=guidance)\n"
        f"{louder}"
        "made.grid()"
    )


def render(images: dict[str, Any], after: str) -> tuple[dict[str, bytes], bytes]:
    """PNG bytes of the pictures by name, and of the one that the slider uncovers."""
    pngs = {name: picture_png(image) for name, image in images.items()}
    return pngs, pngs.get(after, b"")


def changes_of(images: Mapping[str, Any], cell: int) -> PictureChanges:
    """Pictures by name against the first, the one without guidance; `cell`: pixels of a latent cell."""
    return compare_pictures(list(images.values()), cell, list(images))


def numbers_of(images: Mapping[str, Any], made: Sequence[Generation], cell: int) -> list[list[str]]:
    """Numbers of pictures by name, and what each cost; the table's head first."""
    rows = changes_of(images, cell).rows
    return [*rows, ["rows through the transformer", *(str(n) for part in made for n in part.forwards)]]


def export(
    folder: Path,
    dit: DiT,
    made: Sequence[Generation],
    guidances: Sequence[BaseGuidance | None],
    settings: GuidanceSettings,
    run: RunSettings,
) -> list[Path]:
    """Write each picture as PNG with its recipe, and the guidance as `profile.json`; the paths.

    Raises:
        ValueError: the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    drawn = [x for part in made for x in zip(part.images, part.settings, part.guided, strict=False)]
    for name, guidance, (image, call, report) in zip(VARIANTS, guidances, drawn, strict=False):
        file = folder / f"{name.replace(' + ', '_').lower()}.png"
        paths.append(write_picture(image, file, recipe(dit, call, guidance, report)))
    profile = free(folder / "profile.json")
    write_profile(profile, profile_of(dit, settings, run))
    return [*paths, profile]


def profile_of(dit: DiT, settings: GuidanceSettings, run: RunSettings) -> dict[str, Any]:
    """The settings as a profile, which `DetailGuidance.from_profile` reads."""
    model = Path(str(getattr(dit.pipeline, "name_or_path", "") or "")).name or type(dit.pipeline).__name__
    return {
        "model": model,
        "channels": list(settings.channels),
        "block": settings.block,
        **({"mode": "scale", "rho": settings.rho} if settings.rho else {}),
        "guidance_scale": run.scale,
        "detail_guidance_scale": settings.weight,
        "window": [settings.start, settings.stop],
        "source": f"chosen by eye in GuidanceExplorer on {model}, prompt {run.prompt!r}, seed {run.seed}",
    }
