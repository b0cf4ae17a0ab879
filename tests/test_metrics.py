"""Metrics on pictures whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dg_tools import metrics


def waves(frequency: float, n: int = 2, size=(48, 64)) -> torch.Tensor:
    x = torch.arange(size[1]).expand(3, *size)
    return torch.stack([torch.sin(2 * math.pi * frequency * x + i) for i in range(n)]).float()


def test_bands_hold_their_frequencies_and_sum_to_the_whole():
    for frequency, band in ((1 / 32, "low"), (3 / 32, "mid"), (1 / 4, "high")):
        power = metrics.band_power(waves(frequency))
        assert torch.allclose(power[band], torch.full((2,), 0.5, dtype=torch.double), atol=1e-4)
    x = torch.randn(3, 3, 40, 56)
    assert torch.allclose(sum(metrics.band_power(x).values()), x.double().square().mean((1, 2, 3)))


def test_coherent_power_is_a_copy_and_incoherent_the_rest():
    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(4, 3, 64, 48, generator=generator) for _ in range(2))
    copied = metrics.coherent_power(0.5 * reference, reference)["high"]
    own = metrics.band_power(reference)["high"]
    assert torch.allclose(copied.coherent, 0.25 * own) and copied.incoherent.abs().max() < 1e-9
    speckled = metrics.coherent_power(reference + noise, reference)["high"]
    assert torch.allclose(speckled.incoherent, metrics.band_power(noise)["high"], rtol=0.05)
    nothing = metrics.coherent_power(noise, torch.zeros_like(noise))["high"]
    assert (nothing.coherent == 0).all()


def test_correlation_does_not_see_amount_and_noise_counts_as_noise():
    generator = torch.Generator().manual_seed(0)
    reference = torch.zeros(1, 3, 64, 64)
    reference[..., 20:44, 20:44] = torch.randn(1, 3, 24, 24, generator=generator)
    assert torch.allclose(metrics.band_correlation(2 * reference, reference)["high"], torch.ones(1).double())
    speckle = 0.1 * torch.randn(reference.shape, generator=generator)
    quiet, loud = metrics.flat_noise(reference, reference), metrics.flat_noise(reference + speckle, reference)
    assert loud > 10 * quiet and loud.item() == pytest.approx(0.01, rel=0.3)
    assert torch.isnan(metrics.flat_noise(speckle, torch.randn(1, 3, 64, 64))).all()


def test_contrast_and_laplacian():
    x = waves(1 / 8)
    assert torch.allclose(metrics.contrast(2 * x), 2 * metrics.contrast(x))
    assert torch.allclose(metrics.laplacian_variance(2 * x), 4 * metrics.laplacian_variance(x))
    same = metrics.normalised_laplacian_variance
    assert torch.allclose(same(2 * x), same(x), rtol=1e-4)
    assert set(metrics.describe(x, x)) == set(metrics.UNITS)


def test_axis_share():
    axis = torch.randn(2, 3, 8, 8)
    share = metrics.axis_share(-0.5 * axis, axis)
    assert torch.allclose(share.projection, torch.full((2,), -0.5).double())
    assert torch.allclose(share.cosine2, torch.ones(2).double())
    assert torch.isnan(metrics.axis_share(axis, torch.zeros_like(axis)).projection).all()


def test_retrieval():
    references = torch.randn(6, 3, 32, 32)
    samples = references[[4, 1]] + 0.01 * torch.randn(2, 3, 32, 32)
    assert metrics.retrieval_rank(samples, references, torch.tensor([4, 1])).tolist() == [0, 0]
    assert metrics.retrieval_rank(samples, references, torch.tensor([0, 1]))[0] > 0
    assert metrics.top_k(torch.tensor([0, 3, 7, 4]), 5) == 0.75


def test_intervals_resample_clusters():
    values, clusters = np.repeat(np.random.default_rng(0).normal(size=20), 10), np.repeat(np.arange(20), 10)
    mean, low, high = metrics.bootstrap_interval(values, clusters)
    _, naive_low, naive_high = metrics.bootstrap_interval(values)
    assert low < mean < high and (high - low) > 2 * (naive_high - naive_low)
    with pytest.raises(ValueError, match="at least 2"):
        metrics.bootstrap_interval(values, np.zeros(200))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="equal shapes are needed"):
        metrics.band_error(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 48))
    with pytest.raises(ValueError, match="is needed"):
        metrics.band_power(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match="holds no frequency"):
        metrics.band_power(torch.zeros(1, 3, 32, 32), {"none": (0.9, 1.0)})


def test_error_by_region_is_parsevals_where_the_region_is_everything():
    generator = torch.Generator().manual_seed(0)
    x, reference = (torch.randn(3, 3, 40, 56, generator=generator) for _ in range(2))
    whole = metrics.region_error(x, reference, torch.ones(3, 40, 56))
    for band, error in metrics.band_error(x, reference).items():
        assert torch.allclose(whole[band], error)
    left = torch.zeros(3, 40, 56)
    left[..., :28] = 1
    damaged = reference.clone()
    damaged[..., 34:] += 0.1 * torch.randn(3, 3, 40, 22, generator=generator)
    inside, outside = (metrics.region_error(damaged, reference, w)["high"] for w in (1 - left, left))
    assert (inside > 20 * outside).all()
    assert metrics.region_error(x, reference, torch.zeros(3, 40, 56))["low"].isnan().all()
    with pytest.raises(ValueError, match="needed"):
        metrics.region_error(x, reference, left[:1])


def test_ratio_of_means_with_its_interval():
    below = np.random.default_rng(0).normal(5, 1, 40)
    ratio, low, high = metrics.bootstrap_ratio(2 * below, below)
    assert ratio == pytest.approx(2) and low == pytest.approx(2) and high == pytest.approx(2)
    noisy = 2 * below + np.random.default_rng(1).normal(0, 1, 40)
    ratio, low, high = metrics.bootstrap_ratio(noisy, below)
    assert ratio == pytest.approx(noisy.mean() / below.mean()) and low < ratio < high
    with pytest.raises(ValueError, match="at least 2"):
        metrics.bootstrap_ratio(below, below, np.zeros(40))


def test_spectra_of_sets():
    rings = metrics.radial_spectrum(torch.randn(200, 1, 32, 48, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(rings.power, torch.ones(16).double(), atol=0.1)  # white noise: flat at its variance
    peak = metrics.radial_spectrum(waves(1 / 4))
    assert peak.frequency[peak.power.argmax()].item() == pytest.approx(0.25, abs=1 / 32)
    x = torch.randn(3, 3, 32, 48)
    assert metrics.log_spectral_distance(2 * x, x) == pytest.approx(20 * math.log10(2), abs=1e-6)
    assert metrics.log_spectral_distance(x[:2], x[:2]) == 0
    with pytest.raises(ValueError, match="hold no frequency"):
        metrics.radial_spectrum(torch.randn(1, 1, 8, 8), rings=30)


def test_kernel_distance_is_zero_on_average_within_a_distribution_and_kids_between_two():
    generator = torch.Generator().manual_seed(0)
    draw = lambda mean: mean + torch.randn(60, 2, 4, generator=generator)  # noqa: E731
    same = [metrics.kernel_distance(draw(0), draw(0), subsets=20).estimate for _ in range(20)]
    assert abs(np.mean(same)) < 2 * np.std(same) / math.sqrt(20) + 1e-9  # unbiased: below zero as often as above
    apart = metrics.kernel_distance(draw(0), draw(1.0))
    assert 0 < apart.low < apart.estimate < apart.high and apart.low > max(same)
    a, b = (torch.rand(4, 3, generator=generator).double() for _ in range(2))  # all halves of 4, written out
    kernel = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(4) for j in range(i)]
    own = np.mean([kernel(x[i], x[j]) for x in (a, b) for i, j in pairs]) * 2
    cross = np.mean([kernel(x, y) for x in a for y in b]) * 2
    assert metrics.kernel_distance(a, b, subsets=6000).estimate == pytest.approx(float(own - cross), abs=0.02)
    with pytest.raises(ValueError, match="at least 4"):
        metrics.kernel_distance(a[:3], b)
    with pytest.raises(ValueError, match="equal widths are needed"):
        metrics.kernel_distance(a, b[:, :2])


def test_distance_of_statistics_counts_in_spreads():
    values = torch.arange(10.0)
    found = metrics.statistics_distance({"x": values + 3, "y": values}, {"x": values, "y": values, "z": values})
    assert found == {"x": pytest.approx(3 / values.std(unbiased=False).item()), "y": 0}
    with pytest.raises(ValueError, match="in common"):
        metrics.statistics_distance({"x": values}, {"z": values})


def test_published_metrics_know_their_extremes():
    x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert torch.allclose(metrics.structural_similarity(x, x), torch.ones(2), atol=1e-5)
    assert (metrics.structural_similarity(-x, x) < 0).all()
    blurred = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    assert (metrics.blur_effect(blurred) > metrics.blur_effect(x)).all()


def test_ssim_agrees_with_a_second_library():
    from skimage.metrics import structural_similarity as other

    x, y = (torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in (0, 1))
    mixed, settings = 0.7 * x + 0.3 * y, {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ours = metrics.structural_similarity(mixed, x)
    theirs = [
        other((a.numpy() + 1) / 2, (b.numpy() + 1) / 2, channel_axis=0, data_range=1.0, **settings)
        for a, b in zip(mixed, x, strict=True)
    ]
    assert np.allclose(ours, theirs, atol=0.01)  # they crop the border differently
