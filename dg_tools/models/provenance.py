"""Which weights, in which precision, with which versions, gave this number?

Attached to every capture, result and table of evidence, so that a stored figure says what it is a figure of.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from dg_tools.models.dit import DiT

PACKAGES = ("torch", "diffusers", "transformers", "nnsight")
version = cache(importlib.metadata.version)  # each call reads a file

_KNOWN: WeakKeyDictionary[torch.nn.Module, tuple[tuple, str]] = WeakKeyDictionary()


def weights_hash(dit: DiT) -> str:
    """A hash of every weight of the transformer, in order (16 hexadecimal digits).

    Kept for as long as the weights look unchanged: same memory, same count of edits in place, same sum of a sample of
    each (an edit through `.data` is not counted).
    """
    weights = dit.transformer.state_dict()
    if any(v.is_meta for v in weights.values()):  # offloaded in sequence: the module holds no values
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        weights = get_state_dict_offloaded_model(dit.transformer)
    look = tuple(
        (v.data_ptr(), v._version, v.flatten()[:: max(1, v.numel() // 64)].double().sum().item())
        for v in (v.detach() for v in weights.values())
        if v.numel() and not v.is_inference()
    )
    known = _KNOWN.get(dit.transformer)
    if known is not None and known[0] == look:
        return known[1]
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    _KNOWN[dit.transformer] = look, digest.hexdigest()[:16]
    return _KNOWN[dit.transformer][1]


def provenance(dit: DiT) -> dict[str, Any]:
    """Model, transformer class, family, weights' hash, dtype and versions, as plain JSON.

    The model is named without its folder's place on this machine.
    """
    path = str(getattr(dit.pipeline, "name_or_path", "") or "")
    return {
        "model": Path(path).name if path and Path(path).is_dir() else path or type(dit.pipeline).__name__,
        "transformer": type(dit.transformer).__name__,
        "family": dit.family.name,
        "weights": weights_hash(dit),
        "dtype": str(dit.dtype).removeprefix("torch."),
        "versions": {p: version(p) for p in PACKAGES},
    }
