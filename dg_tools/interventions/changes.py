"""What does each mode do to the numbers? Pure arithmetic on hidden states, (rows, tokens, channels).

Called with the selected rows and tokens only, so that a mean over tokens is the mean over the tokens that were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from dg_tools.interventions.disrupt import Disrupt

EPSILON = 1e-6  # of the LayerNorms of every family here


def at_sigma(value: float | Sequence[tuple[float, float]], sigma: float) -> float:
    """A number, or ((sigma, value), ...) read at a noise level: linear between the points, constant beyond them."""
    if isinstance(value, int | float):
        return float(value)
    if sigma <= value[0][0]:
        return value[0][1]
    for (s0, v0), (s1, v1) in pairwise(value):
        if sigma <= s1:
            return v0 + (v1 - v0) * (sigma - s0) / max(s1 - s0, 1e-12)
    return value[-1][1]


def drawn(edit: Disrupt, width: int) -> tuple[list[int], torch.Tensor]:
    """For the controls: the other channels, and a unit vector over them. Drawn on the CPU: same on every device."""
    generator = torch.Generator().manual_seed(edit.draw)
    rest = [c for c in range(width) if c not in set(edit.channels)]
    if edit.mode != "shift_direction":
        rest = sorted(rest[i] for i in torch.randperm(len(rest), generator=generator)[: len(edit.channels)].tolist())
    vector = torch.randn(len(rest), generator=generator)
    return rest, vector / vector.norm()


def targets(edit: Disrupt, width: int) -> list[int]:
    """The channels that an edit changes, or, for `rescale`, keeps."""
    return drawn(edit, width)[0] if edit.others or edit.mode == "random" else list(edit.channels)


def change(edit: Disrupt, part: torch.Tensor, sigma: float) -> torch.Tensor:
    """The edit on selected rows and tokens (rows, tokens, channels), in place; `transport` is in `donors`."""
    width = part.shape[-1]
    if edit.mode in ("shift", "shift_direction"):
        others, direction = drawn(edit, width)
        norm = part[..., list(edit.channels)].float().square().sum(-1).mean(1).sqrt()  # per row, over tokens
        size = at_sigma(edit.strength, sigma) * abs(1 - at_sigma(edit.rho, sigma)) * norm
        part[..., others] += (size[:, None] * direction.to(part.device))[:, None].to(part.dtype)
        return part
    channels = targets(edit, width)
    if edit.mode in ("zero", "random"):
        part[..., channels] = 0
    elif edit.mode == "mean":
        part[..., channels] = part[..., channels].mean(1, keepdim=True)
    elif edit.mode == "dc":
        part[..., channels] -= at_sigma(edit.strength, sigma) * part[..., channels].mean(1, keepdim=True)
    elif edit.mode == "scale":
        part[..., channels] *= at_sigma(edit.rho, sigma)
    elif edit.mode == "rescale":
        kept = part[..., channels].clone()
        part *= layernorm_ratio(part, channels).to(part.dtype)
        part[..., channels] = kept
    return part


def layernorm_ratio(part: torch.Tensor, channels: Sequence[int]) -> torch.Tensor:
    """Per token, the standard deviation that LayerNorm divides by, over the one with `channels` at zero: (..., 1)."""
    exact = part.to(torch.promote_types(part.dtype, torch.float32))
    without = exact.clone()
    without[..., list(channels)] = 0
    own, other = (x.var(-1, keepdim=True, unbiased=False) for x in (exact, without))
    return ((own + EPSILON) / (other + EPSILON)).sqrt()
