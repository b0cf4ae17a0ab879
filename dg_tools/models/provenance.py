"""Provenance of a number: the weights, the precision and the package versions that gave it.

It is attached to every capture, result and table of evidence, so that a stored figure says which model it shows.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from dg_tools.models.dit import DiT
from dg_tools.models.weights import acting_weights

PACKAGES = ("torch", "diffusers", "transformers", "nnsight")
version = cache(importlib.metadata.version)  # each call reads a file

_KNOWN: WeakKeyDictionary[torch.nn.Module, tuple[tuple, str]] = WeakKeyDictionary()


def weights_hash(dit: DiT) -> str:
    """A hash of every active weight of the transformer, in order (16 hexadecimal digits).

    Quantised weights count as they are stored, and offloaded weights wherever they are. LoRA counts with the names and
    scales of the active adapters; see `acting_weights`. The precision of the computation (layerwise casting, GGUF) is
    not in the hash; `provenance` names it beside.

    The hash is cached while the weights look unchanged: same memory, same count of edits in place, same sample of each
    (an edit through `.data` is not counted). Offloading moves weights, so there their memory is not compared.
    """
    transformer = dit.transformer
    moves = any(is_moved(vars(module)) for module in transformer.modules())
    look = look_of(acting_weights(transformer), moves)
    known = _KNOWN.get(transformer)
    if known is not None and known[0] == look:
        return known[1]
    digest = hashlib.sha256()
    for name, value in acting_weights(transformer):
        digest.update(name.encode())
        digest.update(value.encode() if isinstance(value, str) else stored_bytes(value).cpu().numpy().data)
    _KNOWN[transformer] = look, digest.hexdigest()[:16]
    return _KNOWN[transformer][1]


def is_moved(attributes: dict[str, Any]) -> bool:
    """Whether a module with these attributes has a hook of accelerate's or diffusers', which may move its weights."""
    registry = attributes.get("_diffusers_hook")
    return "_hf_hook" in attributes or (registry is not None and bool(registry.hooks))


def look_of(weights: Iterable[tuple[str, torch.Tensor | str]], moves: bool) -> tuple:
    """Values that change when the weights change; one sample of all weights is read at once."""
    facts: list[tuple] = []
    samples: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for name, value in weights:
        if isinstance(value, str) or value.is_inference() or not value.numel():
            facts.append((name, value if isinstance(value, str) else value.numel()))
            continue
        facts.append((name, None if moves else value.data_ptr(), value._version))
        every = max(1, value.numel() // 64)
        flat = value.detach().contiguous()  # one view, where flatten()[::every] makes two
        sample = flat.as_strided((-(-value.numel() // every),), (every,))
        samples.setdefault((value.dtype, value.device), []).append(sample)
    return tuple(facts), *(stored_bytes(torch.cat(parts)).cpu().numpy().tobytes() for parts in samples.values())


def stored_bytes(value: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, in its order."""
    return value.contiguous().flatten().view(torch.uint8)


def model_name(dit: DiT) -> str:
    """The model's name, without the path of its folder."""
    path = str(getattr(dit.pipeline, "name_or_path", "") or "")
    local = path and (Path(path).is_absolute() or Path(path).is_dir())  # a null's folder, for one, is not there
    return Path(path).name if local else path or type(dit.pipeline).__name__


def provenance(dit: DiT) -> dict[str, Any]:
    """Model, transformer class, family, weights' hash, dtype and versions, as plain JSON.

    The model is named without the path of its folder.
    """
    return {
        "model": model_name(dit),
        "transformer": type(dit.transformer).__name__,
        "family": dit.family.name,
        "weights": weights_hash(dit),
        "dtype": str(dit.dtype).removeprefix("torch."),
        "versions": {p: version(p) for p in PACKAGES},
    }
