"""Power by band of spatial frequency, and the part of it that is coherent with a reference.

Power is split by band of radial frequency, and within each band into the part that is coherent with a reference (the
right detail, in whatever amount) and the incoherent rest.

Pictures are float tensors (N, C, H, W), on one scale throughout a call ([-1, 1] or [0, 1]); powers are in its square.
Frequencies are in cycles per pixel, 0.5 the Nyquist frequency along an axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

Bands = Mapping[str, tuple[float, float]]

BANDS: Bands = {"low": (0.0, 1 / 16), "mid": (1 / 16, 1 / 8), "high": (1 / 8, float("inf"))}


class Split(NamedTuple):
    """Power of one band: the part coherent with the reference, and the rest; each (N,)."""

    coherent: torch.Tensor
    incoherent: torch.Tensor


def radius(size: Sequence[int]) -> torch.Tensor:
    """Frequencies of `fft2` by their distance from 0, of `size` (height, width), in cycles per pixel."""
    height, width = size
    return (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width)[None] ** 2).sqrt()


def band_masks(size: Sequence[int], bands: Bands = BANDS) -> dict[str, torch.Tensor]:
    """Boolean masks over the frequencies of `fft2`, (height, width), one per band; DC is in a band from 0.

    Raises:
        ValueError: a band that holds no frequency at this size.
    """
    distance = radius(size)
    masks = {name: (distance >= low) & (distance < high) for name, (low, high) in bands.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise ValueError(f"band {name!r} {bands[name]} holds no frequency of a {size[0]} x {size[1]} picture")
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
            f"pictures of shape {tuple(x.shape)} against references of {tuple(reference.shape)}; equal shapes "
            "are needed"
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


def region_error(
    x: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor, bands: Bands = BANDS
) -> dict[str, torch.Tensor]:
    """Mean-square error of each band inside a region, (N,): the error is band-passed first, then weighed by pixel.

    Args:
        x: pictures.
        reference: same shape.
        weight: (N, H, W), 0..1, how much of each pixel belongs to the region; NaN comes out where it is all zero.
    """
    same_shape(x, reference)
    if weight.shape != (x.shape[0], *x.shape[-2:]):
        raise ValueError(
            f"weights of shape {tuple(weight.shape)} for pictures of {tuple(x.shape)}; (N, H, W) is needed"
        )
    change, total = spectrum(x - reference), weight.double().sum((1, 2))
    errors = {}
    for name, mask in band_masks(x.shape[-2:], bands).items():
        power = torch.fft.ifft2(change * mask, norm="ortho").real.square().mean(1)
        errors[name] = (power * weight).sum((1, 2)) / total.where(total > 0, torch.nan)
    return errors
