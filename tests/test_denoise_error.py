"""The one-step experiment against the same thing written out, and its arithmetic on numbers known beforehand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments import DenoiseError
from dg_tools.experiments._denoise_error import measure
from dg_tools.metrics.cell_bands import named_bands
from dg_tools.models.pictures import spatial
from dg_tools.onestep import conditions, velocity


@pytest.fixture(scope="module")
def result():
    dit = dg.load(tiny.sd3())
    source = dg.references()
    chosen = source.sample(5, seed=1)
    off = dg.Disrupt([3, 7], 1)
    edits = [off, *off.controls(2)]
    made = dg.denoise_error(dit, chosen, edits, sigmas=(0.4, 0.8), seed=2, batch=3, folder=source, progress=False)
    return dit, source, chosen, edits, made


def test_equals_the_experiment_written_out(result):
    dit, source, chosen, edits, made = result
    vae, config = dit.pipeline.vae, dit.pipeline.vae.config
    truth = source.pictures(chosen[3:])  # the second batch
    with torch.no_grad():
        z0 = (vae.encode(truth).latent_dist.mode() - config.shift_factor) * config.scaling_factor
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(2 * 1_000_003 + 3))
        zt = 0.2 * z0 + 0.8 * noise
        embeds, _, pooled, _ = dit.pipeline.encode_prompt(
            [r.prompt for r in chosen[3:]], None, None, do_classifier_free_guidance=False
        )

        def error(hook=None):
            handle = dit.blocks[1].module.register_forward_hook(hook) if hook else None
            v = dit.transformer(zt, embeds, pooled, torch.full((2,), 800.0), return_dict=False)[0]
            if handle:
                handle.remove()
            x0 = vae.decode((zt - 0.8 * v) / config.scaling_factor + config.shift_factor).sample.clamp(-1, 1)
            return by_band((x0 - truth).double().numpy(), dit.vae_scale_factor)

        def zero(module, inputs, output):
            output[1][..., [3, 7]] = 0

        clean, zeroed = error(), error(zero)
    table = made.to_frame().query("sigma == 0.8 and picture >= 3")
    for name, expected in (("clean", clean), (edits[0].sentence(), zeroed)):
        wide = table[table["edit"] == name].pivot(index="picture", columns="band", values="error")
        for band, values in expected.items():
            assert np.allclose(wide[band], values, rtol=1e-4), band
    assert not np.allclose(clean["high"], zeroed["high"], rtol=1e-3)


def by_band(change: np.ndarray, cell: int) -> dict[str, np.ndarray]:
    """Mean-square difference (N,) by band, summed frequency by frequency, without the mean."""
    power = np.abs(np.fft.fft2(change)) ** 2 / (change.shape[-2] * change.shape[-1]) ** 2
    sums = {band: np.zeros(len(change)) for band in ("low", "mid", "high")}
    for i, fy in enumerate(np.fft.fftfreq(change.shape[-2])):
        for j, fx in enumerate(np.fft.fftfreq(change.shape[-1])):
            cycles = cell * np.hypot(fy, fx)
            if cycles > 0:
                sums["low" if cycles < 1 / 8 else "mid" if cycles < 1 / 4 else "high"] += power[:, :, i, j].mean(1)
    return sums


def test_an_offset_changes_no_band():
    x, truth = torch.rand(2, 2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    axis = torch.zeros_like(x)
    rows, moved = (measure(y, y, truth, axis, "clean", 0.5, 0, named_bands(2)) for y in (x, x + 0.3))
    for row, other in zip(rows, moved, strict=True):
        for column in ("error", "coherent", "incoherent"):
            assert other[column] == pytest.approx(row[column], rel=1e-5, abs=1e-9), (row["band"], column)


def test_velocity_is_the_pipelines_own_on_every_family(dits):
    """From z_1 = noise, one Euler step of one step's schedule is noise - velocity."""
    for name in tiny.PIPELINES:
        dit = dits(name)
        prompts = ["apple", "tree"]
        inputs = conditions(dit, prompts, **tiny.SIZE, max_sequence_length=8)
        start = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
        ours = start - velocity(dit, start, 1.0, inputs)
        given = start if not dit.family.packing else dit.pipeline._pack_latents(start, 2, 4, 16, 24)
        call = dit.arguments(prompts, **{**tiny.CALL, "steps": 1}, latents=given)
        theirs = spatial(dit, dit.pipeline(**call, output_type="latent").images, 32, 48)
        assert torch.allclose(ours, theirs, atol=1e-4 * theirs.abs().max().item()), name


def test_pictures_of_ones_own(dits):
    for name in ("sd3", "flux"):
        dit = dits(name)
        pairs = [
            (p, torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(i)) * 2 - 1) for i, p in enumerate("abc")
        ]
        made = dg.denoise_error(dit, pairs, [dg.Disrupt([3], 1)], sigmas=[0.5], progress=False)
        assert len(made.table) == 2 * 3 * 3 and made.table["style_axis"].isna().all()
        assert made.summary()["ratio"].iloc[0] != 1
    small = [(p, torch.full((3, 16, 16), -0.5)) for p in "ab"]
    with pytest.raises(ValueError, match="are 8 x 8 latent cells: too small for a band below 1/8 cycle"):
        dg.denoise_error(dit, small, [dg.Disrupt([3], 1)])
    with pytest.raises(ValueError, match="no references"):
        dg.denoise_error(dit, [], [dg.Disrupt([3], 1)])


def test_table_is_whole(result):
    *_, edits, made = result
    table = made.to_frame()
    assert len(table) == 4 * 2 * 5 * 3 and not table["error"].isna().any()
    assert np.allclose(table["error"], table["coherent"] + table["incoherent"])
    clean = table[table["edit"] == "clean"]
    assert (clean["style_axis"].fillna(0) == 0).all()
    assert [made.roles[e.sentence()] for e in edits] == ["edit", "control", "control"]
    axes = made.plot().axes
    assert len(axes) == 3 and axes[2].get_title() == "high: above 1/4 cycle per latent cell\n(above 1/8 per pixel)"


def test_summary_on_known_numbers():
    rows = []
    for edit, factor in (("clean", 1.0), ("off", 3.0), ("c1", 2.0), ("c2", 4.0)):
        rows += [
            {"edit": edit, "sigma": 0.5, "picture": i, "band": "high", "error": factor * (1 + i)} for i in range(8)
        ]
    roles = {"clean": "clean", "off": "edit", "c1": "control", "c2": "control"}
    row = DenoiseError(pd.DataFrame(rows), ["off", "c1", "c2"], roles).summary().iloc[0]
    assert row["ratio"] == pytest.approx(3) and row["rank"] == 1 and row["controls"] == 2
    assert row["control_median"] == pytest.approx(3) and row["low"] < 3 < row["high"]


def test_bad_input_is_refused_before_any_forward(result):
    dit, source, chosen, edits, _ = result
    with pytest.raises(ValueError, match="no edits"):
        dg.denoise_error(dit, chosen, [], folder=source)
    with pytest.raises(ValueError, match="two edits are the same"):
        dg.denoise_error(dit, chosen, [edits[0], edits[0]], folder=source)
    with pytest.raises(ValueError, match="between 0 and 1"):
        dg.denoise_error(dit, chosen, edits, sigmas=[1.0], folder=source)
    with pytest.raises(ValueError, match="sigmas, not steps"):
        dg.denoise_error(dit, chosen, [dg.Disrupt([3], 1, steps=[0])], folder=source)
    with pytest.raises(ValueError, match="there are 1024 such pairs"):
        source.sample(2000)
    with pytest.raises(KeyError, match="is not among"):
        source.reference("no such thing")
