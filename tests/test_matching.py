"""Gain matching: which part of c - d guides, against projections by numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import tiny_dit
import torch

import dg_tools as dg
from dg_tools.generation.sampling import run
from dg_tools.guidance.matching import matched
from dg_tools.guidance.report import Report

OFF, W, PROMPT = dg.Disrupt([3, 7], 1, "scale", rho=1.8), 0.8, "apple"
ONE = {**tiny.CALL, "steps": 1}


def draws(*seeds, rows=2, dtype=torch.float32):
    return [torch.randn(rows, 4, 6, 9, generator=torch.Generator().manual_seed(s)).to(dtype) for s in seeds]


def projected(c, d):
    """G of each row, and the part of d across c; float64."""
    c, d = (x.double().numpy().reshape(len(x), -1) for x in (c, d))
    share = np.array([np.dot(a, b) / np.dot(a, a) for a, b in zip(c, d, strict=True)])
    return share, d - share[:, None] * c


def test_each_match_is_the_projection_of_its_row():
    c, other = draws(0, 1)
    d = 0.7 * c + 0.5 * other
    share, across = projected(c, d)
    assert abs(share[0] - share[1]) > 0.01
    flat = {match: matched(c, d, match).double().numpy().reshape(2, -1) for match in ("gain", "orthogonal", "parallel")}
    own = c.double().numpy().reshape(2, -1)
    assert matched(c, d, "none") is d
    assert np.allclose(flat["gain"], own + across / share[:, None], atol=1e-5)
    assert np.allclose(flat["orthogonal"], own + across, atol=1e-5)
    assert np.allclose(flat["parallel"], share[:, None] * own, atol=1e-5)
    for match in ("gain", "orthogonal"):  # c - d' holds nothing of c
        assert np.abs(((own - flat[match]) * own).sum(1)).max() < 1e-4
    both = (own - flat["parallel"]) + (own - flat["orthogonal"])
    assert np.allclose(both, own - d.double().numpy().reshape(2, -1), atol=1e-5)


def test_half_precision_is_summed_in_float32():
    c, other = draws(0, 1, dtype=torch.bfloat16)
    d = (0.8 * c + 0.4 * other).to(torch.bfloat16)
    exact = matched(c.float(), d.float(), "gain")
    assert torch.equal(matched(c, d, "gain"), exact.to(torch.bfloat16))


@pytest.mark.parametrize("factor", [0.099, 0.05, -1.0, float("nan")])
def test_a_weak_model_with_next_to_nothing_of_c_is_an_error(factor):
    (c,) = draws(0)
    d = torch.stack([0.9 * c[0], factor * c[1]])
    with pytest.raises(RuntimeError, match="divides d by its gain g = .*; more than 0.1 is needed"):
        matched(c, d, "gain")
    assert matched(c, 0.11 * c, "gain").allclose(c, atol=1e-5)


@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_run_guides_with_its_part_and_the_parts_add_up(dits, name, s):
    dit = dits(name)
    start = None

    def prediction(**kwargs):  # one Euler step from sigma 1 to 0 subtracts it
        return run(dit, PROMPT, seed=5, **ONE, **kwargs)[0]

    def with_match(match):
        return prediction(guidance=dg.DetailGuidance(s, W, OFF, match=match))

    cfg, plain, weak = (prediction(guidance=dg.CFG(s)), prediction(), prediction(edits=[OFF]))
    height, width = tiny.SIZE["height"], tiny.SIZE["width"]
    noise = dit.pipeline.prepare_latents(
        1, 4, height, width, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(5)
    )
    start = noise[0] if name == "flux" else noise
    c, d = start - plain, start - weak
    share, across = projected(c, d)
    push = {match: (cfg - with_match(match)).double().numpy().reshape(1, -1) for match in ("none", "gain")}
    push |= {match: (cfg - with_match(match)).double().numpy().reshape(1, -1) for match in ("orthogonal", "parallel")}
    own = c.double().numpy().reshape(1, -1)
    least = 1e-4 * np.abs(own).max()
    assert abs(1 - share[0]) > 0.01 and np.abs(across).max() > 100 * least
    assert np.abs(push["gain"] + W * across / share).max() < least
    assert np.abs(push["parallel"] - W * (1 - share) * own).max() < least
    assert np.abs(push["parallel"] + push["orthogonal"] - push["none"]).max() < least


def test_the_report_says_g_by_sigma(dits):
    dit, seen = dits("sd3"), []
    block = dit.blocks[1].module

    def scaled(module, args, output):
        image = output[1].clone()
        image[..., [3, 7]] *= 1.8
        return output[0], image

    forward = dit.transformer.forward

    def noting(**inputs):
        c = forward(**inputs)[0]
        handle = block.register_forward_hook(scaled)
        d = forward(**inputs)[0]
        handle.remove()
        seen.append((inputs["timestep"][0].item() / 1000, projected(c, d)[0][0]))
        return (c + W * (c - d),)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", noting)
        run(dit, PROMPT, seed=5, **tiny.CALL)
    reports = {
        match: run(dit, PROMPT, seed=5, guidance=dg.DetailGuidance(1.0, W, OFF, match=match), **tiny.CALL)[1].guided
        for match in ("none", "gain", "parallel")
    }
    report = reports["none"]
    assert report.sigmas == pytest.approx([sigma for sigma, _ in seen])
    assert report.gain == pytest.approx([share for _, share in seen], rel=1e-4)
    wanted = sorted((sigma, 1 + W * (1 - share)) for sigma, share in seen)
    assert np.allclose(report.own_gain(W), wanted, rtol=1e-4)
    assert reports["parallel"].push[0] == pytest.approx(abs(W * (1 - seen[0][1])), rel=1e-3)
    assert 0 < reports["gain"].push[0] != pytest.approx(report.push[0], rel=1e-3)
    assert Report(3, push=(0.1,)).own_gain(1.0) == ()  # of a record made before g was kept


def test_the_sum_of_a_modular_pipeline_uses_the_same_part():
    c, u, other = draws(0, 1, 2)
    d = 0.7 * c + 0.5 * other
    for match in ("gain", "orthogonal", "parallel"):
        guider = dg.DetailGuidance(3.0, W, OFF, match=match)
        wanted = u + 3.0 * (c - u) + W * (c - matched(c, d, match))
        assert torch.allclose(guider.forward(c, u, d).pred, wanted, atol=1e-5)


def test_the_setting_is_checked_kept_and_said():
    with pytest.raises(ValueError, match=r"match='gains'; allowed: none, gain, orthogonal, parallel"):
        dg.DetailGuidance(1.0, W, OFF, match="gains")
    guider = dg.DetailGuidance(3.0, W, OFF, match="gain")
    assert dg.DetailGuidance.from_config(guider.config).match == "gain" and guider.new(match="none").match == "none"
    assert guider.words(3.0) == ["CFG 3", "DG 0.8 (gain matched)"]
    guider.match = "parallel"
    assert guider.config["match"] == "parallel"
    guider.match = "none"
    assert "match" not in guider.config and "match" not in guider.to_json_string()  # as files were before it was there
    assert dg.DetailGuidance.from_config(guider.config).match == "none"


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_the_gain_that_dg_contains_is_a_run_of_one_pass(dits, name):
    """The parallel part, c multiplied by 1 + w (1 - g) of each step, without the weak model."""
    dit, seen = dits(name), []
    parallel = dg.DetailGuidance(1.0, W, OFF, match="parallel")
    latents, count = run(dit, PROMPT, seed=5, guidance=parallel, **tiny.CALL)
    gain = dg.baselines.Gain(gain=count.guided.own_gain(W))
    forward, factors = dit.transformer.forward, iter([1 + W * (1 - g) for g in count.guided.gain])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", lambda **k: seen.append(1) or (next(factors) * forward(**k)[0],))
        theirs = run(dit, PROMPT, seed=5, **tiny.CALL)[0]
    ours, one = run(dit, PROMPT, seed=5, guidance=gain, **tiny.CALL)
    assert one.forwards == 3 == len(seen) and torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(ours, latents, atol=1e-3)
    assert not torch.allclose(ours, run(dit, PROMPT, seed=5, **tiny.CALL)[0], atol=1e-2)
    again = dg.baselines.Gain.from_config(gain.config)
    assert again.gain == gain.gain and again.named.startswith("gain ") and " to " in again.named
    with pytest.raises(ValueError, match="a factor, more than 0"):
        dg.baselines.Gain(gain=((0.5, 1.1), (1.0, 0.0)))


def test_a_prediction_that_is_half_a_variance_is_refused():
    pipeline = tiny_dit.pipeline()
    with pytest.raises(ValueError, match="match='gain' splits a whole prediction, but half of what"):
        dg.generate(dg.load(pipeline), 207, guidance=dg.DetailGuidance(1.0, W, OFF, match="gain"), progress=False)
