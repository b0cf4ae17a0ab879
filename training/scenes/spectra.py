"""Spectra: what all drawings of a material share, and how near a picture comes to it.

A material has no single true picture, so a sample is judged by its power in half-octave bands. Each material's own
drawings give the mean and the covariance of the logarithm of that power; the nearest material is the one whose drawings
a sample resembles most.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from training.scenes.materials import MATERIALS, draw

EDGES = 2.0 ** np.arange(-6, -1.99, 0.5)  # cycles per pixel: half octaves from 1/64 to 1/4
GREY = (128, 128, 128)


def tone_of(pictures: np.ndarray, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """How light each pixel is between the dark and the light shade of its picture's colour.

    Args:
        pictures: (N, n, n, 3) in [0, 1].
        colours: sRGB 0 to 255, one for each picture.

    Returns:
        (N, n, n); -1 is the dark shade and 1 the light one, as `materials.lit` gives it.
    """
    tones = []
    for picture, colour in zip(pictures, colours, strict=True):
        base = np.asarray(colour, np.float64) / 255
        dark, light = 0.55 * base, base + 0.35 * (1 - base)  # as `materials.ramp`
        tones.append((picture - dark) @ (light - dark) / np.square(light - dark).sum() * 2 - 1)
    return np.stack(tones)


def power(tone: np.ndarray, edges: np.ndarray = EDGES) -> np.ndarray:
    """Mean power per frequency in bands, over all directions, under a Hann window.

    Args:
        tone: (N, n, n).
        edges: of the bands, in cycles per pixel, ascending.

    Returns:
        (N, len(edges) - 1), in squared units of `tone`.

    Example:
        >>> power(np.zeros((2, 64, 64))).shape
        (2, 8)
    """
    size = tone.shape[-1]
    window = np.hanning(size + 2)[1:-1]
    window = np.outer(window, window)
    flat = tone - tone.mean((-2, -1), keepdims=True)
    density = np.abs(np.fft.fft2(flat * window)) ** 2 / np.square(window).sum()
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    masks = [(f >= a) & (f < b) for a, b in itertools.pairwise(edges)]
    return np.stack([density[:, m].mean(-1) if m.any() else np.zeros(len(tone)) for m in masks], 1)


@dataclass(frozen=True)
class Known:
    """The spectra of a material's own drawings.

    Attributes:
        mean_power: (bands,), mean over drawings.
        mean, inverse: of the logarithm of the power: mean (bands,) and inverse covariance (bands, bands).
        spread: logarithm of the covariance's determinant.
    """

    mean_power: np.ndarray
    mean: np.ndarray
    inverse: np.ndarray
    spread: float


def known(size: int, draws: int = 64, seed: int = 900) -> dict[str, Known]:
    """The spectrum of every material, from `draws` drawings at `size` pixels."""
    table = {}
    for k, material in enumerate(MATERIALS):
        pictures = np.stack([draw(material, GREY, size, (seed, k, i)) for i in range(draws)])
        powers = power(tone_of(pictures, [GREY] * draws))
        log = np.log(powers + 1e-9)
        covariance = np.cov(log.T) + 0.05 * np.eye(log.shape[1])  # 0.05: as if each band were known to 1 dB
        spread = float(np.linalg.slogdet(covariance)[1])
        table[material] = Known(powers.mean(0), log.mean(0), np.linalg.inv(covariance), spread)
    return table


def nearest(powers: np.ndarray, materials: dict[str, Known]) -> list[str]:
    """The material whose drawings each spectrum (N, bands) resembles most."""
    log, names = np.log(powers + 1e-9), list(materials)
    scores = []
    for entry in materials.values():
        away = log - entry.mean
        scores.append(np.einsum("ni,ij,nj->n", away, entry.inverse, away) + entry.spread)
    return [names[i] for i in np.stack(scores, 1).argmin(1)]


def decibels(powers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """10 log10 of mean power over target power, by band; 0 is right."""
    return 10 * np.log10((powers.mean(0) + 1e-9) / (target + 1e-9))
