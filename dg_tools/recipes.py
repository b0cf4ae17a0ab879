"""How was this picture made? Its settings travel in the PNG itself, and make it again.

Kept under one key as JSON: model and hash of its weights, precision, device and versions; prompt, seed, steps and size;
guidance with the disruption whole. A model's folder is kept by its name only.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a picture that holds no settings is refused before torch is loaded
    from diffusers.guiders import BaseGuidance

    from dg_tools.generation import Generation
    from dg_tools.models import DiT

KEY = "dg_tools"
NEEDED = ("model", "weights", "dtype", "device", "versions", "prompt", "seed", "steps", "height", "width", "guidance")


def recipe(dit: DiT, settings: dict[str, Any], guidance: BaseGuidance | None) -> dict[str, Any]:
    """What makes a picture again, as plain JSON.

    Args:
        dit: the model that made it.
        settings: the picture's, from `Generation.settings`; without edits.
        guidance: None, `CFG(s)`, or a `DetailGuidance` that names its disruption.
    """
    from dg_tools.guidance import DetailGuidance
    from dg_tools.provenance import provenance
    from dg_tools.sampling import guidance_scale

    made = provenance(dit)
    made["versions"] = {**made["versions"], "dg_tools": importlib.metadata.version("dg-tools")}
    asked = {k: settings[k] for k in ("prompt", "seed", "steps", "height", "width")}
    detail, disrupt = 0.0, None
    if isinstance(guidance, DetailGuidance) and guidance.detail_guidance_scale:
        detail, disrupt = guidance.detail_guidance_scale, guidance.disrupt
    return {
        **made,
        "device": dit.device.type,
        **asked,
        "guidance": {
            "guidance_scale": guidance_scale(guidance),
            "detail_guidance_scale": detail,
            "disrupt": disrupt.to_json() if disrupt else None,
        },
    }


def write_picture(image: Any, file: Path, made_by: dict[str, Any]) -> Path:
    """A PIL picture as PNG with its recipe; under the next free name where the file exists. Returns where.

    Raises:
        OSError: it could not be written whole (a full disk); then there is no file.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEY, json.dumps(made_by))
    target = free(file)
    draft = target.with_name(f".{target.name}.part")
    try:
        image.save(draft, format="PNG", pnginfo=info)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def free(file: Path) -> Path:
    """The name of a file or folder, or the next one that is free: `x.png`, `x-2.png`, ..."""
    target, i = file, 1
    while target.exists():
        i += 1
        target = file.with_name(f"{file.stem}-{i}{file.suffix}")
    return target


def read_picture(file: str | Path) -> tuple[Any, dict[str, Any]]:
    """A picture and its recipe.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, or one without a recipe in it.
    """
    from PIL import Image, UnidentifiedImageError

    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no picture at {file}")
    try:
        with Image.open(file) as opened:
            opened.load()
            text = opened.info.get(KEY)
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} is no picture that can be read ({error})") from None
    if text is None:
        raise ValueError(
            f"{file} holds no settings of dg_tools: pass a PNG that `dg-tools generate` wrote (a copy that another "
            "program saved may have lost them)"
        )
    try:
        made_by = json.loads(text)
        missing = [name for name in NEEDED if name not in made_by]
    except (ValueError, TypeError):
        raise ValueError(f"{file} holds settings that are no JSON: it was changed by another program") from None
    if missing:
        raise ValueError(f"{file} holds settings without {', '.join(missing)}")
    return image, made_by


def again(dit: DiT, made_by: dict[str, Any]) -> Generation:
    """The picture of a recipe: the same bits on the same machine with the same versions.

    Raises:
        ValueError: other weights than the recipe's.
    """
    from dg_tools.generation import generate
    from dg_tools.guidance import CFG, DetailGuidance
    from dg_tools.provenance import weights_hash

    if (found := weights_hash(dit)) != made_by["weights"]:
        raise ValueError(
            f"the picture was made by weights {made_by['weights']} ({made_by['model']}); this model's are {found}"
        )
    given = made_by["guidance"]
    guidance: BaseGuidance | None = None
    if given["detail_guidance_scale"]:
        guidance = DetailGuidance(**given)
    elif given["guidance_scale"] > 1:
        guidance = CFG(given["guidance_scale"])
    asked = {k: made_by[k] for k in ("seed", "steps", "height", "width")}
    return generate(dit, made_by["prompt"], guidance=guidance, **asked)
