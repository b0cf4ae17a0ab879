"""The arithmetic of each mode on hidden states (rows, tokens, channels).

`edited` selects the rows and tokens of an edit and gives them to `change`, so that a mean over tokens is the mean over
the selected tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from dg_tools.families import BlockList
from dg_tools.forward.call import Call
from dg_tools.forward.region import check_grid
from dg_tools.interventions.description import sentence
from dg_tools.interventions.settings import EditSettings, Schedule
from dg_tools.interventions.validation import check_donor, check_sizes

EPSILON = 1e-6  # of the LayerNorms of every family here


def at_sigma(value: Schedule, sigma: float) -> float:
    """A number, or ((sigma, value), ...) read at a noise level: linear between the points, constant beyond them."""
    if isinstance(value, int | float):
        return float(value)
    if sigma <= value[0][0]:
        return value[0][1]
    for (s0, v0), (s1, v1) in pairwise(value):
        if sigma <= s1:
            return v0 + (v1 - v0) * (sigma - s0) / max(s1 - s0, 1e-12)
    return value[-1][1]


def drawn(edit: EditSettings, width: int) -> tuple[list[int], torch.Tensor]:
    """The other channels of a control, and a unit vector over them; drawn on the CPU, so the same on every device."""
    generator = torch.Generator().manual_seed(edit.draw)
    rest = [c for c in range(width) if c not in set(edit.channels)]
    if edit.mode != "shift_direction":
        rest = sorted(rest[i] for i in torch.randperm(len(rest), generator=generator)[: len(edit.channels)].tolist())
    vector = torch.randn(len(rest), generator=generator)
    return rest, vector / vector.norm()


def targets(edit: EditSettings, width: int) -> list[int]:
    """The channels that an edit changes, or, for `rescale`, keeps."""
    return drawn(edit, width)[0] if edit.others or edit.mode == "random" else list(edit.channels)


def change(edit: EditSettings, part: torch.Tensor, sigma: float, whole: torch.Tensor) -> torch.Tensor:
    """The edit on selected rows and tokens (rows, tokens, channels), in place; `whole`: the same rows, all tokens."""
    width = part.shape[-1]
    if edit.donor is not None:  # activation patching
        edit.donor.give(part, targets(edit, width), edit.tokens, sigma)
        return part
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
    elif edit.mode == "steer":
        values = whole[..., channels]
        largest = values.gather(1, values.abs().argmax(1, keepdim=True))
        part[..., channels] = at_sigma(edit.rho, sigma) * largest.expand(-1, part.shape[1], -1)
    elif edit.mode == "rescale":
        values = part[..., channels].clone()
        part *= layernorm_ratio(part, channels).to(part.dtype)
        part[..., channels] = values
    return part


def layernorm_ratio(part: torch.Tensor, channels: Sequence[int]) -> torch.Tensor:
    """Per token, the standard deviation that LayerNorm divides by, over the one with `channels` at zero: (..., 1)."""
    exact = part.to(torch.promote_types(part.dtype, torch.float32))
    without = exact.clone()
    without[..., list(channels)] = 0
    own, other = (x.var(-1, keepdim=True, unbiased=False) for x in (exact, without))
    return ((own + EPSILON) / (other + EPSILON)).sqrt()


def edited(edit: EditSettings, hidden: torch.Tensor, call: Call) -> torch.Tensor | None:
    """An edited copy of hidden states (rows, tokens, channels), or None if the edit does not act in this call.

    Raises:
        ValueError: mode `gate`, which does not act on hidden states.
    """
    if edit.mode == "gate":
        raise ValueError(f"{sentence(edit)}: it acts on a block's AdaLN, not on hidden states")
    rows = call.rows(edit.rows)
    if not edit.concerns(call) or hidden[rows].shape[0] == 0:
        return None
    check_grid(edit.grid, call.grid)
    check_sizes(edit, hidden.shape[1], hidden.shape[2])
    check_donor(edit, None, hidden.shape[1], hidden.shape[2])
    tokens = tokens_of(edit, hidden.shape[1], call)
    changed = change(edit, hidden[rows][:, tokens].clone(), call.sigma, hidden[rows])
    result = hidden.clone()
    inner = result[rows]
    inner[:, tokens] = changed
    result[rows] = inner
    return result


def tokens_of(edit: EditSettings, count: int, call: Call) -> slice | list[int]:
    """The tokens of a stream that an edit changes.

    Raises:
        ValueError: reference pictures' tokens in a call that has none, or that does not tell them apart.
    """
    if edit.tokens is not None:
        return list(edit.tokens)
    if edit.pictures == "all":
        return slice(None)
    if call.own_tokens is None:
        raise ValueError(f"{sentence(edit)}: this call does not tell the picture's own tokens from those of references")
    if edit.pictures == "own":
        return slice(0, call.own_tokens)
    if call.own_tokens == count:
        raise ValueError(f"{sentence(edit)}: this call has no reference pictures; pass pictures='all' or 'own'")
    return slice(call.own_tokens, count)


def edited_output(edit: EditSettings, output: Any, record: BlockList, call: Call) -> Any | None:
    """A block's output with this edit applied, or None if the edit does not act in this call.

    Raises:
        RuntimeError: the block has no output in this stream (SD3's last block has no text, PixArt's have none).
    """
    hidden = record.get(output, edit.stream, call.image_tokens)
    if hidden is None:
        blocks = ", ".join(map(str, edit.blocks))
        raise RuntimeError(f"{sentence(edit)}: block {blocks} has no {edit.stream} output")
    result = edited(edit, hidden, call)
    return None if result is None else record.put(output, edit.stream, result, call.image_tokens)
