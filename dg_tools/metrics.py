"""What is detail, and is it the right detail?

High-frequency energy alone cannot tell: Laplacian variance counts speckle. So power is split by band of radial
frequency, and within each band into the part that is coherent with a reference (the right detail, in whatever amount)
and the incoherent rest; and power is measured where the reference is flat (noise). Contrast stands beside, because
detail metrics rise with it.

Pictures are float tensors (N, C, H, W), on one scale throughout a call ([-1, 1] or [0, 1]); powers are in its square.
Frequencies are in cycles per pixel, 0.5 the Nyquist frequency along an axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

Bands = Mapping[str, tuple[float, float]]

BANDS: Bands = {"low": (0.0, 1 / 16), "mid": (1 / 16, 1 / 8), "high": (1 / 8, float("inf"))}

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


class Split(NamedTuple):
    """Power of one band: the part coherent with the reference, and the rest; each (N,)."""

    coherent: torch.Tensor
    incoherent: torch.Tensor


class Share(NamedTuple):
    """A change against an axis: signed share of the axis's length, and squared cosine; each (N,)."""

    projection: torch.Tensor
    cosine2: torch.Tensor


def band_masks(size: Sequence[int], bands: Bands = BANDS) -> dict[str, torch.Tensor]:
    """Boolean masks of `size` (height, width) over the frequencies of `fft2`, one a band; DC is in the lowest.

    Raises:
        ValueError: a band that holds no frequency at this size.
    """
    height, width = size
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None]
    radius = (fy**2 + fx**2).sqrt()
    masks = {name: (radius >= low) & (radius < high) for name, (low, high) in bands.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise ValueError(f"band {name!r} {bands[name]} holds no frequency of a {height} x {width} picture")
    return masks


def spectrum(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal 2-D Fourier transform over the last two dimensions.

    Raises:
        ValueError: not (N, C, H, W).
    """
    if x.ndim != 4:
        raise ValueError(f"pictures of shape {tuple(x.shape)}; (N, C, H, W) is needed")
    return torch.fft.fft2(x.double(), norm="ortho")


def same_shape(x: torch.Tensor, reference: torch.Tensor) -> None:
    """Raise ValueError where two batches of pictures cannot be compared."""
    if x.shape != reference.shape:
        raise ValueError(
            f"pictures of shape {tuple(x.shape)} against references of {tuple(reference.shape)}; equal needed"
        )


def band_power(x: torch.Tensor, bands: Bands = BANDS) -> dict[str, torch.Tensor]:
    """Mean-square contribution of each band, (N,); over all bands they sum to the mean of x^2 (Parseval)."""
    power = spectrum(x).abs().square()
    return {name: power[..., mask].sum((1, 2)) / x[0].numel() for name, mask in band_masks(x.shape[-2:], bands).items()}


def coherent_power(x: torch.Tensor, reference: torch.Tensor, bands: Bands = BANDS) -> dict[str, Split]:
    """Each band's power split by its reference: coherent |sum X Y*|^2 / sum |Y|^2 and the incoherent rest.

    The sums run over the band's frequencies and the channels of one picture, so coherent power is what a copy of the
    reference's band, scaled by one number, explains. A reference without power in a band explains nothing.
    """
    same_shape(x, reference)
    X, Y = spectrum(x), spectrum(reference)
    splits = {}
    for name, mask in band_masks(x.shape[-2:], bands).items():
        a, b = X[..., mask], Y[..., mask]
        total = a.abs().square().sum((1, 2))
        own = b.abs().square().sum((1, 2))
        shared = (a * b.conj()).sum((1, 2)).abs().square() / own.clamp_min(1e-30)
        shared = torch.where(own > 1e-30, shared, torch.zeros_like(shared)).minimum(total)
        splits[name] = Split(shared / x[0].numel(), (total - shared) / x[0].numel())
    return splits


def band_error(x: torch.Tensor, reference: torch.Tensor, bands: Bands = BANDS) -> dict[str, torch.Tensor]:
    """Mean-square error against the reference by band, (N,)."""
    same_shape(x, reference)
    return band_power(x - reference, bands)


def coherent_error(x: torch.Tensor, reference: torch.Tensor, bands: Bands = BANDS) -> dict[str, Split]:
    """The error x - reference split by the reference: coherent is a wrong amount, incoherent a wrong pattern."""
    same_shape(x, reference)
    return coherent_power(x - reference, reference, bands)


def band_correlation(x: torch.Tensor, reference: torch.Tensor, bands: Bands = BANDS) -> dict[str, torch.Tensor]:
    """Pearson correlation of the band-passed pictures, (N,), -1..1, over pixels and channels; means are left out."""
    same_shape(x, reference)
    X, Y = spectrum(x), spectrum(reference)
    X[..., 0, 0] = 0
    Y[..., 0, 0] = 0
    result = {}
    for name, mask in band_masks(x.shape[-2:], bands).items():
        a, b = X[..., mask], Y[..., mask]
        norm = (a.abs().square().sum((1, 2)) * b.abs().square().sum((1, 2))).sqrt()
        result[name] = (a * b.conj()).sum((1, 2)).real / norm.clamp_min(1e-30)
    return result


def band_pass(x: torch.Tensor, band: str, bands: Bands = BANDS) -> torch.Tensor:
    """The pictures with one band kept, same shape."""
    mask = band_masks(x.shape[-2:], bands)[band]
    return torch.fft.ifft2(spectrum(x) * mask, norm="ortho").real


def flat_noise(x: torch.Tensor, reference: torch.Tensor, tolerance: float = 0.02, margin: int = 2) -> torch.Tensor:
    """High-band power of x where the reference is flat, (N,): noise, not detail. NaN where the reference is nowhere
    flat.

    Args:
        x: pictures.
        reference: same shape.
        tolerance: largest step to a neighbouring pixel that still counts as flat, on the pictures' scale.
        margin: pixels around any larger step that do not count.
    """
    same_shape(x, reference)
    step_y = F.pad((reference[..., 1:, :] - reference[..., :-1, :]).abs(), (0, 0, 0, 1))
    step_x = F.pad((reference[..., :, 1:] - reference[..., :, :-1]).abs(), (0, 1, 0, 0))
    busy = (torch.maximum(step_y, step_x).amax(1, keepdim=True) > tolerance).float()
    flat = F.max_pool2d(busy, 2 * margin + 1, stride=1, padding=margin) == 0
    power = band_pass(x, "high").square().mean(1, keepdim=True)
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


def detail_share(x: torch.Tensor) -> torch.Tensor:
    """High-band power over all power but the mean's, (N,), 0..1."""
    power = band_power(x - x.mean((2, 3), keepdim=True))
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
    small = F.adaptive_avg_pool2d(samples, size).flatten(1)
    if references.ndim == 4:
        pool = F.adaptive_avg_pool2d(references, size).flatten(1)[None]
    else:
        pool = F.adaptive_avg_pool2d(references.flatten(0, 1), size).flatten(1).unflatten(0, references.shape[:2])
    distance = (small[:, None] - pool).norm(dim=-1)
    own = distance.gather(1, targets[:, None])
    return (distance < own).sum(1)


def top_k(ranks: torch.Tensor, k: int) -> float:
    """Share of ranks below k."""
    return (ranks < k).float().mean().item()


def describe(x: torch.Tensor, reference: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """All of the above by name, each (N,); `UNITS` says in what. What needs a reference is left out without one."""
    power = band_power(x)
    result = {f"{band}_power": value for band, value in power.items()}
    if reference is not None:
        split, correlation = coherent_power(x, reference)["high"], band_correlation(x, reference)
        result |= {"high_coherent": split.coherent, "high_incoherent": split.incoherent}
        result |= {"high_correlation": correlation["high"], "low_correlation": correlation["low"]}
        result["flat_noise"] = flat_noise(x, reference)
    result |= {"detail_share": detail_share(x), "contrast": contrast(x), "laplacian_variance": laplacian_variance(x)}
    result["normalised_laplacian_variance"] = normalised_laplacian_variance(x)
    return result


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
