"""Which call of the transformer is which step: from the timestep, under everything that makes calls of its own."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.forward.clock import Clock

OFF = dg.Disrupt([3, 7], 1)


def first_calls(dit, s, act=None, **kwargs):
    """By plain hooks: block outputs at each timestep, of the first call of each row layout at it; a list over steps."""
    calls, handles = [], []
    begin = lambda m, a, k: calls.append((float(k["timestep"].flatten()[0]), len(k["hidden_states"]), []))  # noqa: E731
    handles.append(dit.transformer.register_forward_pre_hook(begin, with_kwargs=True))
    handles += [b.module.register_forward_hook(lambda m, i, o: calls[-1][2].append(o)) for b in dit.blocks]
    try:
        dit.pipeline(
            **dit.arguments("apple", seed=1, **{**tiny.CALL, **kwargs}, guidance_scale=s), output_type="latent"
        )
    finally:
        for handle in handles:
            handle.remove()
    return calls


def captured(dit, s=1.0, **kwargs):
    guidance = dg.CFG(s) if s > 1 else None
    return dg.capture(dit, "apple", seeds=1, guidance=guidance, progress=False, **{**tiny.CALL, **kwargs}).data


def means(data):
    return data["mean"].sel(stream="image", branch="cond").squeeze(["prompt", "seed"]).values  # (step, site, channel)


def test_skip_layer_guidance(dits):
    dit = dits("sd3")
    slg = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0, "steps": 5}
    data = captured(dit, 3.0, rows="all", **slg)
    calls = first_calls(dit, 3.0, **slg)
    assert len(calls) == 9 and [rows for _, rows, _ in calls] == [
        2,
        2,
        1,
        2,
        1,
        2,
        1,
        2,
        1,
    ]  # 5 steps, and 4 more calls
    both = [outputs for _, rows, outputs in calls if rows == 2]
    for step in range(5):
        for block in dit.blocks:
            for branch, row in (("uncond", 0), ("cond", 1)):
                there = data["mean"].sel(stream="image", branch=branch, step=step).isel(site=block.index).squeeze()
                assert np.array_equal(there.values, both[step][block.index][1][row].mean(0).numpy())
    with pytest.raises(Exception, match="leaves this block out"):
        arguments = {k: v for k, v in {**tiny.CALL, **slg}.items()}
        with dit.trace("apple", seed=1, guidance_scale=3.0, **arguments) as run:
            for step in run.steps:
                dit.blocks[1].image.mean()


def test_an_edit_acts_in_the_further_calls_too(dits):
    dit = dits("sd3")
    slg = {"skip_guidance_layers": [2], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0, "steps": 4}
    acts = dg.capture(dit, "apple", guidance=dg.CFG(3.0), edits=OFF, progress=False, **{**tiny.CALL, **slg})
    made = dg.generate(dit, "apple", guidance=dg.CFG(3.0), edits=OFF, progress=False, **{**tiny.CALL, **slg})
    assert np.array_equal(acts.data["picture"].squeeze().values, np.asarray(made.images[0]))


@pytest.mark.parametrize("same_timestep", [True, False])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_callback_that_calls_the_transformer(dits, name, same_timestep):
    """Even at the timestep of a step that is still to come: what a callback does is not a step."""
    dit, kept, extra = dits(name), [], [0]
    handle = dit.transformer.register_forward_pre_hook(
        lambda m, a, k: kept.append(dict(k)) if not kept else None, with_kwargs=True
    )

    def meddle(pipeline, step, timestep, tensors):
        times = pipeline.scheduler.timesteps
        given = times[min(step + 1, len(times) - 1)] * dit.family.timestep_scale / 1000 if same_timestep else 0.1234
        inputs = {**kept[0], "hidden_states": torch.randn_like(kept[0]["hidden_states"])}
        pipeline.transformer(**{**inputs, "timestep": torch.full_like(inputs["timestep"], float(given))})
        extra[0] += 1
        return tensors

    try:
        s = 3.0
        plain = captured(dit, s)
        meddled = captured(dit, s, callback_on_step_end=meddle)
    finally:
        handle.remove()
    assert extra[0] == 3 and np.array_equal(means(plain), means(meddled))


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("s", [1.0, 3.0])
def test_detail_guidance_around_a_capture(dits, name, s):
    """The disrupted passes are let through: what is captured are the clean ones of the guided run."""
    dit = dits(name)
    guider = dg.DetailGuidance(None, 0.8, OFF)
    with dg.detail_guidance(dit, guider):
        data = captured(dit, s)
        calls = first_calls(dit, s)
    times = list(dict.fromkeys(t for t, _, _ in calls))
    assert len(times) == 3 and len(calls) > 3
    for step, time in enumerate(times):
        outputs = next(o for t, _, o in calls if t == time)
        row = -1
        for block in dit.blocks:
            expected = block.record.get(outputs[block.index], "image", 96)[row].mean(0).numpy()
            assert np.array_equal(means(data)[step, block.index], expected)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_capture_is_what_a_trace_reads(dits, name):
    """Block outputs, gates and what a branch writes, with an edit in them: hooks against nnsight."""
    dit, read = dits(name), {}
    data = dg.capture(dit, "apple", seeds=1, edits=dg.Disrupt([3], 1), progress=False, **tiny.CALL).data
    data = data.squeeze(["prompt", "seed", "branch"])
    with dit.trace("apple", seed=1, **tiny.CALL) as run:
        for step in run.steps:
            for block in dit.blocks:
                gate = block.gates[block.record.mlp_gate].clone()
                mlp = block.mlp.clone()
                if block.index == 1:
                    block.image[..., 3] = 0
                read[int(step), block.index] = (block.image.clone(), gate, mlp)
    assert len(read) == 3 * len(dit.blocks)
    for (step, block), (image, gate, mlp) in read.items():
        at = data.sel(step=step).isel(site=block)
        part = dit.blocks[block].record.mlp_gate.partition("_")[2] or "all"
        assert np.array_equal(at["mean"].sel(stream="image"), image[0].mean(0))
        assert np.array_equal(at["gate"].sel(part=part), gate[0])
        assert np.allclose(at["mlp_write"], (gate[0] * mlp[0]).abs().mean(0), rtol=1e-5, atol=0)


def test_a_trace_is_not_wrapped_inside_detail_guidance():
    dit = dg.load(tiny.sd3())
    with dg.detail_guidance(dit, dg.DetailGuidance(None, 0.8, OFF)), pytest.raises(RuntimeError, match=r"dit\.nnsight"):
        dit.trace("apple", **tiny.CALL)


def test_the_clock_under_a_modular_guider(dits):
    """Three calls a step at the same timestep. A modular pipeline itself is not traced: a DiT holds a classic one."""
    from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

    dit = dits("sd3")
    modular = StableDiffusion3AutoBlocks().init_pipeline()
    modular.update_components(**dit.pipeline.components, guider=dg.DetailGuidance(3.0, 0.8, OFF))
    modular.set_progress_bar_config(disable=True)
    clock, steps = Clock(dit.pipeline, dit.family, False), []
    handle = dit.transformer.register_forward_pre_hook(
        lambda m, a, k: steps.append(clock.read(k).step), with_kwargs=True
    )
    try:
        modular(
            prompt="apple", negative_prompt="", **tiny.SIZE, num_inference_steps=3, max_sequence_length=8,
            output="latents", generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
    finally:
        handle.remove()
    assert steps == [0, 0, 0, 1, 1, 1, 2, 2, 2]
