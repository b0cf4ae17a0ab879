"""Fields: what the materials are made of. Arrays over pixels in, arrays over pixels out, randomness as a Generator.

A picture of size n is drawn on a grid of pixel centres, x to the right and y down, in pixels. Every field is float32 of
shape (n, n).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Field = np.ndarray


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """Pixel centres of a size x size picture, (x, y), each (size, size), in pixels from the centre."""
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return np.broadcast_to(axis, (size, size)), np.broadcast_to(axis[:, None], (size, size))


def turned(size: int, angle: float, period: float, phase: tuple[float, float]) -> tuple[Field, Field]:
    """Coordinates (u, v) turned by `angle` radians, in units of `period` pixels, shifted by `phase` periods.

    Example:
        >>> u, v = turned(4, 0.0, 2.0, (0.0, 0.0))
        >>> [float(t) for t in u[0]]
        [-0.75, -0.25, 0.25, 0.75]
    """
    x, y = grid(size)
    cos, sin = np.float32(np.cos(angle) / period), np.float32(np.sin(angle) / period)
    return x * cos + y * sin + np.float32(phase[0]), y * cos - x * sin + np.float32(phase[1])


def step(x: Field, width: float) -> Field:
    """A smooth step from 0 to 1 around x = 0, `width` wide: an edge without stairs where it is a pixel wide."""
    t = np.clip(x / np.float32(width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def wave(x: Field, width: float) -> Field:
    """A square wave of period 1 between 0 and 1, its edges smoothed over `width` periods."""
    distance = np.abs(x - np.floor(x) - np.float32(0.5))  # 0 in the middle of a period, 0.5 at its ends
    return step(np.float32(0.25) - distance, width)


def hashed(i: Field, j: Field, salt: int) -> Field:
    """A number in [0, 1) for each cell (i, j) of a lattice, the same for the same cell and `salt`."""
    a = np.asarray(i).astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1)
    b = np.asarray(j).astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA77)
    h = a ^ b ^ np.uint32(salt & 0xFFFFFFFF)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(15)
    return (h >> np.uint32(8)).astype(np.float32) / np.float32(2**24)


@lru_cache(maxsize=8)
def frequencies(size: int) -> tuple[Field, Field]:
    """Frequencies (fx, fy) of an rfft2, in cycles per pixel."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    return fx.astype(np.float32), fy.astype(np.float32)


def noise(size: int, rng: np.random.Generator, slope: float, low: float, high: float) -> Field:
    """Gaussian noise of mean 0 and deviation 1, whose power falls as frequency^-slope between two frequencies.

    Args:
        size: pixels along a side; the noise wraps around.
        rng: draws one normal number a pixel.
        slope: of the power spectrum; 0 is white, 2 is brown.
        low, high: cycles per pixel. Below `low` the spectrum is flat, above `high` it falls off fast.
    """
    fx, fy = frequencies(size)
    f = np.sqrt(fx**2 + fy**2)
    gain = np.maximum(f, low) ** np.float32(-slope / 2) * np.exp(-((f / high) ** 4))
    gain[0, 0] = 0
    return _filtered(size, rng, gain)


def streaks(size: int, rng: np.random.Generator, angle: float, length: float, width: float) -> Field:
    """Gaussian noise drawn out along `angle` (radians): blobs `length` by `width` pixels; mean 0, deviation 1."""
    fx, fy = frequencies(size)
    along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
    gain = np.exp(-2 * ((along * length) ** 2 + (across * width) ** 2)).astype(np.float32)
    gain[0, 0] = 0
    return _filtered(size, rng, gain)


def _filtered(size: int, rng: np.random.Generator, gain: Field) -> Field:
    """White noise through a filter, brought to deviation 1 by the filter's own power, not the draw's."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * gain
    power = 2 * np.square(gain, dtype=np.float64).sum() - np.square(gain[:, 0], dtype=np.float64).sum()
    return np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32) / np.float32(np.sqrt(power) / size)


def cells(u: Field, v: Field, salt: int) -> tuple[Field, Field, Field]:
    """Voronoi cells of one jittered point in each unit square.

    Returns:
        Distance to the nearest point, distance to the edge of the cell (0 there; the difference of the two nearest
        distances), and a random number in [0, 1) for each cell.
    """
    i, j = np.floor(u), np.floor(v)
    first = np.full_like(u, 9)
    second, tone = first.copy(), np.zeros_like(u)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            a, b = i + np.float32(di), j + np.float32(dj)
            x = a + np.float32(0.15) + np.float32(0.7) * hashed(a, b, salt) - u
            y = b + np.float32(0.15) + np.float32(0.7) * hashed(a, b, salt + 1) - v
            d = np.sqrt(x * x + y * y)
            nearer = d < first
            second = np.where(nearer, first, np.minimum(second, d))
            tone = np.where(nearer, hashed(a, b, salt + 2), tone)
            first = np.minimum(first, d)
    return first, second - first, tone
