"""Which weak models lack detail? Hand-made ones, of which the answer is known: only the blur is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dg_tools.metrics.deficit import Deficit, WeakModelRule, detail_deficit

SIGMAS = (0.3, 0.5, 0.7)
COUNT, SIZE = 6, (16, 24)


def spectrum_of(x):
    """Power by radius in cycles per cell, by numpy."""
    power = np.abs(np.fft.fft2(x.double().numpy())) ** 2
    fy, fx = np.fft.fftfreq(x.shape[-2])[:, None], np.fft.fftfreq(x.shape[-1])[None]
    return np.hypot(fy, fx), power


def band(x, low, high):
    radius, power = spectrum_of(x)
    return power[..., (radius > 0) & (radius >= low) & (radius < high)].sum((1, 2))


@pytest.fixture(scope="module")
def pictures():
    """Latents with power falling as 1 / f, as pictures have, a mean that is not 0, and noise."""
    chance = torch.Generator().manual_seed(0)
    radius = torch.fft.fftfreq(SIZE[0])[:, None].hypot(torch.fft.fftfreq(SIZE[1])[None])
    radius[0, 0] = 1.0
    white = torch.randn(COUNT, 4, *SIZE, generator=chance, dtype=torch.float64)
    x = torch.fft.ifft2(torch.fft.fft2(white) / radius).real
    x = x / x.std((1, 2, 3), keepdim=True) + 0.7
    return x, torch.randn(x.shape, generator=chance, dtype=torch.float64)


def blurred(x):
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
    kernel = (kernel[:, None] * kernel / 16).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kernel, groups=x.shape[1])


WEAK = {  # of z, x0 and sigma: the weak model's velocity
    "inert": lambda v, z, x, s, n: v,
    "0.8 v": lambda v, z, x, s, n: 0.8 * v,
    "1.2 v": lambda v, z, x, s, n: 1.2 * v,
    "pulled to its mean": lambda v, z, x, s, n: (z - (0.8 * x + 0.2 * x.mean((2, 3), keepdim=True))) / s,
    "noise": lambda v, z, x, s, n: (z - (x + 0.3 * n)) / s,
    "blurred": lambda v, z, x, s, n: (z - blurred(x)) / s,
}


def judged(pictures, weak, rule=WeakModelRule(), kept=1.0):
    x, noise = pictures
    more = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)
    steps = []
    for sigma in SIGMAS:
        z = (1 - sigma) * x + sigma * noise
        x0 = x + 0.05 * noise  # what the model predicts is not quite the truth
        v = (z - x0) / sigma
        steps.append(detail_deficit(z, v, WEAK[weak](v, z, x0, sigma, more), sigma))
    return steps, rule.judge(steps, kept)


def test_only_the_blur_is_chosen(pictures):
    found = {name: judged(pictures, name)[1] for name in WEAK}
    assert [name for name, made in found.items() if made.eligible] == ["blurred"]
    assert all(abs(found[name].score) < 1e-9 for name in ("inert", "0.8 v", "1.2 v"))
    assert found["0.8 v"].gain == pytest.approx(0.8) and found["0.8 v"].change == pytest.approx(0.2)
    assert found["pulled to its mean"].score < 0 and found["noise"].score < 0 < 0.5 < found["blurred"].score


def test_the_score_without_gain_removal_would_take_the_pull_to_the_mean_for_a_lack_of_detail(pictures):
    """What made the earlier objective win by shrinking: with the mean in the low band, and the gain left in."""
    x, noise = pictures
    z = 0.5 * x + 0.5 * noise
    pulled = 0.8 * x + 0.2 * x.mean((2, 3), keepdim=True)
    with_mean = [(p**2).sum((1, 2, 3)).numpy() for p in (pulled, x)]
    naive = np.log2(with_mean[0] / with_mean[1]) - np.log2(band(pulled, 0.25, 9) / band(x, 0.25, 9))
    v = (z - x) / 0.5
    assert naive.min() > 0.15 > detail_deficit(z, v, (z - pulled) / 0.5, 0.5).score.max()


def test_the_numbers_are_those_of_numpy(pictures):
    x, noise = pictures
    sigma = 0.5
    z = (1 - sigma) * x + sigma * noise
    c = (z - x) / sigma
    d = 0.9 * (z - blurred(x)) / sigma
    flat_c, flat_d = (v.numpy().reshape(COUNT, -1) for v in (c, d))
    share = (flat_c * flat_d).sum(1) / (flat_c**2).sum(1)
    own, other = z - sigma * c, z - sigma * d / torch.from_numpy(share)[:, None, None, None]
    low = np.log2(band(other, 0, 1 / 8) / band(own, 0, 1 / 8))
    high = np.log2(band(other, 1 / 4, 9) / band(own, 1 / 4, 9))
    made = detail_deficit(z.float(), c.float(), d.float(), sigma)
    assert np.allclose(made.gain, share, rtol=1e-5)
    assert np.allclose(made.change, np.linalg.norm(flat_d - flat_c, axis=1) / np.linalg.norm(flat_c, axis=1))
    assert np.allclose(made.low, low, atol=1e-4) and np.allclose(made.high, high, atol=1e-4)
    assert np.allclose(made.score, low - high, atol=1e-4)
    # the mean is in no band: a constant changes nothing, once the gain is the same
    shifted = detail_deficit(z + 3.0, c, d, sigma)
    assert np.allclose(shifted.score, low - high, atol=1e-4)


@pytest.mark.parametrize(
    ("rule", "kept", "words"),
    [
        ({"score": 3.0}, 1.0, "is not surely more than 3"),
        ({"high": 0.001}, 1.0, "fewer than 2 are under 0.001"),
        ({"low_correlation": 0.9999}, 1.0, "low-band correlation 0.9"),
        ({"change": 0.9}, 1.0, "it changes the prediction by 0."),
        ({}, 0.4, "0.40 of the change is left after the last block, less than 0.5"),
        ({"gain": 2.0}, 1.0, "is not more than 2"),
    ],
)
def test_each_threshold_alone_is_missed_in_words(pictures, rule, kept, words):
    made = judged(pictures, "blurred", WeakModelRule(**rule), kept)[1]
    assert len(made.misses) == 1 and words in made.misses[0] and not made.eligible


def test_two_of_three_noise_levels_are_enough_and_one_is_not():
    def step(high):
        ones = torch.ones(4, dtype=torch.float64)
        return Deficit(0.9 * ones, 0.2 * ones, 0 * ones, high * ones, -high * ones, ones)

    lacking, full = step(math.log2(0.5)), step(0.0)
    assert WeakModelRule().judge([lacking, lacking, full]).eligible
    assert "fewer than 2" in WeakModelRule().judge([lacking, full, full]).misses[0]
    with pytest.raises(ValueError, match="an interval needs at least 2"):
        WeakModelRule().judge([Deficit(*(x[:1] for x in lacking))])
    nothing = WeakModelRule().judge([Deficit(*(torch.full((4,), torch.nan),) * 6)])
    assert not nothing.eligible and math.isnan(nothing.score)
