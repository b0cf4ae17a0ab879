"""Bands in cycles per latent cell, and the amount of detail at equal contrast, on pictures whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dg_tools import metrics
from dg_tools.metrics.cell_bands import NAMED, bands_note, named_bands, named_words


def waves(cycles: float, size=(64, 96), amplitude: float = 1.0) -> torch.Tensor:
    """Plane waves along x with `cycles` per pixel, mean 0."""
    x = torch.arange(size[1]).double().expand(3, *size)
    return amplitude * torch.stack([torch.sin(2 * math.pi * cycles * x + i) for i in range(2)])


def noise(size=(2, 3, 48, 64), seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("cell", [1, 4, 8])
def test_a_wave_lies_in_the_band_of_its_cycles_per_cell_and_the_mean_in_none(cell):
    for cycles, band in (
        (3 / 64, "below 1/16"),
        (3 / 32, "1/16 to 1/8"),
        (3 / 16, "1/8 to 1/4"),
        (3 / 8, "1/4 to 1/2"),
    ):
        size = (16 * cell, 64 * cell)
        power = metrics.cell_power(waves(cycles / cell, size) + 5.0, cell)
        assert power.pop(band) == pytest.approx([0.5, 0.5])
        assert all(rest.max() < 1e-12 for rest in power.values())
    if cell > 1:
        above = metrics.cell_power(waves(1 / 4, (64, 96)), cell)["above 1/2"]
        assert above == pytest.approx([0.5, 0.5])


def test_the_bands_sum_to_the_variance_and_those_without_a_frequency_are_left_out():
    x = noise() + 3.0
    variance = (x - x.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))
    assert sum(metrics.cell_power(x, 4).values()) == pytest.approx(variance.tolist())
    assert list(metrics.cell_masks((16, 12))) == ["1/16 to 1/8", "1/8 to 1/4", "1/4 to 1/2", "above 1/2"]
    with pytest.raises(ValueError, match="none of the bands low holds a frequency of 8 x 8 at 1 pixels per cell"):
        metrics.cell_power(noise((1, 3, 8, 8)), 1, {"low": (0, 1 / 16)})
    with pytest.raises(ValueError, match="the low band holds no frequency of 8 x 8"):
        metrics.fineness(noise((1, 3, 8, 8)))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_a_picture_upsampled_twice_scores_lower(mode):
    x = noise((4, 3, 32, 48))
    smooth = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)  # between noise and a picture
    for picture in (x, smooth):
        scores = [metrics.fineness(picture, 4)]
        for _ in range(2):
            picture = F.interpolate(picture, scale_factor=2, mode=mode)
            scores.append(metrics.fineness(picture, 4))
        assert (scores[1] < scores[0] - 0.5).all() and (scores[2] < scores[1] - 0.5).all()


def test_amount_is_told_at_equal_contrast():
    low, high = waves(1 / 96), waves(3 / 32)  # 1/24 and 3/8 cycle per cell of 4 pixels
    clean = low + 0.1 * high
    assert metrics.amount_change(0.5 * clean + 0.2, clean, 4).abs().max() < 1e-9  # less contrast, the same detail
    assert metrics.amount_change(low + 0.2 * high, clean, 4) == pytest.approx([2.0, 2.0])  # four times the power
    assert metrics.amount_change(2 * low + 0.1 * high, clean, 4) == pytest.approx([-2.0, -2.0])
    assert metrics.fineness(torch.ones(1, 3, 32, 32)).isnan().all()


def test_the_change_of_a_band_is_signed_and_at_equal_contrast():
    """Coarse, middle and fine waves; the middle made twice as strong, the fine one half, then all three times."""
    size, cell = (64, 256), 4
    coarse, middle, fine = (waves(c / cell, size) for c in (3 / 32, 3 / 16, 3 / 8))
    clean, other = coarse + middle + fine, 3 * (coarse + 2 * middle + fine / 2) + 1
    changed = metrics.band_changes(
        other, clean, cell, {k: v for k, v in metrics.CELL_BANDS.items() if "1/8" in k or "1/4" in k}
    )
    assert list(changed) == ["1/16 to 1/8", "1/8 to 1/4", "1/4 to 1/2"]
    for value, expected in zip(changed.values(), (0, 2, -2), strict=True):
        assert value.tolist() == pytest.approx([expected] * 2, abs=1e-9)


def test_correlation_and_error_by_band_against_an_explicit_sum():
    x, y = noise(seed=0), noise(seed=1) + noise(seed=0)
    masks = metrics.cell_masks(x.shape[-2:], 4)
    for name, mask in masks.items():
        a, b = ((torch.fft.ifft2(torch.fft.fft2(p) * mask)).real.flatten(1) for p in (x, y))
        expected = torch.tensor([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)])
        assert metrics.cell_correlation(x, y, 4)[name] == pytest.approx(expected.tolist())
        assert metrics.cell_error(x, y, 4)[name] == pytest.approx((a - b).square().mean(1).tolist())
    assert metrics.low_correlation(x, 3 * x + 1, 4) == pytest.approx([1.0, 1.0])


def test_gain_is_what_a_copy_was_multiplied_by():
    x, other = noise(), noise(seed=1)
    assert metrics.gain(0.8 * x, x) == pytest.approx([0.8, 0.8])
    changed = 0.8 * x + 0.3 * other
    rest = changed / metrics.gain(changed, x)[:, None, None, None] - x
    assert (rest * x).sum((1, 2, 3)).abs().max() < 1e-8
    assert metrics.gain(x, torch.zeros_like(x)).isnan().all()


def test_a_band_is_named_in_cells_and_in_pixels():
    assert metrics.band_name((1 / 4, 1 / 2), 8) == "1/4 to 1/2 cycle per latent cell (1/32 to 1/16 per pixel)"
    assert metrics.band_name(metrics.LOW) == "below 1/8 cycle per latent cell"
    assert metrics.band_name((1 / 2, math.inf), 4) == "above 1/2 cycle per latent cell (above 1/8 per pixel)"


def test_the_margin_moves_where_the_rank_does_not():
    references = noise((5, 3, 32, 48))
    targets = torch.tensor([4, 1])
    near, far = (references[targets] + scale * noise((2, 3, 32, 48), seed=2) for scale in (0.1, 0.5))
    margins = [metrics.retrieval_margin(x, references, targets) for x in (near, far)]
    assert (margins[0] > margins[1]).all() and (margins[1] > 0).all()
    assert metrics.retrieval_rank(far, references, targets).tolist() == [0, 0]
    assert (metrics.retrieval_margin(near, references, torch.tensor([0, 0])) < 0).all()
    assert metrics.retrieval_margin(references[:1], references, torch.tensor([0])) == pytest.approx([1.0])
    with pytest.raises(ValueError, match="at least two references"):
        metrics.retrieval_margin(near, references[:1], torch.tensor([0, 0]))


@pytest.mark.parametrize("cell", [1, 4, 6, 8])
def test_low_mid_and_high_are_the_cells_masks_without_the_mean(cell):
    size = (12 * cell, 9 * cell)
    masks, expected = metrics.band_masks(size, named_bands(cell)), metrics.cell_masks(size, cell, NAMED)
    assert list(masks) == ["low", "mid", "high"]
    assert all(masks[name].equal(expected[name]) for name in NAMED)
    total = sum(mask.int() for mask in masks.values())
    assert total[0, 0] == 0 and total.sum() == total.numel() - 1  # every frequency once, but for the mean


def test_a_note_names_low_mid_and_high_in_cells_and_in_pixels():
    words = bands_note(8)
    assert "without the mean" in words and "high above 1/4 cycle per latent cell (above 1/32 per pixel)" in words
    assert named_words(4)["mid"] == "1/8 to 1/4 cycle per latent cell (1/32 to 1/16 per pixel)"
    assert named_words()["low"] == "below 1/8 cycle per latent cell"


def test_every_statistic_of_describe_takes_the_bands_and_none_of_theirs_the_mean():
    x, y = noise((2, 3, 32, 48)), noise((2, 3, 32, 48), 1)
    bands = named_bands(2)
    before, after = metrics.describe(x, y, bands), metrics.describe(x + 0.5, y, bands)
    for name in ("low_power", "mid_power", "high_power", "high_coherent", "low_correlation", "detail_share"):
        assert after[name] == pytest.approx(before[name].tolist(), rel=1e-6), name
    masks = metrics.cell_masks((32, 48), 2, NAMED)
    power = np.abs(np.fft.fft2(x.numpy())) ** 2 / (32 * 48)
    parts = {name: power[:, :, masks[name].numpy()].sum((1, 2)) / (3 * 32 * 48) for name in NAMED}
    assert before["low_power"] == pytest.approx(parts["low"])
    assert before["detail_share"] == pytest.approx(parts["high"] / sum(parts.values()))
