"""Distances between two sets of pictures, without pairing them.

A single picture against its own reference is distortion; these compare sets, which is perception: the mean spectrum,
the spread of each detail statistic, and a kernel distance on features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from dg_tools.metrics.bands import radius, spectrum


class Distance(NamedTuple):
    """An estimate and its 95% interval."""

    estimate: float
    low: float
    high: float


class RadialSpectrum(NamedTuple):
    """Power by radial frequency: centres of the rings in cycles per pixel, and mean |X|^2 of a frequency, (rings,)."""

    frequency: torch.Tensor
    power: torch.Tensor


def radial_spectrum(pictures: torch.Tensor, rings: int = 16) -> RadialSpectrum:
    """Mean power spectrum of a set of pictures (N, C, H, W), in rings of equal width from 0 to 0.5 cycles per pixel.

    The mean of each picture is left out, and so are the corners beyond 0.5, which hold only diagonal frequencies.

    Raises:
        ValueError: a ring that holds no frequency at this size.
    """
    height, width = pictures.shape[-2:]
    power = spectrum(pictures).abs().square().mean((0, 1))
    distance = radius((height, width))
    ring = (distance * 2 * rings).long()
    inside = (distance < 0.5) & (distance > 0)
    count = torch.bincount(ring[inside], minlength=rings)
    if (count == 0).any():
        raise ValueError(f"{rings} rings of a {height} x {width} picture: some hold no frequency; request fewer")
    sums = torch.zeros(rings, dtype=power.dtype).index_add(0, ring[inside], power[inside].cpu())
    return RadialSpectrum((torch.arange(rings) + 0.5) / (2 * rings), sums / count)


def log_spectral_distance(a: torch.Tensor, b: torch.Tensor, rings: int = 16) -> float:
    """Root mean square over the rings of the difference of two sets' mean spectra, in dB.

    The log-spectral distance of speech coding (Gray and Markel 1976, IEEE Trans. ASSP 24), on `radial_spectrum`: sets
    of different size may be compared, and 3 dB is a factor of two in power at every frequency.
    """
    ours, theirs = (10 * radial_spectrum(x, rings).power.clamp_min(1e-30).log10() for x in (a, b))
    return float((ours - theirs).square().mean().sqrt())


def statistics_distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """How differently each statistic of `describe` is distributed in two sets: Wasserstein-1 over b's own spread.

    Args:
        a: statistics by name, (N,) each; NaN (undefined in that picture) is left out.
        b: of the set compared with, the references for instance.

    Returns:
        By name, for the names in both: 0 where the distributions agree, 1 where they lie one standard deviation of b
        apart. SciPy's `wasserstein_distance`.

    Raises:
        ValueError: no common statistic, or one without a value in a set.
    """
    from scipy.stats import wasserstein_distance

    common = [name for name in b if name in a]
    if not common:
        raise ValueError(f"no statistic in common: {', '.join(sorted(a))} and {', '.join(sorted(b))}")
    distances = {}
    for name in common:
        ours, theirs = (np.asarray(x[name], np.float64) for x in (a, b))
        ours, theirs = ours[~np.isnan(ours)], theirs[~np.isnan(theirs)]
        if len(ours) == 0 or len(theirs) < 2:
            raise ValueError(f"{name!r}: {len(ours)} and {len(theirs)} values; at least 1 and 2 are needed")
        distances[name] = float(wasserstein_distance(ours, theirs) / max(theirs.std(), 1e-30))
    return distances


def kernel_distance(
    features_a: torch.Tensor, features_b: torch.Tensor, *, subsets: int = 200, seed: int = 0
) -> Distance:
    """Squared maximum mean discrepancy with KID's polynomial kernel (x.y / d + 1)^3 (Binkowski 2018, arXiv 1801.01401).

    Each term is torchmetrics' `poly_mmd`, unbiased: it may come out below zero where the sets agree. The estimate is
    the mean over random halves, and the interval their central 95%: halves drawn without replacement spread as the
    whole would over new data (Shao and Wu 1989, the delete-half jackknife).

    Args:
        features_a: (N, ...), flattened to (N, d): latents of the pipeline's VAE, for instance.
        features_b: (M, ...) of the same d.
        subsets, seed: random halves.

    Raises:
        ValueError: features of different width, or fewer than four of either.
    """
    from torchmetrics.image.kid import poly_mmd

    a, b = (x.flatten(1).double().cpu() for x in (features_a, features_b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of width {a.shape[1]} against {b.shape[1]}; equal widths are needed")
    size = min(len(a), len(b)) // 2
    if size < 2:
        raise ValueError(f"{len(a)} and {len(b)} pictures; a kernel distance needs at least 4 of either")
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(subsets):
        ours = torch.randperm(len(a), generator=generator)[:size]
        theirs = torch.randperm(len(b), generator=generator)[:size]
        distances.append(float(poly_mmd(a[ours], b[theirs])))
    low, high = np.quantile(distances, [0.025, 0.975])
    return Distance(float(np.mean(distances)), float(low), float(high))
