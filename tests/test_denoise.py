"""`denoise` against the same thing written out, its search for equal harm, and verdicts on numbers made to order."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.datasets.examples import Example
from dg_tools.experiments import denoise, open_result
from dg_tools.experiments.selectivity import AgainstControls, shares

CALL = {"max_sequence_length": 8, "progress": False}


def pictures(n: int, masks: bool = True) -> list[tuple]:
    chance = torch.Generator().manual_seed(0)
    made = [(f"thing {i}", torch.rand(3, 32, 48, generator=chance) * 2 - 1) for i in range(n)]
    left = torch.zeros(32, 48)
    left[:, :24] = 1
    return [(*x, left) for x in made] if masks else made


def grey(n: int) -> list[Example]:
    return [Example(f"thing {i}", torch.full((3, 32, 48), 0.3), span=(-1, 1)) for i in range(n)]


@pytest.fixture(scope="module")
def planted():
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [5], 60.0)
    dit = dg.load(pipeline)
    items = pictures(3)
    made = denoise(
        dit, items, [4, 9], channels=[5], block=1, sigmas=(0.4, 0.8), controls=3, dose=[(1, 1), (2, 2)], batch=4, **CALL
    )
    return dit, items, made


def test_equals_the_experiment_written_out(planted):
    dit, items, made = planted
    vae, config = dit.pipeline.vae, dit.pipeline.vae.config
    truth = torch.stack([x for _, x, _ in items])
    sentences = made.tables["edits"].set_index("variant")["sentence"]
    strengths = made.tables["search"].query("sigma == 0.8").set_index("control")["strength"]
    assert "zero channels 5 after block 1" in sentences["zero"]
    with torch.no_grad():
        z0 = (vae.encode(truth).latent_dist.mode() - config.shift_factor) * config.scaling_factor
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(9))
        zt = 0.2 * z0 + 0.8 * noise
        embeds, _, pooled, _ = dit.pipeline.encode_prompt(
            [p for p, *_ in items], None, None, do_classifier_free_guidance=False, max_sequence_length=8
        )

        def x0(hook=None):
            handle = dit.blocks[1].module.register_forward_hook(hook) if hook else None
            v = dit.transformer(zt, embeds, pooled, torch.full((3,), 800.0), return_dict=False)[0]
            if handle:
                handle.remove()
            return vae.decode((zt - 0.8 * v) / config.scaling_factor + config.shift_factor).sample.clamp(-1, 1)

        def zero(module, inputs, output):
            output[1][..., 5] = 0

        def control(draw):
            generator = torch.Generator().manual_seed(draw)
            rest = [c for c in range(tiny.WIDTH) if c != 5]
            other = rest[int(torch.randperm(len(rest), generator=generator)[0])]
            sign = torch.randn(1, generator=generator).sign().item()

            def hook(module, inputs, output):
                size = output[1][..., 5].square().mean(1).sqrt()
                output[1][..., other] += sign * strengths[draw] * size[:, None]

            return hook

        expected = {"clean": x0(), "zero": x0(zero), "control 2": x0(control(2))}
    table = made.to_frame().query("sigma == 0.8 and seed == 9")
    mask = items[0][2]
    for variant, picture in expected.items():
        rows = table[table["variant"] == variant].groupby("picture")
        error = (picture - truth).square().mean((1, 2, 3))
        varying = (picture - truth).var((2, 3), unbiased=False).mean(1)  # of all bands together: the mean is in none
        assert np.allclose(rows["total"].first(), error, rtol=1e-4)
        assert np.allclose(rows["error"].sum(), varying, rtol=1e-4) and not np.allclose(varying, error, rtol=1e-2)
        change = torch.fft.fft2((picture - truth).double())
        fy, fx = torch.fft.fftfreq(32)[:, None], torch.fft.fftfreq(48)[None]
        high = torch.fft.ifft2(change * ((fy**2 + fx**2).sqrt() * dit.vae_scale_factor >= 1 / 4)).real.square().mean(1)
        ours = table[(table["variant"] == variant) & (table["band"] == "high")].sort_values("picture")
        assert np.allclose(ours["foreground"], (high * mask).sum((1, 2)) / mask.sum(), rtol=1e-4)
        assert np.allclose(ours["background"], (high * (1 - mask)).sum((1, 2)) / (1 - mask).sum(), rtol=1e-4)
    assert not torch.allclose(expected["clean"], expected["zero"], rtol=1e-3)


def test_controls_do_the_same_harm():
    """Where zeroing does harm the controls do as much; where it does none, they move the velocity by as much."""
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [5], 60.0)
    dit, items = dg.load(pipeline), grey(3)
    settings = {"channels": [3], "block": 1, "sigmas": (0.3, 0.8), "controls": 2, "further": False, **CALL}
    made = denoise(dit, items, [0], **settings)
    search = made.tables["search"].set_index(["sigma", "control"])
    assert (search.loc[0.3, "matched"] == "error").all() and (search.loc[0.8, "matched"] == "output").all()
    assert any("at sigma [0.8] the edit does no harm" in n for n in made.notes)
    total = made.to_frame().groupby(["variant", "sigma"])["total"].mean().unstack("sigma")
    assert total.loc["zero", 0.8] < total.loc["clean", 0.8]
    harm = total - total.loc["clean"]
    for i in range(2):
        assert harm.loc[f"control {i}", 0.3] / harm.loc["zero", 0.3] == pytest.approx(1, abs=0.035)
        assert search.loc[(0.3, i), "reached"] == pytest.approx(harm.loc[f"control {i}", 0.3] / harm.loc["zero", 0.3])
        assert np.isnan(search.loc[(0.8, i), "reached"]) and abs(search.loc[(0.8, i), "searched"] - 1) < 0.035


def test_a_planted_constant_is_all_mean(planted):
    """A channel that is the same on every token: its mean is all of it, so that mean is a no-op and DC the damage."""
    *_, made = planted
    assert abs(made.outcome("mean_no_op").estimate) < 0.1 * abs(made.outcome("extra_total").estimate)
    assert made.outcome("dc_share").estimate == pytest.approx(1, abs=0.1)


def test_result_is_whole(planted, tmp_path):
    dit, items, made = planted
    assert made.primary.name == "selectivity" and len(made.primary.null) <= 3
    assert set(made.to_frame()["prompt"]) == {p for p, *_ in items} and set(made.to_frame()["seed"]) == {4, 9}
    names = {"extra_high", "incoherent_share", "foreground", "mean_no_op", "norms_share", "rescale_share"}
    assert names <= {o.name for o in made.outcomes} and "style_axis" not in {o.name for o in made.outcomes}
    assert any("no axis" in n for n in made.notes)
    small = made.tables["variants"].set_index("variant")
    assert {"1 channels, 1 layers", "2 channels, 2 layers", "like variance 2"} <= set(small.index)
    made.save(tmp_path)
    again = open_result(tmp_path)
    assert again.verdict == made.verdict and len(again.plot().axes) == 6
    settings = {"channels": [5], "block": 1, "sigmas": (0.4,), "controls": 2, "further": False, **CALL}
    twice = [denoise(dit, items[:2], [4], **settings) for _ in range(2)]
    assert twice[0].table.equals(twice[1].table) and twice[0].verdict == twice[1].verdict


def test_pictures_without_masks_on_flux(dits):
    made = denoise(
        dits("flux"), pictures(2, masks=False), [0], channels=[3], block=2, sigmas=(0.5,), controls=2, match="output",
        further=False, **CALL,
    )  # fmt: skip
    assert any("no masks" in n for n in made.notes) and "foreground" not in {o.name for o in made.outcomes}
    assert set(made.tables["search"]["matched"]) == {"output"}
    assert len(made.plot().axes) == 6


def test_references_have_an_axis():
    dit, source = dg.load(tiny.sd3()), dg.references()
    small = [r for r in source.sample(3, seed=1)]
    made = denoise(
        dit, small, [0], channels=[3], block=1, sigmas=(0.5,), controls=2, further=False, folder=source,
        progress=False,
    )  # fmt: skip
    assert made.outcome("style_axis").unit == "of the way from flat to shaded"
    assert not made.to_frame()["foreground"].isna().any()


def made_up(edit_high: float, control_high: float, noise: float = 0.02, controls: int = 20) -> pd.DataFrame:
    """A table in which the edit and its controls multiply the high-band error, and the low band's by 1.2."""
    chance, rows = np.random.default_rng(0), []
    variants = {"clean": (1.0, 1.0), "zero": (1.2, edit_high)}
    variants |= {f"control {i}": (1.2, control_high) for i in range(controls)}
    for variant, (low, high) in variants.items():
        role = {"clean": "clean", "zero": "edit"}.get(variant, "control")
        for sigma in (0.3, 0.7):
            for picture in range(12):
                for band, factor in (("low", low), ("high", high)):
                    spread = 1.0 if variant == "clean" else math.exp(noise * chance.normal())
                    error = factor * (1 + picture) * spread
                    rows.append((variant, role, sigma, picture, f"p{picture}", band, error, error / 2))
    columns = ["variant", "role", "sigma", "picture", "prompt", "band", "error", "incoherent"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(total=table.groupby(["variant", "sigma", "picture"])["error"].transform("sum"))


def test_verdicts_on_numbers_made_to_order():
    names = [f"control {i}" for i in range(20)]
    selective = AgainstControls(made_up(2.0, 1.5), names)
    assert selective.primary().estimate == pytest.approx(math.log(2 / 1.5), abs=0.02)
    assert selective.primary().status == "holds" and selective.own_selectivity().status == "holds"
    # selective by itself, and yet less than any damage of that size: the claim fails
    less = AgainstControls(made_up(1.4, 1.6), names)
    assert less.own_selectivity().estimate > 0 and less.primary().status == "fails"
    assert less.own_selectivity().status == "no more than controls"
    same = AgainstControls(made_up(1.5, 1.5, noise=0.2), names)
    assert same.primary().status in ("undecided", "no more than controls", "fails")
    few = AgainstControls(made_up(2.0, 1.5), names[:2])
    assert few.primary().status == "too few controls"
    assert selective.incoherent().estimate == pytest.approx(0.5)
    clusters = np.array([f"p{i}" for i in range(12)])
    shown = shares(selective.ratios, "zero", {"control 0": "dc"}, clusters)[0]
    direct = selective.ratios.xs("control 0")["total"].mean() / selective.ratios.xs("zero")["total"].mean()
    assert shown.estimate == pytest.approx(direct) and shown.name == "dc_share"


def test_bad_input_is_refused_before_any_forward(dits):
    dit, items = dits("sd3"), pictures(3)
    settings = {"channels": [3], "block": 1, **CALL}
    with pytest.raises(ValueError, match="compares with true pictures"):
        denoise(dit, ["apple", "tree"], [0], **settings)
    with pytest.raises(ValueError, match="empty list of prompts"):
        denoise(dit, [], [0], **settings)
    with pytest.raises(ValueError, match="empty list of seeds"):
        denoise(dit, items, [], **settings)
    with pytest.raises(ValueError, match="distinct values between 0 and 1"):
        denoise(dit, items, [0], sigmas=(0.5, 1.0), **settings)
    with pytest.raises(ValueError, match="at least 2"):
        denoise(dit, items, [0], controls=1, **settings)
    with pytest.raises(ValueError, match="of kind 'shift'"):
        denoise(dit, items, [0], kind="random", **settings)
    with pytest.raises(IndexError, match="there are 0 to 31"):
        denoise(dit, items, [0], channels=[99], block=1, **CALL)
    with pytest.raises(ValueError, match="at least 2"):
        denoise(dit, items[:1], [0], **settings)
    with pytest.raises(ValueError, match="3 layers from block 1 on"):
        denoise(dit, items, [0], dose=[(1, 4)], **settings)
    with pytest.raises(ValueError, match="1 mask for 3 pictures"):
        denoise(dit, [items[0], *(x[:2] for x in items[1:])], [0], **settings)
    with pytest.raises(ValueError, match="could be a picture in 0..1, or a bright one"):
        denoise(dit, [*items, ("bright", torch.zeros(3, 32, 48))], [0], **settings)
    with pytest.raises(ValueError, match="multiples of 4 pixels"):
        denoise(dit, [(p, torch.full((3, 30, 48), -0.5)) for p in "ab"], [0], **settings)
