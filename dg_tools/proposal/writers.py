"""What does a block add to the image tokens? A sum of outputs of its parts, each times a gate per channel.

y - x = g_1 a_1 + g_2 a_2 + ... holds at every token with the same gates, so a least-squares fit over the tokens of one
forward finds the parts and their gates: the right parts leave no residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

MOST = 3  # parts that write
TOKENS, CHANNELS = 128, 48  # of the search; the fit of what it finds has all
EXACT = {torch.float32: 1e-3, torch.float64: 1e-6}  # residual of a fit, as a share, at most; in bf16, by rounding:
COARSE = 0.1


@dataclass(frozen=True)
class Writer:
    """A part that a block's output is a sum of.

    Attributes:
        path: of the module in the block.
        output: its image tokens (tokens, channels).
        gate: the factors of its channels, (channels,).
        joint: its output holds the text tokens too.
        image_first: then the image tokens come first.
        at: its place in a returned tuple.
    """

    path: str
    output: torch.Tensor
    gate: torch.Tensor
    joint: bool = False
    image_first: bool = False
    at: int = 0

    @property
    def ungated(self) -> bool:
        """Whether it is added as it is."""
        return bool((self.gate - 1).abs().max() < 1e-2)


def find_writers(written: torch.Tensor, candidates: list[Writer], dtype: torch.dtype) -> list[Writer]:
    """The fewest candidates that a block's output is a sum of, in the order given; none where no sum fits.

    Args:
        written: what the block adds, (tokens, channels).
        candidates: parts whose gates are not known yet.
        dtype: that the block computes in.
    """
    step = max(1, len(written) // TOKENS)
    busy = written.float().std(0).argsort(descending=True)[:CHANNELS]
    small = [c.output[::step, busy] for c in candidates]
    target = written[::step, busy]
    best: list[tuple[float, tuple[int, ...]]] = []
    for count in range(1, MOST + 1):
        fits = [(fit([small[i] for i in of], target)[1], of) for of in combinations(range(len(candidates)), count)]
        best += [min(fits)] if fits else []
        if best and best[-1][0] <= EXACT.get(dtype, 0) / 10:
            break
    if not best:
        return []
    floor = max(3 * min(left for left, _ in best), EXACT.get(dtype, COARSE) / 10)
    left, chosen = next(one for one in best if one[0] <= floor)
    if left > EXACT.get(dtype, COARSE):
        return []
    gates, _ = fit([candidates[i].output for i in chosen], written)
    return [
        Writer(c.path, c.output, gate, c.joint, c.image_first, c.at)
        for c, gate in zip((candidates[i] for i in chosen), gates, strict=True)
    ]


def fit(parts: list[torch.Tensor], target: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Gates (parts, channels), and the residual as a share of the target."""
    x = torch.stack([p.double() for p in parts], -1).transpose(0, 1)  # (channels, tokens, parts)
    y = target.double().T[..., None]
    scale = x.norm(dim=1, keepdim=True).clamp_min(1e-30)
    normal = (x / scale).transpose(1, 2) @ (x / scale) + 1e-10 * torch.eye(len(parts), dtype=x.dtype, device=x.device)
    gates = torch.linalg.solve(normal, (x / scale).transpose(1, 2) @ y) / scale.transpose(1, 2)
    left = (y - x @ gates).norm() / y.norm().clamp_min(1e-30)
    return gates[..., 0].T, float(left)


def candidates_of(seen: list[Any], tokens: int, text_tokens: int, width: int) -> list[Writer]:
    """Parts whose output is (1, tokens, channels), or holds it first or last; of equal ones the outermost.

    Args:
        seen: `Seen` tensors of a block's run.
        tokens, width: of the image stream; `text_tokens`: of the other one.
    """
    made: list[Writer] = []
    known: list[torch.Tensor] = []
    for one in sorted((s for s in seen if s.gives), key=lambda s: s.path.count(".")):
        value = one.value[0]
        if not one.path or value.shape[-1] != width or len(value) not in (tokens, tokens + text_tokens):
            continue
        if any(value.shape == k.shape and value.equal(k) for k in known):
            continue
        known.append(value)
        none = torch.zeros(0)
        if len(value) == tokens:
            made.append(Writer(one.path, value, none, at=one.at))
        else:
            made.append(Writer(one.path, value[-tokens:], none, True, False, one.at))
            made.append(Writer(one.path, value[:tokens], none, True, True, one.at))
    order = {s.path: i for i, s in reversed(list(enumerate(seen)))}
    return sorted(made, key=lambda w: order[w.path])
