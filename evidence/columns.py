"""The columns of the evidence: both embedded models, a positive control and a null, each as a DiT.

from evidence.columns import load
dit = load("null")                       # or "emoji-sd3-planted", or any embedded model
"""

from __future__ import annotations

import torch

import dg_tools as dg
from dg_tools.models.dit import DiT
from dg_tools.models.files import DEFAULT, ZOO, embedded

PLANTED, NULL = "emoji-sd3-planted", "null"
SEED = 0  # of the null's weights


def names() -> list[str]:
    """All columns: the default model first, then the other embedded ones, the planted one and the null."""
    return [DEFAULT, *(name for name in embedded() if name != DEFAULT), PLANTED, NULL]


def load(name: str) -> DiT:
    """A column's model; any other name or folder as `dg.load` takes it."""
    return null() if name == NULL else dg.load(name)


@torch.no_grad()
def null(seed: int = SEED) -> DiT:
    """The default model with random weights: each weight normal, with the mean and the spread that it had."""
    dit = dg.load()
    generator = torch.Generator().manual_seed(seed)
    for weight in dit.transformer.parameters():
        spread = weight.std() if weight.numel() > 1 else torch.zeros(())
        weight.copy_(weight.mean() + spread * torch.randn(weight.shape, generator=generator))
    dit.pipeline.register_to_config(_name_or_path=str(ZOO / NULL))
    dit.profile = None
    return dit
