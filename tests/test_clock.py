"""Steps and branches are the pipeline's own, whatever its precision, schedule, loop or callbacks."""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import tiny
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
)

from dg_tools.families import bind, family_of
from dg_tools.forward.active import active
from dg_tools.forward.clock import Clock
from dg_tools.forward.stepping import after_each_step

SIZE = {"height": 32, "width": 48, "max_sequence_length": 8, "output_type": "latent"}


def calls_of(pipe, run, **settings):
    """What the clock says of every call of the transformer while `run()` goes."""
    calls = []
    clock = Clock(pipe, family_of(pipe.transformer, pipe), **settings)
    hook = lambda m, a, k: calls.append(clock.read(bind(m, a, k)))  # noqa: E731
    handle = pipe.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with clock:
            run()
    finally:
        handle.remove()
    return calls


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steps", [4, 28, 50])
def test_every_step_of_flux_dev_in_half_precision(dtype, steps):
    pipe = tiny.PIPELINES["flux-distilled"]().to(dtype)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=1.15, max_shift=1.15
    )
    calls = calls_of(pipe, lambda: pipe("red apple", num_inference_steps=steps, generator=generator(), **SIZE))
    assert [(c.step, c.steps, c.branch) for c in calls] == [(i, steps, "cond") for i in range(steps)]
    assert [c.sigma for c in calls] == pipe.scheduler.sigmas[:-1].tolist()


def test_calls_of_a_second_order_scheduler_are_told_apart():
    pipe = tiny.PIPELINES["sd3"]()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    run = functools.partial(pipe, "red apple", num_inference_steps=4, guidance_scale=3.0, **SIZE)
    calls = calls_of(pipe, run)
    assert [(c.step, c.steps, c.branch) for c in calls] == [(i, 7, "both") for i in range(7)]
    assert [c.timestep for c in calls] == pipe.scheduler.timesteps.tolist()


def test_repeated_sigmas_are_steps_of_their_own():
    pipe = tiny.PIPELINES["sd3"]()
    sigmas = [1.0, 0.8, 0.8, 0.5, 0.5, 0.2]
    calls = calls_of(pipe, lambda: pipe("red apple", sigmas=sigmas, guidance_scale=1.0, **SIZE))
    assert [c.step for c in calls] == list(range(6))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_steps_of_img2img_are_those_that_run(name):
    text = tiny.PIPELINES[name]()
    kind = {"sd3": StableDiffusion3Img2ImgPipeline, "flux": FluxImg2ImgPipeline}[name]
    pipe = kind.from_pipe(text)
    picture = torch.rand(1, 3, 32, 48, generator=generator())
    scale = {"guidance_scale": 4.0} if name == "sd3" else {"true_cfg_scale": 4.0, "negative_prompt": ""}
    size = {k: v for k, v in SIZE.items() if name == "flux" or k not in ("height", "width")}
    run = functools.partial(pipe, "red apple", image=picture, strength=0.5, num_inference_steps=8, **scale, **size)
    calls = calls_of(pipe, run)
    branches = ["both"] if name == "sd3" else ["cond", "uncond"]  # FLUX.1 img2img names no pass: their order tells
    assert [(c.step, c.steps, c.branch) for c in calls] == [(i, 4, b) for i in range(4) for b in branches]


def test_the_same_tensors_as_positive_and_negative_prompt():
    pipe = tiny.PIPELINES["flux"]()
    embeds, pooled, _ = pipe.encode_prompt("red apple", None, max_sequence_length=8)
    both = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds}
    both |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": pooled}
    calls = calls_of(pipe, lambda: pipe(**both, true_cfg_scale=3.0, num_inference_steps=3, **SIZE))
    assert [c.branch for c in calls] == ["cond", "uncond"] * 3


def test_a_call_from_a_callback_is_no_step():
    pipe = tiny.PIPELINES["sd3"]()
    inputs = {}

    def remember(module, args, kwargs):
        inputs.update(kwargs)

    class Callback:
        def __call__(self, pipeline, step, timestep, tensors):
            pipeline.transformer(**inputs)
            return tensors

    def function(pipeline, step, timestep, tensors):
        return Callback()(pipeline, step, timestep, tensors)

    handle = pipe.transformer.register_forward_pre_hook(remember, with_kwargs=True)
    for callback in (function, functools.partial(function), Callback(), Callback().__call__):
        calls = calls_of(
            pipe,
            lambda callback=callback: pipe(
                "a", num_inference_steps=3, guidance_scale=3.0, callback_on_step_end=callback, **SIZE
            ),
        )
        assert [c.step for c in calls] == [0, None, 1, None, 2, None]
    handle.remove()


def test_a_callback_that_ends_guidance():
    pipe = tiny.PIPELINES["sd3"]()

    def cut(pipeline, step, timestep, tensors):
        if step == 1:
            pipeline._guidance_scale = 1.0
            tensors = {name: value.chunk(2)[1] for name, value in tensors.items()}
        return tensors

    run = functools.partial(
        pipe, "a", num_inference_steps=4, guidance_scale=3.0, callback_on_step_end=cut,
        callback_on_step_end_tensor_inputs=["prompt_embeds", "pooled_prompt_embeds"], **SIZE,
    )  # fmt: skip
    assert [c.branch for c in calls_of(pipe, run)] == ["both", "both", "cond", "cond"]


def test_a_second_pipeline_over_the_same_transformer():
    first = tiny.PIPELINES["sd3"]()
    second = StableDiffusion3Img2ImgPipeline.from_pipe(first)
    second.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    picture = torch.rand(1, 3, 64, 48, generator=generator())

    def run():
        first("a", num_inference_steps=3, guidance_scale=3.0, **SIZE)
        second("a", image=picture, strength=0.5, num_inference_steps=4, guidance_scale=1.0, output_type="latent",
               max_sequence_length=8)  # fmt: skip

    calls = calls_of(first, run)
    assert [(c.step, c.branch) for c in calls] == [(0, "both"), (1, "both"), (2, "both"), (0, "cond"), (1, "cond")]
    assert not {"step", "cache_context"} & {*vars(first.scheduler), *vars(second.scheduler), *vars(first.transformer)}


def test_a_loop_of_ones_own_says_its_steps():
    pipe = tiny.PIPELINES["sd3"]()
    inputs = {}
    handle = pipe.transformer.register_forward_pre_hook(lambda m, a, k: inputs.update(k), with_kwargs=True)
    pipe("a", num_inference_steps=2, guidance_scale=1.0, **SIZE)
    handle.remove()
    state = active(pipe.transformer)

    def own(stated):
        for i, t in enumerate((900.0, 500.0, 100.0)):
            state.stated = (i, 3) if stated else None
            pipe.transformer(**{**inputs, "timestep": torch.tensor([t])})

    try:
        calls = calls_of(pipe, lambda: own(True), guided=False)
        assert [(c.step, c.steps, c.sigma) for c in calls] == [(0, 3, 0.9), (1, 3, 0.5), (2, 3, pytest.approx(0.1))]
    finally:
        state.stated = None
    with pytest.raises(RuntimeError, match=r"dit\.step\(i, n\)"):
        calls_of(pipe, lambda: own(False), guided=False)


def test_a_loop_of_ones_own_over_the_pipelines_scheduler():
    pipe = tiny.PIPELINES["sd3"]()
    inputs = {}
    handle = pipe.transformer.register_forward_pre_hook(lambda m, a, k: inputs.update(k), with_kwargs=True)
    pipe("a", num_inference_steps=2, guidance_scale=1.0, **SIZE)
    handle.remove()

    def own():
        pipe.scheduler.set_timesteps(3)
        latents = inputs["hidden_states"]
        for t in pipe.scheduler.timesteps:
            velocity = pipe.transformer(**{**inputs, "hidden_states": latents, "timestep": t.expand(1)})[0]
            latents = pipe.scheduler.step(velocity, t, latents, return_dict=False)[0]

    assert [(c.step, c.steps) for c in calls_of(pipe, own, guided=False)] == [(0, 3), (1, 3), (2, 3)]


def test_a_copy_of_the_scheduler_steps_itself():
    scheduler = FlowMatchEulerDiscreteScheduler()
    plain = inspect.signature(scheduler.step)
    pipe = tiny.PIPELINES["sd3"]()
    pipe.scheduler = scheduler
    seen = []
    with after_each_step(pipe, lambda step, latents: seen.append(step)), after_each_step(pipe, lambda *_: None):
        assert inspect.signature(scheduler.step) == plain
        copied = copy.deepcopy(scheduler)
        copied.set_timesteps(2)
        scheduler.set_timesteps(2)
        copied.step(torch.zeros(1), copied.timesteps[0], torch.zeros(1))
        assert copied.step_index == 1 and scheduler.step_index is None and not seen
        scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))
    assert seen == [0] and "step" not in vars(scheduler)
