"""Which weights, in which precision, with which versions, gave this number?

Attached to every capture, result and table of evidence, so that a stored figure says what it is a figure of.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import torch

from dg_tools.models import DiT

PACKAGES = ("torch", "diffusers", "transformers", "nnsight")


def weights_hash(dit: DiT) -> str:
    """A hash of every weight of the transformer, in order (16 hexadecimal digits)."""
    digest = hashlib.sha256()
    for name, value in dit.transformer.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


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
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
    }
