"""Recipes: the settings of a picture, kept in its PNG file, from which it can be made again.

A recipe is JSON under one key of the PNG: model and hash of its weights, precision, device and versions; prompt, seed,
steps and size; the guidance with its disruption. Of a model's folder only the name is kept. `write_picture` is the one
writer: `dg-tools generate`, `dg-tools compare` and GuidanceExplorer use it.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dg_tools.guidance.baselines.registry import BASELINES, RIVALS
from dg_tools.paths import free, whole

if TYPE_CHECKING:  # a picture that holds no settings is refused before torch is loaded
    from diffusers.guiders import BaseGuidance
    from PIL.Image import Image

    from dg_tools.generation._compare import Comparison
    from dg_tools.generation._generate import Generation
    from dg_tools.guidance.report import Report
    from dg_tools.models.dit import DiT

KEY = "dg_tools"
MODEL = ("model", "weights", "dtype", "device", "versions")  # the facts of a model that a recipe needs
PICTURE = ("prompt", "seed", "steps", "height", "width")
NEEDED = (*MODEL, *PICTURE, "guidance")
GUIDED = "guided"  # what the guidance did; not needed, and not compared
GUIDANCES = ("CFG", "DetailGuidance", "DetailKnob", *RIVALS)
DTYPES = ("float32", "bfloat16", "float16")
EXPLORED = ("scale", "detail_guidance_scale", "channels", "block", "detail_guidance_start", "detail_guidance_stop")


def recipe(
    dit: DiT, settings: dict[str, Any], guidance: BaseGuidance | None, guided: Report | None = None
) -> dict[str, Any]:
    """The recipe of a picture as plain JSON.

    Args:
        dit: the model that made it.
        settings: the picture's, from `Generation.settings`.
        guidance: None, a `CFG`, a `DetailGuidance` that names its disruption, a `DetailKnob`, or one of `baselines`
            without a weak model of its own.
        guided: what the guidance did; kept for information only.

    Raises:
        ValueError: a picture with edits, or any other guidance: these cannot be kept in a recipe.
    """
    name = type(guidance).__name__
    weak_model = getattr(guidance, "weak_model", None) is not None
    if settings["edit"] != "clean" or weak_model or (guidance is not None and name not in GUIDANCES):
        what = "edits" if settings["edit"] != "clean" else "weak model" if weak_model else f"guidance by {name}"
        raise ValueError(f"a recipe keeps no {what}: it is for pictures under None, {' or '.join(GUIDANCES)}")
    config = None
    if guidance is not None:
        config = {"name": name} | {k: v for k, v in guidance.config.items() if not k.startswith("_")}
    made_by = {**facts_of(dit), **{k: settings[k] for k in PICTURE}, "guidance": config}
    return made_by if guided is None else {**made_by, GUIDED: guided.summary()}


def facts_of(dit: DiT) -> dict[str, Any]:
    """The part of a recipe about the model: name, hash of its weights, precision, versions, device."""
    from dg_tools.models.provenance import provenance

    facts = provenance(dit)
    versions = {**facts["versions"], "dg_tools": importlib.metadata.version("dg-tools")}
    return {**facts, "versions": versions, "device": dit.device.type}


def write_picture(image: Image, file: Path, made_by: dict[str, Any]) -> Path:
    """Write a PIL picture as PNG with its recipe, under the next free name if the file exists; return the path.

    Raises:
        OSError: it could not be written whole (a full disk); then there is no file.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEY, json.dumps(made_by))
    target = free(file)
    with whole(target) as draft:
        image.save(draft, format="PNG", pnginfo=info)
    return target


def write_pictures(
    dit: DiT, pictures: Generation | Comparison, guidances: Sequence[BaseGuidance | None], folder: Path
) -> list[tuple[Path, dict[str, Any]]]:
    """Write pictures with their recipes, each under a name that says what it is; return paths and recipes.

    Args:
        dit: the model that made them.
        pictures: from `generate` or `compare`, whole or stopped.
        guidances: those of the call, in its order.
        folder: where; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, (image, settings) in enumerate(zip(pictures.images, pictures.settings, strict=False)):
        made_by = recipe(dit, settings, guidances[i % len(guidances)], pictures.guided[i])
        files.append((write_picture(image, folder / f"{file_name(settings)}.png", made_by), made_by))
    return files


def file_name(settings: dict[str, Any]) -> str:
    """A file's name, without ending, from what the picture is of."""
    words = f"{str(settings['prompt'])[:60]} seed {settings['seed']} {settings['guidance']}"
    words = re.sub(r"(?<= )-(?=[\d.])", "minus ", words.lower())  # else DG -0.5 has the name of DG 0.5
    return re.sub(r"[^\w.]+", "-", words).strip("-.")


def read_picture(file: str | Path) -> tuple[Image, dict[str, Any]]:
    """A picture and its recipe.

    Older pictures of GuidanceExplorer name only the model: weights, precision, device and versions are None in their
    recipes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read as a picture, or a picture without a recipe.
    """
    from PIL import Image, UnidentifiedImageError

    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: pass a picture")
    try:
        with Image.open(file) as opened:
            opened.load()
            text = opened.info.get(KEY)
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a picture ({error})") from None
    if text is None:
        raise ValueError(
            f"{file} holds no settings of dg_tools: pass a PNG that `dg-tools generate` wrote (a copy that another "
            "program saved may have lost them)"
        )
    try:
        made_by = json.loads(text)
        explored = is_of_explorer(made_by)
        made_by = of_explorer(made_by) if explored else made_by
        missing = [name for name in NEEDED if name not in made_by]
    except (ValueError, TypeError):
        raise ValueError(f"{file} holds settings that are not JSON: another program changed it") from None
    if missing:
        raise ValueError(f"{file} holds settings without {', '.join(missing)}")
    if made_by["dtype"] not in (*DTYPES, *([None] if explored else [])):
        raise ValueError(f"{file} was made in {made_by['dtype']!r}; known: {', '.join(DTYPES)}")
    return image, made_by


def is_of_explorer(settings: Any) -> bool:
    """Whether settings are in the older form of GuidanceExplorer, with the picture's name as `guidance`."""
    if not isinstance(settings, dict) or not set(settings) >= {"model", "guidance", *PICTURE, *EXPLORED}:
        return False
    return settings["guidance"] in ("cond", "CFG", "DG", "DG + CFG")


def of_explorer(settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a picture in the older form of GuidanceExplorer."""
    scale, guidance = settings["scale"], None
    if settings["guidance"] == "CFG":
        guidance = {"name": "CFG", "guidance_scale": scale}
    elif settings["guidance"] != "cond":
        guidance = {
            "name": "DetailGuidance",
            "guidance_scale": 1.0 if settings["guidance"] == "DG" else scale,
            "detail_guidance_scale": settings["detail_guidance_scale"],
            "disrupt": {"channels": settings["channels"], "block": settings["block"]},
            "detail_guidance_start": settings["detail_guidance_start"],
            "detail_guidance_stop": settings["detail_guidance_stop"],
        }
    known = {k: settings[k] for k in ("model", *PICTURE)}
    return {**dict.fromkeys(MODEL), **known, "guidance": guidance}


def completed(made_by: dict[str, Any], dit: DiT) -> dict[str, Any]:
    """A recipe whose missing facts of the model are taken from the model that makes the picture again."""
    return {**facts_of(dit), **{k: v for k, v in made_by.items() if v is not None or k == "guidance"}}


def again(dit: DiT, made_by: dict[str, Any]) -> Generation:
    """The picture of a recipe: the same bits on the same machine with the same versions.

    Raises:
        ValueError: weights other than the recipe's, or an unknown guidance.
    """
    from dg_tools.datasets.captions import check_seed
    from dg_tools.generation._generate import generate
    from dg_tools.models.provenance import weights_hash

    weights = weights_hash(dit)
    if made_by["weights"] not in (None, weights):  # None: an old picture of GuidanceExplorer's
        raise ValueError(
            f"the picture was made by weights {made_by['weights']} ({made_by['model']}); this model's are {weights}"
        )
    arguments = {k: made_by[k] for k in ("steps", "height", "width")}
    guidance, seed = guidance_of(made_by), check_seed(made_by["seed"])
    return generate(dit, made_by["prompt"], seed=seed, guidance=guidance, **arguments)


def guidance_of(made_by: dict[str, Any]) -> BaseGuidance | None:
    """The guidance of a recipe.

    Raises:
        ValueError: one that is not known.
    """
    if made_by["guidance"] is None:
        return None
    config = dict(made_by["guidance"])
    if (name := config.pop("name", None)) not in GUIDANCES:
        raise ValueError(f"the recipe's guidance is {name!r}; known: {', '.join(GUIDANCES)}")
    if name == "DetailGuidance":
        from dg_tools.guidance.detail import DetailGuidance

        return DetailGuidance(**config)
    if name == "DetailKnob":
        from dg_tools.guidance.knob import DetailKnob

        return DetailKnob(**config)
    return BASELINES[name].guidance(**config)
