"""Test whether a weak model lacks detail: one denoising step, weak against own prediction, without a reference.

Detail Guidance steers away from a weak model, so the weak model must lack detail, and nothing else: the low band must
stay, and a weaker or louder prediction is not a lack of detail. So the gain is taken out first, d' = d / g with
g = <c, d> / <c, c> for each picture; then x0 of d' is compared with x0 of c in bands of cycles per latent cell, without
the mean. The score is log2(low-band power ratio) - log2(high-band power ratio), in doublings: the detail that is
missing.

Arrays in, numbers out; no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dg_tools.metrics.bands import same_shape
from dg_tools.metrics.cell_bands import HIGH, LOW, cell_power, low_correlation
from dg_tools.metrics.intervals import bootstrap_interval
from dg_tools.metrics.loudness import gain


class Deficit(NamedTuple):
    """A weak prediction against the model's own at one noise level; each (N,), one value per picture.

    Attributes:
        gain: g = <c, d> / <c, c>.
        change: ||d - c|| / ||c||, before the gain is taken out.
        low, high: log2 of the power of x0 of d' over that of c: below 1/8, and from 1/4 cycle per latent cell.
        score: low - high: the detail that the weak model lacks, in doublings.
        low_correlation: of the low bands, -1..1.
    """

    gain: torch.Tensor
    change: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    score: torch.Tensor
    low_correlation: torch.Tensor


def detail_deficit(noised: torch.Tensor, cond: torch.Tensor, weak: torch.Tensor, sigma: float) -> Deficit:
    """Measure what a weak prediction lacks at one noise level.

    Args:
        noised: z_t = (1 - sigma) x + sigma noise, (N, C, h, w), latents.
        cond, weak: the velocities c and d, noise - x, predicted at z_t; same shape.
        sigma: noise level, more than 0 and up to 1.

    Example:
        >>> z, c = torch.randn(2, 4, 16, 24), torch.randn(2, 4, 16, 24)
        >>> detail_deficit(z, c, 0.8 * c, 0.5).score.abs().max().item() < 1e-6  # a gain is not a lack of detail
        True
    """
    same_shape(weak, cond)
    same_shape(noised, cond)
    z, c, d = noised.double(), cond.double(), weak.double()
    share = gain(d, c)
    own, other = z - sigma * c, z - sigma * d / share[:, None, None, None]
    bands = {"low": LOW, "high": HIGH}
    before, after = cell_power(own, 1, bands), cell_power(other, 1, bands)
    low, high = ((after[name] / before[name]).log2() for name in bands)
    change = (d - c).flatten(1).norm(dim=1) / c.flatten(1).norm(dim=1)
    return Deficit(share, change, low, high, low - high, low_correlation(other, own))


@dataclass(frozen=True)
class WeakModelRule:
    """The rule by which a weak model counts as one that lacks detail; each threshold is checked separately.

    Attributes:
        score: the lower end of the score's 95% interval over pictures is more than this, in doublings.
        high: the high-band power ratio is less than this at two of three noise levels.
        low_correlation: the correlation of the low bands is at least this, at every noise level.
        change: the median of ||d - c|| / ||c|| is at least this: the edit acts.
        kept: at least this share of the edit's change in its channels is left after the last block.
        gain: g is more than this; for smaller g, d / g has no meaning.
    """

    score: float = 0.15
    high: float = 0.9
    low_correlation: float = 0.95
    change: float = 0.10
    kept: float = 0.5
    gain: float = 0.1

    def judge(self, steps: Sequence[Deficit], kept: float = 1.0) -> Judgement:
        """Judge whether a weak model lacks detail: the numbers, and the thresholds that it misses.

        Args:
            steps: of the same pictures at several noise levels.
            kept: share of the edit's change that is still there after the last block.

        Raises:
            ValueError: fewer than two pictures, which give no interval.
        """
        table = {name: torch.stack([getattr(step, name) for step in steps]) for name in Deficit._fields}
        scores = table["score"].mean(0)
        mean, lower, upper = bootstrap_interval(scores) if scores.isfinite().all() else (float("nan"),) * 3
        ratios = table["high"].mean(1).exp2().tolist()
        numbers = {
            "gain": table["gain"].mean().item(),
            "change": table["change"].median().item(),
            "low_correlation": table["low_correlation"].mean(1).min().item(),
            "low": table["low"].mean().item(),
            "high": table["high"].mean().item(),
        }
        enough = int(np.ceil(2 / 3 * len(ratios)))
        listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        held = {
            f"gain {numbers['gain']:.2f} is not more than {self.gain:g}": table["gain"].min().item() > self.gain,
            f"score {mean:+.2f} (from {lower:+.2f}) is not surely more than {self.score:g}": lower > self.score,
            f"high-band power ratios {listed}: fewer than {enough} are under {self.high:g}": (
                sum(r < self.high for r in ratios) >= enough
            ),
            f"low-band correlation {numbers['low_correlation']:.3f} is under {self.low_correlation:g}": (
                numbers["low_correlation"] >= self.low_correlation
            ),
            f"it changes the prediction by {numbers['change']:.3f}, less than {self.change:g}": (
                numbers["change"] >= self.change
            ),
            f"{kept:.2f} of the change is left after the last block, less than {self.kept:g}": kept >= self.kept,
        }
        misses = tuple(words for words, holds in held.items() if not holds)
        return Judgement(mean, lower, upper, tuple(ratios), kept=kept, misses=misses, **numbers)


@dataclass(frozen=True)
class Judgement:
    """A weak model's numbers over pictures and noise levels, and the thresholds that it misses.

    Attributes:
        score, score_low, score_high: mean over pictures and its 95% interval, in doublings.
        high_ratios: high-band power ratio by noise level.
        gain, change, low_correlation, low, high: as in `Deficit`; the change is a median, the correlation that of the
            worst noise level, the others are means.
        kept: share of the edit's change that is still there after the last block.
        misses: the thresholds that it misses, in words; empty for a weak model that lacks detail.
    """

    score: float
    score_low: float
    score_high: float
    high_ratios: tuple[float, ...]
    gain: float
    change: float
    low_correlation: float
    low: float
    high: float
    kept: float
    misses: tuple[str, ...]

    @property
    def eligible(self) -> bool:
        """Whether it lacks detail, and nothing else."""
        return not self.misses
