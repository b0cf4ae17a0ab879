"""Gain and Detail Daemon, against the pipeline's own call with a transformer that does it by itself; what they cost."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from test_uncond_rows import PIPES, block_rows, call, close

import dg_tools as dg
from dg_tools.guidance.baselines import DetailDaemon, Gain
from dg_tools.guidance.baselines.registry import BASELINES

STEPS, S = 4, 3.0
QUICK = {**tiny.SIZE, "steps": 4, "progress": False}


@pytest.fixture(scope="module")
def pipes():
    made = {}
    return lambda name: made[name] if name in made else made.setdefault(name, PIPES[name]())


def by_itself(pipe, run, changed):
    """What `run()` returns with `changed(forward, inputs, step)` in the place of the transformer's forward."""
    steps, forward, own = [0], pipe.transformer.forward, pipe.scheduler.step

    def step(*args, **kwargs):
        steps[0] += 1
        return own(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.scheduler, "step", step)
        patch.setattr(pipe.transformer, "forward", lambda **inputs: (changed(forward, inputs, steps[0]),))
        return run()


# -- gain -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("s", [1.0, S])
def test_gain_is_on_the_guided_velocity_or_on_x0(pipes, name, s):
    pipe = pipes(name)
    plain, price = block_rows(pipe, lambda: call(pipe, name, s))

    def louder(forward, inputs, step):
        return forward(**inputs)[0] * (1.3 if step > 0 else 1.0)

    def brighter(forward, inputs, step):
        z, sigma = inputs["hidden_states"], pipe.scheduler.sigmas[step].item()
        x0 = z - sigma * forward(**inputs)[0]
        return (z - 1.2 * x0) / sigma

    guiders = [(Gain(None, gain=1.3, start=0.25), louder)]
    guiders += [] if name == "qwen" else [(Gain(None, gain=1.2, of="x0"), brighter)]
    for guider, other in guiders:
        with dg.detail_guidance(pipe, guider) as run:
            ours, paid = block_rows(pipe, lambda: call(pipe, name, s))
        close(ours, by_itself(pipe, lambda other=other: call(pipe, name, s), other), plain)
        assert paid == price and run.report.finished
        if guider.of == "velocity":
            assert run.report.guided == (1, 2, 3) and run.report.gain == pytest.approx([1.3] * 3, rel=1e-4)
            assert list(run.report.push) == pytest.approx([0.3] * 3, rel=1e-4)
    with dg.detail_guidance(pipe, Gain(None, gain=1.0)):
        assert torch.equal(call(pipe, name, s), plain)


def test_the_pipelines_sum_is_what_is_louder(pipes):
    """In one step of Euler: z + (sigma' - sigma) g (u + s (c - u))."""
    pipe, z = pipes("sd3"), torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(7))
    plain = call(pipe, "sd3", num_inference_steps=1, latents=z)
    with dg.detail_guidance(pipe, Gain(S, gain=1.5)):
        ours = call(pipe, "sd3", num_inference_steps=1, latents=z)
    assert (ours - (z + 1.5 * (plain - z))).abs().max() < 1e-4 * ours.abs().max()


# -- Detail Daemon ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "steps", "m"),
    [  # numbers that the node of ComfyUI-Detail-Daemon gives
        ({"amount": 0.5}, 6, [0, 0, 0.5, 0.25, 0, 0]),
        ({"amount": 0.5}, 8, [0, 0, 0.125, 0.375, 0.5, 0.25, 0, 0]),
        ({"amount": 1.0}, 9, [0, 0, 0, 0.5, 1, 0.5, 0, 0, 0]),
        (
            {"amount": 0.3, "start": 0.1, "stop": 0.9, "bias": 0.3, "exponent": 2, "start_offset": 0.05,
             "end_offset": -0.1, "fade": 0.2, "smooth": False},
            8,
            [0.04, 0.04, 0.24, 0.1, 0, -0.06, -0.08, -0.08],
        ),
    ],
)  # fmt: skip
def test_the_bump_is_the_authors(settings, steps, m):
    assert np.allclose(DetailDaemon(**settings).multipliers(steps), m, atol=1e-12)
    assert not DetailDaemon(**settings).multipliers(1).any(), "one step is left as it is"


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("s", [1.0, S])
def test_the_model_is_told_a_lower_level_and_its_velocity_is_smaller(pipes, name, s):
    pipe = pipes(name)
    plain, price = block_rows(pipe, lambda: call(pipe, name, s))
    factors = [1 - 0.1 * m * s for m in (0, 0.8, 0.4, 0)]

    def daemon(forward, inputs, step):
        assert inputs["timestep"].is_floating_point() or name == "wan"
        return factors[step] * forward(**{**inputs, "timestep": inputs["timestep"] * factors[step]})[0]

    guider = DetailDaemon(None, amount=0.8, smooth=False, start=0.0, stop=1.0, bias=0.34)
    assert np.allclose(guider.multipliers(4), [0, 0.8, 0.4, 0])
    with dg.detail_guidance(pipe, guider) as run:
        ours, paid = block_rows(pipe, lambda: call(pipe, name, s))
    close(ours, by_itself(pipe, lambda: call(pipe, name, s), daemon), plain)
    assert paid == price and run.report.guided == (1, 2) and run.report.push == ()
    assert str(run.report) == f"guided 2 of 2 steps (4 run); told sigma times {factors[1]:.3g} to {factors[2]:.3g}"
    assert run.report.summary()["push"] is None
    with dg.detail_guidance(pipe, DetailDaemon(None, amount=0.0)):
        assert torch.equal(call(pipe, name, s), plain)


def test_the_scale_of_its_formula_may_be_fixed():
    assert DetailDaemon(S, amount=0.5).factor(2, 6, S) == pytest.approx(1 - 0.1 * 0.5 * 3)
    assert DetailDaemon(S, amount=0.5, cfg_scale=1.0).factor(2, 6, S) == pytest.approx(1 - 0.1 * 0.5)
    assert DetailDaemon(S, amount=5.0, cfg_scale=100.0).factor(2, 6, S) == 1e-6


# -- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_in_generate_side_by_side_and_switched_off(dits, name):
    dit, kinds = dits(name), (Gain(S, gain=1.1), DetailDaemon(S, amount=0.5))
    guidances = [dg.CFG(S), *kinds, *(guider.new(enabled=False) for guider in kinds)]
    made = dg.generate(dit, "a", guidance=guidances, **QUICK)
    names = ["CFG 3", "CFG 3 + gain 1.1", "CFG 3 + daemon 0.5", "CFG 3", "CFG 3"]
    assert [s["guidance"] for s in made.settings] == names and len(set(made.block_calls)) == 1
    assert all(torch.equal(made.latents[0], made.latents[i]) for i in (3, 4))
    assert not torch.equal(made.latents[0], made.latents[1]) and not torch.equal(made.latents[0], made.latents[2])
    assert dg.generate(dit, "a", guidance=Gain(gain=1.1), **QUICK).settings[0]["guidance"] == "gain 1.1"


def test_a_weight_of_the_registry_is_a_strength():
    gain, daemon = (BASELINES[name].guider(S, 0.5, window=(0.2, 0.6)) for name in ("Gain", "DetailDaemon"))
    assert gain.gain == pytest.approx(1.1) and (gain.start, gain.stop) == (0.2, 0.6)
    assert daemon.amount == 0.5 and (daemon.start, daemon.stop) == (0.2, 0.8), "a bump of its own"
    off = [BASELINES[name].guider(S, 0.0) for name in ("Gain", "DetailDaemon")]
    assert not any(guider.pushes for guider in off)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gain(gain=0.0), "gain=0.0; a factor, more than 0"),
        (lambda: Gain(of="noise"), "of='noise'; allowed: velocity, x0"),
        (lambda: DetailDaemon(amount=6.0), "amount=6.0; a number from -5 to 5"),
        (lambda: DetailDaemon(bias=-0.1), "bias=-0.1; a number from 0 to 1"),
        (lambda: DetailDaemon(start=0.5, stop=0.5), "is empty"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_a_model_cannot_have_is_an_error_before_the_first_forward(dits):
    dit = dits("sd3")
    handle = dit.blocks[0].module.register_forward_pre_hook(lambda *_: pytest.fail("a block ran before the error"))
    try:
        with pytest.raises(ValueError, match="no step of 1 lies in the bump"):
            dg.generate(dit, "a", guidance=DetailDaemon(), **{**QUICK, "steps": 1})
        with pytest.raises(ValueError, match="no step of 4 lies in the window"):
            dg.generate(dit, "a", guidance=Gain(start=0.9), **QUICK)
    finally:
        handle.remove()
    qwen = dg.load(tiny.families()["qwen"].pipeline())
    with pytest.raises(ValueError, match="of='x0' has no effect here: Qwen-Image's pipeline rescales"):
        dg.generate(qwen, "a", guidance=Gain(gain=1.1, of="x0"), progress=False)
    pixart = dg.load(tiny.families()["pixart"].pipeline())
    for guider in (Gain(), DetailDaemon()):
        with pytest.raises(ValueError, match="needs a model that predicts velocities; family 'pixart' predicts noise"):
            dg.generate(pixart, "a", guidance=guider, progress=False)
