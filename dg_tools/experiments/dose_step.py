"""One denoising step at any dose: predictions at one z_t, and the detail that each picture of x0 lost or gained.

An edited prediction starts from its block's output in the clean forward, so a dose at block m costs the blocks after m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.experiments.block_hooks import on_block_outputs
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.strength import solve
from dg_tools.interventions import Disrupt
from dg_tools.massive import constant
from dg_tools.metrics import (
    amount_change,
    cell_correlation,
    cell_error,
    cell_power,
    contrast,
    gain,
    low_correlation,
)
from dg_tools.models.block import Block
from dg_tools.models.pictures import pictures as decoded
from dg_tools.onestep import EditableStep, velocity

ENDLESS = 10**9  # uses of a kept output
SEARCH = 0.1  # of ||v - v_d||, relative: the search ends within half of it
LARGEST = 1000.0  # largest factor on a dose; a control that still does too little is given up


class OneStep(EditableStep):
    """Predictions of one batch at one noise level: the clean one, and any edited one, as pictures too."""

    def __init__(self, noised: NoisedPictures, sigma: float, part: slice, inputs: dict[str, Any]) -> None:
        self._kept: tuple[Disrupt, torch.Tensor] | None = None
        uses = dict.fromkeys(range(len(noised.dit.blocks)), ENDLESS)
        super().__init__(noised.dit, noised.noised(sigma, part), sigma, inputs, uses)

    @cached_property
    def clean_pictures(self) -> torch.Tensor:
        """The clean x0 as pictures, (N, 3, H, W) in [-1, 1]."""
        return self.pictures(self.clean)

    def velocity(self, edit: Disrupt) -> torch.Tensor:
        """The velocity under an edit, (N, C, h, w)."""
        if self._kept is not None and edit == self._kept[0]:
            return self._kept[1]
        return super().velocity(edit)

    def gained(self, velocity: torch.Tensor) -> torch.Tensor:
        """The clean velocity multiplied by the gain that another has, picture by picture: <v, v_d> / <v, v>."""
        return self.clean * gain(velocity, self.clean).to(self.clean)[:, None, None, None]

    def pictures(self, velocity: torch.Tensor) -> torch.Tensor:
        """The predicted x0 as pictures, (N, 3, H, W) in [-1, 1]."""
        return decoded(self.dit, self.z - self.sigma * velocity)

    def change(self, velocity: torch.Tensor) -> torch.Tensor:
        """||v - v_d|| for each picture, (N,)."""
        return (velocity.double() - self.clean.double()).flatten(1).norm(dim=1)

    def scaled(self, control: Disrupt, target: float, start: float = 1.0) -> tuple[Disrupt, float, float]:
        """A control whose mean ||v - v_d|| is `target`; its factor on the dose, and what it reached over the target.

        Its velocity is kept until the next one is scaled: `velocity` of it needs no further forward.
        `control` is of mode scale; what is searched is the factor on rho - 1.

        Raises:
            RuntimeError: a target of 0: no control can be scaled to an edit that does nothing.
        """
        if not target > 0:
            raise RuntimeError(
                f"{control.sentence()}: the dose changes the velocity by {target:.3g}; name another block"
            )
        step = float(control.retention(self.sigma)) - 1

        tried: dict[float, torch.Tensor] = {}

        def reached(factor: float) -> float:
            tried[factor] = self.velocity(replace(control, rho=1 + factor * step))
            return float(self.change(tried[factor]).mean())

        factor, value = solve(reached, target, SEARCH, LARGEST, start)
        edit = replace(control, rho=1 + factor * step)
        self._kept = edit, tried[factor]
        return edit, factor, value / target


def measures(x: torch.Tensor, clean: torch.Tensor, reference: torch.Tensor, cell: int) -> dict[str, np.ndarray]:
    """Detail and layout of each picture, each (N,); columns name their band, in cycles per latent cell.

    Args:
        x, clean: pictures, edited and not.
        reference: pictures that coherence and error are measured against.
        cell: pixels of a latent cell.
    """
    columns = {"amount": amount_change(x, clean, cell), "low correlation": low_correlation(x, clean, cell)}
    columns["contrast"] = contrast(x)
    for name, values in (
        ("power", cell_power(x, cell)),
        ("coherence", cell_correlation(x, reference, cell)),
        ("error", cell_error(x, reference, cell)),
    ):
        columns |= {f"{name} {band}": value for band, value in values.items()}
    return {name: value.double().numpy() for name, value in columns.items()}


def step_rows(at: OneStep, predicted: torch.Tensor, truth: torch.Tensor, **labels: Any) -> pd.DataFrame:
    """One row per picture: `measures`, the gain of v (<v, v_d> / <v, v>) and ||v - v_d|| / ||v||."""
    columns = measures(at.pictures(predicted), at.clean_pictures, truth, at.dit.vae_scale_factor)
    columns["gain"] = gain(predicted, at.clean).cpu().numpy()
    size = at.clean.double().flatten(1).norm(dim=1)
    columns["change"] = (at.change(predicted) / size).cpu().numpy()
    return pd.DataFrame({**labels, **columns})


def channel_table(noised: NoisedPictures, channels: Sequence[int], sigmas: Sequence[float]) -> pd.DataFrame:
    """Where each channel is massive, by the default rule of `find_massive`, and how much of the stream's energy it has.

    Returns:
        block, channel, energy_share (0..1), ratio (mean |x| over the median channel's), massive (in at least half of
        the pictures and noise levels of the first batch); and `others`, the largest other channels of the block, as a
        string of numbers, most energy first.
    """
    dit = noised.dit
    sums: dict[int, list[dict[str, np.ndarray]]] = {b: [] for b in range(len(dit.blocks))}

    def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
        x = image.double()
        mean, square, size = x.mean(1), x.square().mean(1), x.abs().mean(1)
        positive = (x > 0).double().mean(1)
        ratio = size / size.quantile(0.5, 1, keepdim=True)
        values = {
            "energy": square / square.sum(1, keepdim=True),
            "ratio": ratio,
            "one_sign": torch.maximum(positive, 1 - positive),
            "variation": (square - mean.square()).clamp_min(0).sqrt() / mean.abs(),
        }
        sums[block.index].append({name: value.cpu().numpy() for name, value in values.items()})

    with dit.running(), on_block_outputs(dit, see):
        for sigma in sigmas:
            part = next(noised.parts())
            velocity(dit, noised.noised(sigma, part), sigma, noised.inputs[0])
    rows = []
    for block, several in sums.items():
        joined = {name: np.concatenate([one[name] for one in several]) for name in several[0]}
        stability = constant(joined).mean(0)
        energy = joined["energy"].mean(0)
        order = [int(c) for c in np.argsort(-energy, kind="stable") if int(c) not in set(channels)]
        for channel in channels:
            rows.append(
                {
                    "block": block,
                    "channel": channel,
                    "energy_share": float(energy[channel]),
                    "ratio": float(np.median(joined["ratio"][:, channel])),
                    "massive": bool(stability[channel] >= 0.5),
                    "others": " ".join(map(str, order[: len(channels)])),
                }
            )
    return pd.DataFrame(rows)
