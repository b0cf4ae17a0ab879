"""Bootstrap intervals of means and ratios, with whole prompts as the random sample."""

from __future__ import annotations

import numpy as np
import torch


def bootstrap_interval(
    values: np.ndarray | torch.Tensor,
    clusters: np.ndarray | torch.Tensor | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean and its percentile bootstrap interval, whole clusters (prompts, pictures) resampled with replacement.

    Args:
        values: (N,).
        clusters: (N,) labels; None: each value is its own.
        level: of the interval.
        draws, seed: of the bootstrap.

    Raises:
        ValueError: fewer than two clusters, which give no interval.
    """
    data = np.asarray(values, np.float64)
    labels = np.arange(len(data)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(labels.max()) + 1 if len(labels) else 0
    if count < 2:
        raise ValueError(f"{count} cluster(s): an interval needs at least 2, such as two prompts or two pictures")
    sums, sizes = np.bincount(labels, data, count), np.bincount(labels, minlength=count)
    picks = np.random.default_rng(seed).integers(count, size=(draws, count))
    means = sums[picks].sum(1) / sizes[picks].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(data.mean()), float(low), float(high)


def bootstrap_ratio(
    numerator: np.ndarray | torch.Tensor,
    denominator: np.ndarray | torch.Tensor,
    clusters: np.ndarray | torch.Tensor | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Ratio of two means and its percentile bootstrap interval, whole clusters resampled, the pairs kept together.

    Args:
        numerator, denominator: (N,) each, paired.
        clusters, level, draws, seed: as in `bootstrap_interval`. If the denominator's mean is near zero, the interval
            is wide.

    Raises:
        ValueError: unequal lengths, or fewer than two clusters.
    """
    above, below = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if above.shape != below.shape:
        raise ValueError(f"{above.shape} values over {below.shape}; equal lengths are needed")
    labels = np.arange(len(above)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(labels.max()) + 1 if len(labels) else 0
    if count < 2:
        raise ValueError(f"{count} cluster(s): an interval needs at least 2, such as two prompts or two pictures")
    tops, bottoms = np.bincount(labels, above, count), np.bincount(labels, below, count)
    picks = np.random.default_rng(seed).integers(count, size=(draws, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = tops[picks].sum(1) / bottoms[picks].sum(1)
        low, high = np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2])
        return float(above.mean() / below.mean()), float(low), float(high)
