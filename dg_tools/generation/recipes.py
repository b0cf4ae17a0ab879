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

    from dg_tools.generation._generate import Generation
    from dg_tools.models.dit import DiT

KEY = "dg_tools"
NEEDED = ("model", "weights", "dtype", "device", "versions", "prompt", "seed", "steps", "height", "width", "guidance")
GUIDANCES = ("CFG", "DetailGuidance", "PAG", "SLG", "SEG", "AutoGuidance", "Blurred", "APG", "CFGZeroStar")
DTYPES = ("float32", "bfloat16", "float16")


def recipe(dit: DiT, settings: dict[str, Any], guidance: BaseGuidance | None) -> dict[str, Any]:
    """What makes a picture again, as plain JSON.

    Args:
        dit: the model that made it.
        settings: the picture's, from `Generation.settings`.
        guidance: None, a `CFG`, a `DetailGuidance` that names its disruption, or one of `baselines` without a twin.

    Raises:
        ValueError: a picture with edits, or another guidance: neither is kept.
    """
    from dg_tools.models.provenance import provenance

    name = type(guidance).__name__
    twin = getattr(guidance, "weak_model", None) is not None
    if settings["edit"] != "clean" or twin or (guidance is not None and name not in GUIDANCES):
        what = "edits" if settings["edit"] != "clean" else "twin" if twin else f"guidance by {name}"
        raise ValueError(f"a recipe keeps no {what}: it is for pictures under None, {' or '.join(GUIDANCES)}")
    made = provenance(dit)
    made["versions"] = {**made["versions"], "dg_tools": importlib.metadata.version("dg-tools")}
    asked = {k: settings[k] for k in ("prompt", "seed", "steps", "height", "width")}
    given = None
    if guidance is not None:
        given = {"name": name} | {k: v for k, v in guidance.config.items() if not k.startswith("_")}
    return {**made, "device": dit.device.type, **asked, "guidance": given}


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
    if made_by["dtype"] not in DTYPES:
        raise ValueError(f"{file} was made in {made_by['dtype']!r}; known: {', '.join(DTYPES)}")
    return image, made_by


def again(dit: DiT, made_by: dict[str, Any]) -> Generation:
    """The picture of a recipe: the same bits on the same machine with the same versions.

    Raises:
        ValueError: other weights than the recipe's, or a guidance that is not known.
    """
    from dg_tools.datasets.captions import check_seed
    from dg_tools.generation._generate import generate
    from dg_tools.guidance import baselines
    from dg_tools.guidance import detail as own
    from dg_tools.models.provenance import weights_hash

    if (found := weights_hash(dit)) != made_by["weights"]:
        raise ValueError(
            f"the picture was made by weights {made_by['weights']} ({made_by['model']}); this model's are {found}"
        )
    guidance: BaseGuidance | None = None
    if made_by["guidance"] is not None:
        given = dict(made_by["guidance"])
        if (name := given.pop("name", None)) not in GUIDANCES:
            raise ValueError(f"the recipe's guidance is {name!r}; known: {', '.join(GUIDANCES)}")
        guidance = getattr(own if hasattr(own, name) else baselines, name)(**given)
    asked = {k: made_by[k] for k in ("steps", "height", "width")}
    return generate(dit, made_by["prompt"], seed=check_seed(made_by["seed"]), guidance=guidance, **asked)
