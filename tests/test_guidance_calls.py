"""`detail_guidance` around every way of calling a pipeline, against a transformer that does the formula by itself."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import tiny
import torch
from diffusers import FluxImg2ImgPipeline, StableDiffusion3Img2ImgPipeline

import dg_tools as dg

OFF, W = dg.Disrupt([3, 7], 1), 0.8
NAMES = ["sd3", "flux"]


@contextmanager
def by_itself(dit, s: float, off: dg.Disrupt):
    """The transformer's own forward, replaced by one that runs twice and adds (w / s) (c - d) to conditional rows."""
    transformer, original, record = dit.transformer, dit.transformer.forward, dit.blocks[off.block].record
    seen: dict[str, object] = {}

    def scaled(module, inputs, output):
        parts = list(output)
        parts[record.image] = parts[record.image].clone()
        parts[record.image][..., list(off.channels)] *= off.rho  # 0 of a `Disrupt` that zeroes
        return tuple(parts)

    def forward(*args, **kwargs):
        out = original(*args, **kwargs)[0]
        text = kwargs["encoder_hidden_states"]
        if dit.family.rows == "batched":
            cond = slice(len(out) // 2, None) if s > 1 else slice(None)
        else:  # the first text that comes along is the conditional one
            cond = slice(None) if text is seen.setdefault("cond", text) else slice(0, 0)
        handle = dit.blocks[off.block].module.register_forward_hook(scaled)
        damaged = original(*args, **kwargs)[0]
        handle.remove()
        out = out.clone()
        out[cond] += W / s * (out[cond] - damaged[cond])
        return (out,)

    with pytest.MonkeyPatch.context() as patched:  # nnsight, where it has wrapped, keeps a forward of its own there
        patched.setattr(transformer, "forward", forward)
        yield


def agree(dit, s: float, call, off: dg.Disrupt = OFF) -> None:
    with by_itself(dit, s, off):
        theirs = call()
    with dg.detail_guidance(dit.pipeline, dg.DetailGuidance(detail_guidance_scale=W, disrupt=off)):
        ours = call()
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4
    assert not torch.allclose(call(), ours, rtol=1e-2)


def arguments(dit, s: float, **kwargs):
    made = {**tiny.SIZE, "num_inference_steps": 3, "max_sequence_length": 8, "output_type": "latent", **kwargs}
    made[dit.family.guidance_argument] = s
    count = len(kwargs["prompt"]) if isinstance(kwargs.get("prompt"), list) else 1
    if s > 1 and "prompt" in kwargs:
        made["negative_prompt"] = [""] * count if isinstance(kwargs["prompt"], list) else ""
    return made


@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
class TestCalls:
    def test_batches_of_prompts(self, dits, name, s):
        dit = dits(name)
        call = arguments(dit, s, prompt=["apple", "tree", "owl"])
        agree(dit, s, lambda: dit.pipeline(generator=torch.Generator().manual_seed(1), **call).images)

    def test_several_pictures_a_prompt(self, dits, name, s):
        dit = dits(name)
        call = arguments(dit, s, prompt="apple", num_images_per_prompt=2)
        agree(dit, s, lambda: dit.pipeline(generator=torch.Generator().manual_seed(1), **call).images)

    def test_prompt_embeds(self, dits, name, s):
        dit = dits(name)
        pipeline, call = dit.pipeline, {}
        if name == "sd3":
            made = pipeline.encode_prompt(["apple"], None, None, max_sequence_length=8)
            keys = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
            call = dict(zip(keys, made, strict=True))
        else:
            for prefix, text in (("", "apple"), ("negative_", "")):
                embeds, pooled, _ = pipeline.encode_prompt(text, None, max_sequence_length=8)
                call |= {f"{prefix}prompt_embeds": embeds, f"{prefix}pooled_prompt_embeds": pooled}
            if s == 1.0:
                call = {k: v for k, v in call.items() if not k.startswith("negative")}
        call = arguments(dit, s, **call)
        agree(dit, s, lambda: pipeline(generator=torch.Generator().manual_seed(1), **call).images)

    def test_callbacks(self, dits, name, s):
        dit, steps = dits(name), []

        def after(pipeline, step, timestep, tensors):
            steps.append(step)
            return {"latents": 0.9 * tensors["latents"]}

        call = arguments(dit, s, prompt="apple", callback_on_step_end=after)
        agree(dit, s, lambda: dit.pipeline(generator=torch.Generator().manual_seed(1), **call).images)
        assert steps == [0, 1, 2] * 3

    def test_img2img(self, dits, name, s):
        classes = {"sd3": StableDiffusion3Img2ImgPipeline, "flux": FluxImg2ImgPipeline}
        pipeline = classes[name](**dits(name).pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        dit = dg.load(pipeline)
        picture = torch.rand(1, 3, tiny.SIZE["height"], tiny.SIZE["width"], generator=torch.Generator().manual_seed(0))
        call = arguments(dit, s, prompt="apple", image=picture, strength=0.7)
        agree(dit, s, lambda: pipeline(generator=torch.Generator().manual_seed(1), **call).images)


@pytest.mark.parametrize(("start", "named"), [(0.0, 0), (0.5, 2)])
def test_a_loop_of_the_readers_own_that_passes_the_guidance_by_is_an_error_at_that_step(dits, start, named):
    dit, inputs = dits("sd3"), {}
    pipe, forward = dit.pipeline, dit.transformer.forward  # saved before the guidance is on
    handle = dit.transformer.register_forward_pre_hook(lambda m, a, k: inputs.update(k), with_kwargs=True)
    pipe("a", **arguments(dit, 1.0))
    handle.remove()
    made = []

    def own(call):
        pipe.scheduler.set_timesteps(4)
        latents = inputs["hidden_states"]
        for t in pipe.scheduler.timesteps:
            velocity = call(**{**inputs, "hidden_states": latents, "timestep": t.expand(1)})[0]
            latents = pipe.scheduler.step(velocity, t, latents, return_dict=False)[0]
            made.append(latents)

    guider = dg.DetailGuidance(None, W, OFF, detail_guidance_start=start)
    with pytest.raises(RuntimeError, match=f"step {named} of 4 should have been guided and was not"):
        with dg.detail_guidance(pipe, guider):
            own(forward)
    assert len(made) == named
    with dg.detail_guidance(pipe, guider) as run:
        own(dit.transformer)
    assert run.report.guided == tuple(range(named, 4))
