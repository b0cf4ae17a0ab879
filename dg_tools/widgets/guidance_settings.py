"""Four pictures of one prompt as settings, as code, and as files that say how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.guiders import BaseGuidance
from PIL.PngImagePlugin import PngInfo

from dg_tools.guidance.cfg import CFG
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.widgets.png import picture_png
from dg_tools.widgets.run_fields import Asked

WAYS = ("cond", "CFG", "DG", "DG + CFG")


@dataclass(frozen=True)
class Settings:
    """Detail Guidance as settings: w, what is disrupted where, and the window as fractions of the steps."""

    weight: float
    channels: tuple[int, ...]
    block: int
    start: float = 0.0
    stop: float = 1.0

    def guider(self, scale: float) -> DetailGuidance:
        """The guider at one CFG scale s."""
        return DetailGuidance(scale, self.weight, Disrupt(self.channels, self.block), self.start, self.stop)

    def guidances(self, scale: float) -> list[BaseGuidance | None]:
        """Of the four pictures, in the order of `WAYS`."""
        return [None, CFG(scale), self.guider(1.0), self.guider(scale)]


def code(settings: Settings, asked: Asked) -> str:
    """The same four pictures in the library's own words."""
    window = ""
    if (settings.start, settings.stop) != (0.0, 1.0):
        window = f", detail_guidance_start={settings.start:g}, detail_guidance_stop={settings.stop:g}"
    dg = f"{settings.weight:g}, disrupt=off{window})"
    return (
        f"off = dg.Disrupt({list(settings.channels)}, block={settings.block})\n"
        f"both = [dg.DetailGuidance(1.0, {dg}, dg.DetailGuidance({asked.scale:g}, {dg}]\n"
        f"guidance = [None, dg.CFG({asked.scale:g}), *both]\n"
        f"made = dg.generate({asked.code()}, guidance=guidance)\n"
        "made.grid()"
    )


def render(images: dict[str, Any], after: str) -> tuple[dict[str, bytes], bytes]:
    """PNG bytes of the pictures by name, and of the one that the slider uncovers."""
    made = {name: picture_png(image) for name, image in images.items()}
    return made, made.get(after, b"")


def export_pictures(folder: Path, images: dict[str, Any], settings: dict[str, Any]) -> list[Path]:
    """Write each picture as PNG with its settings in the metadata (key `dg_tools`, JSON).

    Raises:
        ValueError: the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, image in images.items():
        info = PngInfo()
        info.add_text("dg_tools", json.dumps({**settings, "guidance": name}))
        path = folder / f"{name.replace(' + ', '_').lower()}.png"
        image.save(path, pnginfo=info)
        paths.append(path)
    return paths


def export_profile(file: Path, settings: Settings, asked: Asked, model: str) -> Path:
    """Write a profile that `DetailGuidance(disrupt=str(file))` reads: channels, block, and how they were chosen."""
    profile = {
        "channels": list(settings.channels),
        "block": settings.block,
        "source": f"chosen by eye in GuidanceExplorer on {model}, prompt {asked.prompt!r}, seed {asked.seed}",
        "guidance": {
            "guidance_scale": asked.scale,
            "detail_guidance_scale": settings.weight,
            "detail_guidance_start": settings.start,
            "detail_guidance_stop": settings.stop,
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(profile, indent=1) + "\n", encoding="utf-8")
    return file
