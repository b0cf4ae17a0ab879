"""Perception and distortion: is a set of samples like the references, and is each sample like its own?

Perception compares two *sets*, whichever picture is which: mean spectrum, spread of the detail statistics, a kernel
distance on the VAE encoder's features. Distortion compares each sample with the reference of the *same prompt*. A
guidance can move toward the references in one and away in the other (Blau and Michaeli, arXiv 1711.06077): that is the
difference between the right amount of detail and the right detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.metrics import (
    Bands,
    band_correlation,
    band_error,
    band_power,
    bootstrap_interval,
    describe,
    kernel_distance,
    log_spectral_distance,
    statistics_distance,
)
from dg_tools.metrics.cell_bands import named_bands
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import encode
from dg_tools.models.pictures import pictures as decoded

DETAIL = ("high_power", "detail_share", "laplacian_variance", "normalised_laplacian_variance", "contrast")


@dataclass
class Truth:
    """References of the pictures to be sampled, in their order.

    Attributes:
        pictures: (N, 3, H, W) in [-1, 1].
        latents: (N, C, h, w), the VAE encoder's features.
        reconstruction: the pictures encoded and decoded by the VAE: no latent model can come nearer.
        bands: low, mid and high of `metrics.cell_bands.NAMED`, with this model's latent cells.
    """

    pictures: torch.Tensor
    latents: torch.Tensor
    reconstruction: torch.Tensor
    bands: Bands

    @classmethod
    def of(cls, dit: DiT, pictures: torch.Tensor, batch: int = 32) -> Truth:
        """The references, encoded and decoded once."""
        latents = torch.cat([encode(dit, part) for part in pictures.split(batch)])
        return cls(pictures, latents, decoded(dit, latents, batch=batch), named_bands(dit.vae_scale_factor))


def distortion(samples: torch.Tensor, truth: Truth) -> dict[str, np.ndarray]:
    """Each sample against its own reference, and its own statistics; each (N,).

    `amount` is log2 of its high-band power over the reference's (0: the right amount, 1: twice), `amount_error` its
    size; `*_correlation` is -1..1 by band, with `_vae` against the reference's reconstruction; errors are mean squares,
    `error` that of the whole picture, its mean too.
    """
    bands = truth.bands
    correlation = band_correlation(samples, truth.pictures, bands)
    power, reference = (band_power(x, bands)["high"] for x in (samples, truth.pictures))
    amount = (power.clamp_min(1e-12) / reference.clamp_min(1e-12)).log2()
    values = {f"{band}_correlation": value for band, value in correlation.items()}
    values["high_correlation_vae"] = band_correlation(samples, truth.reconstruction, bands)["high"]
    values |= {
        "error": (samples - truth.pictures).double().square().mean((1, 2, 3)),
        "high_error": band_error(samples, truth.pictures, bands)["high"],
        "amount": amount,
        "amount_error": amount.abs(),
    }
    values |= {name: value for name, value in describe(samples, truth.pictures, bands).items() if name not in values}
    return {name: np.asarray(torch.as_tensor(value), np.float64) for name, value in values.items()}


def perception(dit: DiT, samples: torch.Tensor, truth: Truth, batch: int = 32, seed: int = 0) -> dict[str, float]:
    """The samples as a set against the references as a set; each 0 where they agree.

    `spectrum` in dB, `statistics` in standard deviations of the references (mean over the detail statistics), `kernel`
    with its interval: squared maximum mean discrepancy of the VAE encoder's features. Samples and references share
    their prompts, so that it can lie below zero: what counts is the difference between guidances.
    """
    ours, theirs = (
        {k: v for k, v in describe(x, bands=truth.bands).items() if k in DETAIL} for x in (samples, truth.pictures)
    )
    features = torch.cat([encode(dit, part) for part in samples.split(batch)])
    rings = min(16, min(samples.shape[-2:]) // 4)  # a ring narrower than this may hold no frequency
    distances = {
        "spectrum": log_spectral_distance(samples, truth.pictures, rings),
        "statistics": float(np.mean(list(statistics_distance(ours, theirs).values()))),
    }
    if len(samples) < 4:
        return {**distances, "kernel": np.nan, "kernel_low": np.nan, "kernel_high": np.nan}
    kernel = kernel_distance(features, truth.latents, seed=seed)
    return {**distances, "kernel": kernel.estimate, "kernel_low": kernel.low, "kernel_high": kernel.high}


def difference(table: pd.DataFrame, rule: str, base: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column under one rule minus under another, picture by picture, and the pictures' prompts."""
    wide = table.pivot(index=["prompt", "seed"], columns="rule", values=column)
    return (wide[rule] - wide[base]).to_numpy(), wide.index.get_level_values("prompt").to_numpy()


def amount_and_rightness(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], margins: dict[str, float]
) -> pd.DataFrame:
    """For each (rule, base): does the rule improve the amount of detail, its rightness, both or neither?

    Columns: rule, base, and for `amount` (fall of the amount error: how much nearer to the reference's high-band power,
    in doublings) and `rightness` (rise of the high-band correlation): change, its interval, and `gained`, `lost`,
    `same` (within the margin) or `undecided`.
    """
    rows: list[dict[str, Any]] = []
    for rule, base in pairs:
        row: dict[str, Any] = {"rule": rule, "base": base}
        for what, column, sign in (("amount", "amount_error", -1), ("rightness", "high_correlation", 1)):
            change, prompts = difference(table, rule, base, column)
            value, low, high = bootstrap_interval(sign * change, prompts)
            row |= {what: value, f"{what}_low": low, f"{what}_high": high}
            row[f"{what}_is"] = judgement(low, high, margins[what])
        rows.append(row)
    return pd.DataFrame(rows)


def judgement(low: float, high: float, margin: float) -> str:
    """The interval of an improvement in one word."""
    if low > margin or high < -margin:
        return "gained" if low > margin else "lost"
    return "same" if -margin <= low and high <= margin else "undecided"
