"""Several calls in one context, and calls that a callback changes on their way."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline, StableDiffusion3Img2ImgPipeline
from hand import by_hand, near

import dg_tools as dg

CHANNELS, BLOCK, W = [3, 7], 1, 0.8
CALL = {"num_inference_steps": 4, "max_sequence_length": 8, "output_type": "latent"}


def guider():
    return dg.DetailGuidance(detail_guidance_scale=W, disrupt=dg.Disrupt(CHANNELS, BLOCK))


HAND = {"weight": W, "channels": CHANNELS, "block": BLOCK}


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_hires_fix(name, scale):
    """A second pipeline over the same transformer, at another size, with a scheduler of its own."""
    first = tiny.PIPELINES[name]()
    kinds = {"sd3": StableDiffusion3Img2ImgPipeline, "flux": FluxImg2ImgPipeline}
    second = kinds[name](**first.components)
    second.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    second.set_progress_bar_config(disable=True)
    argument = {"guidance_scale": scale}
    if name == "flux":
        argument = {"true_cfg_scale": scale, "negative_prompt": "" if scale > 1 else None}

    def run():
        small = first("a", height=32, width=48, generator=generator(), **argument, **{**CALL, "output_type": "pt"})[0]
        large = torch.nn.functional.interpolate(small.float(), size=(48, 64))
        size = {"height": 48, "width": 64} if name == "flux" else {}
        call = {**argument, **CALL, **size}
        return small, second(prompt="a", image=large, strength=0.5, generator=generator(), **call)[0]

    plain = run()[1]
    with by_hand(first.transformer, scale, sequential=name == "flux", **HAND):
        theirs = run()
    with dg.detail_guidance(first, guider()) as record:
        ours = run()
    near(ours[1], theirs[1], plain)
    assert [(r.steps, r.guided, r.finished) for r in record.reports] == [(4, (0, 1, 2, 3), True), (2, (0, 1), True)]
    assert not {"step", "cache_context"} & {*vars(second.scheduler), *vars(first.scheduler), *vars(first.transformer)}


def test_two_sizes_in_one_context():
    pipe = tiny.PIPELINES["sd3"]()

    def run(height, width):
        return pipe("a", height=height, width=width, guidance_scale=3.0, generator=generator(), **CALL)[0]

    sizes = [(32, 48), (48, 32), (64, 64)]
    plain = [run(*size) for size in sizes]
    with by_hand(pipe.transformer, 3.0, **HAND):
        theirs = [run(*size) for size in sizes]
    with dg.detail_guidance(pipe, guider()) as record:
        ours = [run(*size) for size in sizes]
    for one, two, without in zip(ours, theirs, plain, strict=True):
        near(one, two, without)
    assert [r.guided for r in record.reports] == [(0, 1, 2, 3)] * 3


def cut(pipe, step, timestep, tensors):
    """CFG ends after the second step: one row from there on."""
    if step == 1:
        pipe._guidance_scale = 1.0
        tensors = {name: value.chunk(2)[1] for name, value in tensors.items()}
    return tensors


def schedule(pipe, step, timestep, tensors):
    """Another scale at each step."""
    pipe._guidance_scale = 3.0 + step
    return tensors


def other_prompt(pipe, step, timestep, tensors):
    """Another prompt from the third step on."""
    return {name: value.flip(-1) if step == 1 else value for name, value in tensors.items()}


CALLBACKS = {"cut": cut, "schedule": schedule, "other prompt": other_prompt}
EMBEDS = ["prompt_embeds", "pooled_prompt_embeds"]


@pytest.mark.parametrize("name", list(CALLBACKS))
class TestCallbacks:
    def call(self, name):
        inputs = {"callback_on_step_end": CALLBACKS[name], "callback_on_step_end_tensor_inputs": EMBEDS}
        return {"guidance_scale": 3.0, **inputs, **tiny.SIZE}

    def test_guidance(self, name):
        pipe = tiny.PIPELINES["sd3"]()

        def run():
            return pipe("a", generator=generator(), **self.call(name), **CALL)[0]

        plain = run()
        with by_hand(pipe.transformer, lambda: pipe.guidance_scale, **HAND):
            theirs = run()
        with dg.detail_guidance(pipe, guider()) as record:
            near(run(), theirs, plain)
        assert record.report.guided == (0, 1, 2, 3)

    def test_capture(self, name):
        pipe = tiny.PIPELINES["sd3"]()
        means = []

        def read(module, args, output):
            means.append(output[1][-1].mean(0).numpy())

        handle = pipe.transformer.transformer_blocks[BLOCK].register_forward_hook(read)
        pipe("a", generator=generator(), **self.call(name), **CALL)
        handle.remove()
        call = {**self.call(name), "max_sequence_length": 8, "steps": 4}
        del call["guidance_scale"]
        acts = dg.capture(dg.load(pipe), "a", seeds=0, guidance=dg.CFG(3.0), progress=False, **call)
        captured = acts.data["mean"].sel(stream="image").isel(site=BLOCK).squeeze().values
        assert np.allclose(captured, means, atol=1e-5)

    def test_capture_under_guidance(self, name):
        dit = dg.load(tiny.PIPELINES["sd3"]())
        _ = dit.nnsight
        call = {**self.call(name), "max_sequence_length": 8, "steps": 4}
        del call["guidance_scale"]
        with dg.detail_guidance(dit, guider()) as record:
            acts = dg.capture(dit, "a", seeds=0, guidance=dg.CFG(3.0), progress=False, **call)
        assert record.report.guided == (0, 1, 2, 3) and acts.data.sizes["step"] == 4


def test_both_halves_of_a_run_whose_guidance_ends():
    dit = dg.load(tiny.PIPELINES["sd3"]())
    call = {"callback_on_step_end": cut, "callback_on_step_end_tensor_inputs": EMBEDS, **tiny.CALL, "steps": 4}
    with pytest.raises(RuntimeError, match=r"a callback ended its guidance \(rows='cond' captures such a run\)"):
        dg.capture(dit, "a", guidance=dg.CFG(3.0), rows="all", progress=False, **call)


def test_latents_from_a_callback():
    pipe = tiny.PIPELINES["flux"]()

    def shifted(pipe, step, timestep, tensors):
        return {"latents": 0.9 * tensors["latents"] + 0.01}

    def run():
        return pipe("a", negative_prompt="", true_cfg_scale=3.0, callback_on_step_end=shifted, generator=generator(),
                    **tiny.SIZE, **CALL)[0]  # fmt: skip

    plain = run()
    with by_hand(pipe.transformer, 3.0, sequential=True, **HAND):
        theirs = run()
    with dg.detail_guidance(pipe, guider()) as record:
        near(run(), theirs, plain)
    assert record.report.guided == (0, 1, 2, 3)
