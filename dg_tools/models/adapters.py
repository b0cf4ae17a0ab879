"""Models that ship as an adapter on an embedded one: low-rank factors that are added to its weights on load.

The folder has `adapter.json`, which names the base, and `pytorch_lora_weights.safetensors`, in diffusers' own format:
stock diffusers loads it onto the base with `load_lora_weights`. Here the product is added to the weights, so only torch
is needed, and the result is a plain model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

FACTORS = "pytorch_lora_weights.safetensors"


@torch.no_grad()
def add_factors(transformer: Any, file: Path) -> None:
    """Add each layer's product b @ a from a LoRA file to a transformer's weights, in place, in their own dtype.

    Raises:
        FileNotFoundError: no such file.
        ValueError: factors of another model: an unknown layer, or other sizes.
    """
    from safetensors.torch import load_file

    tensors = load_file(file)
    weights = dict(transformer.named_parameters())
    for key, a in tensors.items():
        match = re.fullmatch(r"transformer\.(.+)\.lora_A\.weight", key)
        if match is None:
            continue
        weight, b = weights.get(f"{match[1]}.weight"), tensors.get(key.replace("lora_A", "lora_B"))
        if weight is None or b is None or (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise ValueError(f"{file}: {key} does not fit {type(transformer).__name__}: it is another model's adapter")
        weight += (b.float() @ a.float()).to(weight)
