"""Find a model and read its files, without loading weights or torch.

A name is an embedded model, a diffusers folder, or a Hub id. Configurations are JSON; a safetensors file begins with a
header that names every tensor with its type and shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ZOO = Path(__file__).parents[1] / "zoo"
DEFAULT = "emoji-sd3"
ADAPTER = "adapter.json"  # of a model that ships as an adapter on an embedded one
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HEADER = 100 * 2**20  # most bytes of a safetensors header, by the format's own rule


def embedded() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(p.parent.name for p in ZOO.glob("*/model_index.json"))


def adapter_folder(model: str | Path | None) -> Path | None:
    """The folder of an adapter that ships with the package, by name (see `dg_tools.models.adapters`), or None."""
    folder = ZOO / str(model)
    return folder if model is not None and (folder / ADAPTER).is_file() else None


def base_of(adapter: Path) -> str:
    """The embedded model that an adapter's folder is for.

    Raises:
        ValueError: its record names no base.
    """
    base = read_json(adapter / ADAPTER).get("base")
    if not isinstance(base, str):
        raise ValueError(f"{adapter / ADAPTER} names no base: the name of an embedded model is needed")
    return base


def source_of(model: str | Path | None) -> str | Path:
    """Where a model is: its folder, or a Hub id as it stands.

    Raises:
        FileNotFoundError: no embedded model, no existing folder, and nothing of the form owner/name.
    """
    name = DEFAULT if model is None else str(model)
    if (ZOO / name / "model_index.json").is_file():
        return ZOO / name
    if Path(name).exists():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"no model {name!r}: it is not an embedded model ({', '.join(embedded()) or 'none in this checkout'}), not "
            "an existing folder, and not a Hub id of the form owner/name"
        )
    return name


def check_folder(folder: Path) -> None:
    """Raise, before anything is read, if a folder cannot be a safe diffusers pipeline."""
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    if not (folder / "model_index.json").is_file():
        inside = ", ".join(sorted({p.relative_to(folder).parts[0] for p in files})[:8]) or "nothing"
        raise FileNotFoundError(
            f"{folder} is not a diffusers pipeline folder: it has no model_index.json (there is: {inside}). "
            "Pass the folder that save_pretrained() wrote"
        )
    for part in ("transformer", "vae"):
        weights = [p for p in files if p.relative_to(folder).parts[0] == part]
        pickles = [p.name for p in weights if p.suffix in PICKLES]
        if pickles and not any(p.suffix == ".safetensors" for p in weights):
            raise ValueError(
                f"{folder / part} holds pickle weights only ({', '.join(pickles)}), which can run code when loaded; "
                "dg_tools loads safetensors only: save the pipeline again with safe_serialization=True"
            )


def card_call(folder: Path) -> dict[str, Any]:
    """The call arguments that a model card asks for (`dg_tools: call:` in the header of its README.md)."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    from huggingface_hub import ModelCard

    return dict(ModelCard.load(card).data.to_dict().get("dg_tools", {}).get("call", {}))


def cached(repository: str) -> Path:
    """The folder that a Hub id has in the cache; nothing is downloaded.

    Raises:
        FileNotFoundError: it is not there.
    """
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repository, "model_index.json")
    if not isinstance(index, str):
        raise FileNotFoundError(
            f"{repository!r} is not in the Hub cache, and nothing is downloaded for this: pass a folder, or load it "
            f"once, dg_tools.load({repository!r})"
        )
    return Path(index).parent


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        FileNotFoundError, ValueError: no such file, or no JSON object in it.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} has no {file.name}: it is not a whole pipeline folder")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds no JSON object")
    return value


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parameters(folder: Path) -> int | None:
    """How many numbers the safetensors files of a component hold, by their headers; None where there are none.

    Files of a variant (`model.fp16.safetensors`) count where there are no others.
    """
    files = sorted(folder.glob("*.safetensors"))
    plain = [f for f in files if "." not in f.stem]
    counts = [sum(math.prod(t["shape"]) for t in header(f).values()) for f in plain or files]
    return sum(counts) if counts else None


def header(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: name to dtype, shape and place.

    Raises:
        ValueError: the file does not begin as one.
    """
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        text = handle.read(size) if size <= HEADER else b""
    try:
        tensors = json.loads(text)
        tensors.pop("__metadata__", None)
    except (ValueError, AttributeError):
        raise ValueError(
            f"{file} is not a safetensors file: its header cannot be read (is it a Git LFS pointer?)"
        ) from None
    return tensors
