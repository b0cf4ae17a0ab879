"""Measures of one picture's detail, noise, contrast and content.

High-frequency energy alone does not show detail: Laplacian variance counts speckle too. So `describe` gives the
coherent and the incoherent power of `bands`, the power where the reference is flat (noise), and contrast, with which
detail metrics rise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from dg_tools.metrics.bands import BANDS, Bands, band_correlation, band_pass, band_power, coherent_power, same_shape

UNITS = {
    "low_power": "scale^2",
    "mid_power": "scale^2",
    "high_power": "scale^2",
    "high_coherent": "scale^2",
    "high_incoherent": "scale^2",
    "high_correlation": "-1..1",
    "low_correlation": "-1..1",
    "flat_noise": "scale^2",
    "detail_share": "0..1",
    "contrast": "scale",
    "laplacian_variance": "scale^2 (counts speckle)",
    "normalised_laplacian_variance": "1",
}


class Share(NamedTuple):
    """A change against an axis: signed share of the axis's length, and squared cosine; each (N,)."""

    projection: torch.Tensor
    cosine2: torch.Tensor


def flat_noise(
    x: torch.Tensor, reference: torch.Tensor, tolerance: float = 0.02, margin: int = 2, bands: Bands = BANDS
) -> torch.Tensor:
    """High-band power of x where the reference is flat, (N,): noise, not detail. NaN where the reference is nowhere
    flat.

    Args:
        x: pictures.
        reference: same shape.
        tolerance: largest step to a neighbouring pixel that still counts as flat, on the pictures' scale.
        margin: pixels around any larger step that do not count.
        bands: of which `high` counts.
    """
    same_shape(x, reference)
    step_y = F.pad((reference[..., 1:, :] - reference[..., :-1, :]).abs(), (0, 0, 0, 1))
    step_x = F.pad((reference[..., :, 1:] - reference[..., :, :-1]).abs(), (0, 1, 0, 0))
    busy = (torch.maximum(step_y, step_x).amax(1, keepdim=True) > tolerance).float()
    flat = F.max_pool2d(busy, 2 * margin + 1, stride=1, padding=margin) == 0
    power = band_pass(x, "high", bands).square().mean(1, keepdim=True)
    return (power * flat).sum((1, 2, 3)) / flat.sum((1, 2, 3)).double().where(flat.any(-1).any(-1)[:, 0], torch.nan)


def luminance(x: torch.Tensor) -> torch.Tensor:
    """(N, H, W): Rec. 709 luma of colour pictures, the mean of any other number of channels."""
    if x.shape[1] == 3:
        return (x * x.new_tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(1)
    return x.mean(1)


def contrast(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation of luminance over the pixels, (N,)."""
    return luminance(x).flatten(1).std(1, unbiased=False)


def laplacian_variance(x: torch.Tensor) -> torch.Tensor:
    """Variance of the 4-neighbour Laplacian of luminance, (N,). Never alone: speckle raises it as detail does."""
    kernel = x.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return F.conv2d(luminance(x)[:, None], kernel).flatten(1).var(1, unbiased=False)


def normalised_laplacian_variance(x: torch.Tensor) -> torch.Tensor:
    """Laplacian variance over contrast squared, (N,): does not rise with contrast alone."""
    return laplacian_variance(x) / contrast(x).square().clamp_min(1e-30)


def detail_share(x: torch.Tensor, bands: Bands = BANDS) -> torch.Tensor:
    """High-band power over all power but the mean's, (N,), 0..1."""
    power = band_power(x - x.mean((2, 3), keepdim=True), bands)
    return power["high"] / sum(power.values()).clamp_min(1e-30)  # type: ignore[union-attr]


def axis_share(change: torch.Tensor, axis: torch.Tensor) -> Share:
    """How far a change goes along an axis such as shaded - flat: <change, axis> / |axis|^2, and the squared cosine.

    NaN where the axis is zero; the cosine is NaN where the change is zero too.
    """
    same_shape(change, axis)
    a, b = change.flatten(1).double(), axis.flatten(1).double()
    inner, length = (a * b).sum(1), b.square().sum(1)
    zero = length == 0
    projection = (inner / length).masked_fill(zero, torch.nan)
    cosine2 = inner.square() / (length * a.square().sum(1))
    return Share(projection, cosine2.masked_fill(zero, torch.nan))


def reduced_distance(samples: torch.Tensor, references: torch.Tensor, size: int = 16) -> torch.Tensor:
    """Euclidean distance of each sample from each reference, (N, M), both reduced by area to `size` x `size`.

    `references` is (M, C, H, W), or (N, M, C, H, W), a set for each sample.
    """
    small = F.adaptive_avg_pool2d(samples, size).flatten(1)
    if references.ndim == 4:
        pool = F.adaptive_avg_pool2d(references, size).flatten(1)[None]
    else:
        pool = F.adaptive_avg_pool2d(references.flatten(0, 1), size).flatten(1).unflatten(0, references.shape[:2])
    return (small[:, None] - pool).norm(dim=-1)


def retrieval_rank(
    samples: torch.Tensor, references: torch.Tensor, targets: torch.Tensor, *, size: int = 16
) -> torch.Tensor:
    """Rank (0 = nearest) of each sample's own reference among all, by pixels at `size` x `size`.

    Args:
        samples: (N, C, H, W).
        references: (M, C, H, W) for all samples, or (N, M, C, H, W), a set for each (same background, say).
        targets: (N,) index of the right reference.
        size: side to which pictures are reduced by area before Euclidean distance.
    """
    distance = reduced_distance(samples, references, size)
    own = distance.gather(1, targets[:, None])
    return (distance < own).sum(1)


def retrieval_margin(
    samples: torch.Tensor, references: torch.Tensor, targets: torch.Tensor, *, size: int = 16
) -> torch.Tensor:
    """How much nearer each sample is to its own reference than to the nearest other, (N,), -1..1.

    It is (d_other - d_own) / (d_other + d_own). Above 0 the right reference is found; it changes long before a rank
    does. Arguments as in `retrieval_rank`.

    Raises:
        ValueError: fewer than two references.
    """
    distance = reduced_distance(samples, references, size)
    if distance.shape[1] < 2:
        raise ValueError("a margin needs at least two references: the sample's own and another")
    own = distance.gather(1, targets[:, None])[:, 0]
    other = distance.scatter(1, targets[:, None], torch.inf).amin(1)
    return (other - own) / (other + own)


def top_k(ranks: torch.Tensor, k: int) -> float:
    """Share of ranks below k."""
    return (ranks < k).float().mean().item()


def describe(x: torch.Tensor, reference: torch.Tensor | None = None, bands: Bands = BANDS) -> dict[str, torch.Tensor]:
    """All measures of this module and `bands` by name, each (N,), in the units of `UNITS`; some need a reference.

    `bands`: low, mid and high, in cycles per pixel; `cell_bands.named_bands` gives those of a latent cell, without DC.
    """
    power = band_power(x, bands)
    result = {f"{band}_power": value for band, value in power.items()}
    if reference is not None:
        split, correlation = coherent_power(x, reference, bands)["high"], band_correlation(x, reference, bands)
        result |= {"high_coherent": split.coherent, "high_incoherent": split.incoherent}
        result |= {"high_correlation": correlation["high"], "low_correlation": correlation["low"]}
        result["flat_noise"] = flat_noise(x, reference, bands=bands)
    result |= {"detail_share": detail_share(x, bands), "contrast": contrast(x)}
    result["laplacian_variance"] = laplacian_variance(x)
    result["normalised_laplacian_variance"] = normalised_laplacian_variance(x)
    return result
