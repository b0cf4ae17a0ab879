"""Matched controls of an edit: would any other change of that size do the same?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

import torch

from dg_tools.interventions.settings import EditSettings

Edit = TypeVar("Edit", bound=EditSettings)
Control = Literal["shift", "shift_direction", "random", "variance", "dc", "gate", "transport"]
CONTROLS: tuple[str, ...] = get_args(Control)


def controls_of(edit: Edit, n: int, kind: Control, seed: int, like: Any) -> list[Edit]:
    """`n` controls of one kind; see `Disrupt.controls`."""
    if kind not in CONTROLS:
        raise ValueError(f"kind={kind!r}; allowed: {', '.join(CONTROLS)}")
    if n < 1:
        raise ValueError(f"n={n} controls requested; at least 1")
    draws = [seed * 100_003 + i for i in range(n)]
    if kind == "variance":
        if like is None:
            raise ValueError("kind='variance' needs like=, the result of find_massive, for the variances")
        variance = torch.as_tensor(like.token_variance(edit.block))
        picks = [variance_matched(variance, edit.channels, d) for d in draws]
        return [replace(edit, channels=c, draw=d, control=True) for c, d in zip(picks, draws, strict=True)]
    if kind == "transport" and edit.donor is None:
        raise ValueError(
            "kind='transport' takes other channels from the donor of a transport, and this edit has none: make "
            "one with Disrupt.transport(dit, ...)"
        )
    if kind == "gate" and (edit.stream != "image" or edit.tokens is not None):
        raise ValueError(
            "kind='gate' is the control of mode 'gate': the edit must be on the image stream, with all tokens"
        )
    shift = kind in ("shift", "shift_direction")
    settings: dict[str, Any] = {
        "mode": kind,
        "others": kind in ("dc", "gate", "transport"),
        "rho": edit.rho if shift and edit.mode in ("scale", "shift", "shift_direction") else 0.0,
        "strength": edit.strength if shift and edit.mode in ("shift", "shift_direction") else 1.0,
        "donor": edit.donor if kind == "transport" else None,
        "control": True,
    }
    return [replace(edit, draw=d, **settings) for d in draws]


def variance_matched(variance: torch.Tensor, channels: Sequence[int], draw: int, pool: int = 5) -> tuple[int, ...]:
    """For each channel, draw one of the `pool` other channels nearest in log variance, without repetition."""
    generator = torch.Generator().manual_seed(draw)
    free = set(range(len(variance))) - set(channels)
    log, controls = variance.clamp_min(1e-12).log(), []
    for channel in channels:
        near = sorted(free, key=lambda c: abs((log[c] - log[channel]).item()))[:pool]
        pick = near[int(torch.randint(len(near), (), generator=generator))]
        free.discard(pick)
        controls.append(pick)
    return tuple(sorted(controls))
