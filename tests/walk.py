"""A random walk over the ways in which people call a pipeline, each guided run held against a loop written by hand.

The reference knows nothing of the package: it stands in the place of the transformer's forward, counts the pipeline's
calls, runs the same call once more with a plain hook that zeroes channels, and adds w (c - d) by hand.
"""

from __future__ import annotations

import dataclasses
import inspect
from contextlib import contextmanager, nullcontext
from typing import Any

import altered
import tiny
import torch
from compilers import compile_blocks, fresh_compiler, uncompiled
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    UniPCMultistepScheduler,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from draws import COND_FIRST, FAMILIES, SD3, TRUE_CFG, Draw

import dg_tools as dg
from dg_tools.models.pictures import spatial

CHANNELS = [3, 7]
STRENGTH = 0.6  # of img2img
TOLERANCE = {"float32": 5e-4, "bfloat16": 0.15, "float16": 0.05}  # of the change that guidance makes


class Walker:
    """One draw made real: its pipeline, its call, and both ways to guide it."""

    def __init__(self, way: Draw) -> None:
        self.way = way
        self.about = FAMILIES.get(way.family)
        self.pipe = tiny.PIPELINES[way.family]() if self.about is None else self.about.pipeline()
        if way.kind == "img2img":
            kind = StableDiffusion3Img2ImgPipeline if way.family in SD3 else FluxImg2ImgPipeline
            takes = inspect.signature(kind).parameters
            self.pipe = kind(**{name: part for name, part in self.pipe.components.items() if name in takes})
            self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to(getattr(torch, way.dtype))
        kinds = {"euler": FlowMatchEulerDiscreteScheduler, "heun": FlowMatchHeunDiscreteScheduler}
        if way.scheduler in kinds:
            self.pipe.scheduler = kinds[way.scheduler](shift=3.0)
        if way.scheduler == "unipc":
            self.pipe.scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            )
        if way.weights != "plain":
            altered.KINDS[way.weights](self.pipe, getattr(torch, way.dtype))
        self.dit = dg.load(self.pipe)
        self.transformer = self.pipe.transformer
        self.extra_calls = False  # whether a callback is calling the transformer
        self.inputs: dict[str, Any] = {}
        self.install_processor()
        if way.compiled:
            compile_blocks(self.pipe, backend="eager")

    def install_processor(self) -> None:
        """A hook or an attention processor of the reader's own, which acts on the conditional rows."""
        if self.way.processor == "hook":
            part = self.dit.blocks[2].module

            def weaken(module, args, output):
                first = output if isinstance(output, torch.Tensor) else output[0]
                changed = first.clone()
                changed[-1] *= 0.9
                return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

            getattr(part, "attn", part).register_forward_hook(weaken)
        if self.way.processor == "halves":

            class Halves:
                def __init__(self, inner):
                    self.inner = inner

                def __call__(self, attn, hidden_states, *args, **kwargs):
                    hidden_states = hidden_states.clone()
                    hidden_states[hidden_states.shape[0] // 2 :] *= 0.9
                    return self.inner(attn, hidden_states, *args, **kwargs)

            own = self.transformer.attn_processors
            self.transformer.set_attn_processor({name: Halves(p) for name, p in own.items()})

    # -- the call -----------------------------------------------------------------------------------------------------

    @property
    def argument(self) -> str | None:
        if self.way.family in TRUE_CFG:
            return "true_cfg_scale"
        return getattr(self.about, "SCALE", "guidance_scale")

    @property
    def offset(self) -> float:
        """The usual scale less the pipeline's argument."""
        return getattr(self.about, "OFFSET", 0.0)

    def settings(self) -> dict[str, Any]:
        """What both the pipeline's call and `dg.generate` are given."""
        way, takes = self.way, self.dit.takes
        settings = {"max_sequence_length": 8} if self.about is None else {**self.about.CALL, **self.about.STOCK}
        settings.pop("steps", None)
        settings |= {"height": way.size[0], "width": way.size[1]}
        images = "num_images_per_prompt" if "num_images_per_prompt" in takes else "num_videos_per_prompt"
        if images in takes:
            settings[images] = way.images
        if way.kind == "img2img":
            picture = torch.rand(1, 3, *way.size, generator=torch.Generator().manual_seed(way.seed))
            settings |= {"image": picture, "strength": STRENGTH}
        if way.callback != "none" and "callback_on_step_end" in takes:
            wanted = ("latents", "prompt_embeds", *(["pooled_prompt_embeds"] if way.callback == "cutoff" else []))
            names = [name for name in wanted if name in self.pipe._callback_tensor_inputs]
            settings |= {"callback_on_step_end": self.callback, "callback_on_step_end_tensor_inputs": names}
        return settings

    @property
    def words(self) -> list[str]:
        return ["a red apple", "two teapots"][: self.way.prompts]

    def call(self) -> torch.Tensor:
        """The pipeline's own call, and the latents it returns."""
        way = self.way
        arguments = {**self.settings(), "prompt": self.words, "num_inference_steps": way.steps}
        arguments |= {"output_type": "latent", **({self.argument: way.scale - self.offset} if self.argument else {})}
        getattr(self.about, "set_scale", lambda pipe, scale: None)(self.pipe, way.scale)
        arguments["generator"] = torch.Generator().manual_seed(way.seed)
        if way.scale > 1 and getattr(self.about, "NEGATIVE", True):
            arguments["negative_prompt"] = [""] * way.prompts
        return self.pipe(**arguments)[0]

    def callback(self, pipe, step, timestep, tensors):
        if self.way.callback == "calls" and self.inputs:
            self.extra_calls = True
            try:
                pipe.transformer(**self.inputs)
            finally:
                self.extra_calls = False
        if self.way.callback == "embeds" and "prompt_embeds" in tensors:
            embeds = tensors["prompt_embeds"]
            louder = [x * 1.05 for x in embeds] if isinstance(embeds, list) else embeds * 1.05
            tensors = {**tensors, "prompt_embeds": louder}
        if self.way.callback == "cutoff" and step == 0 and self.way.scale > 1:
            pipe._guidance_scale = 1.0
            tensors = {name: x[len(x) // 2 :] if "prompt" in name else x for name, x in tensors.items()}
        if self.way.callback == "latents":
            tensors = {**tensors, "latents": tensors["latents"] * 1.01}
        if self.way.callback == "scale" and hasattr(pipe, "_guidance_scale") and self.way.scale > 1:
            pipe._guidance_scale = self.way.scale + 0.5 * (step + 1)
        return tensors

    # -- both ways ----------------------------------------------------------------------------------------------------

    def guided(self) -> torch.Tensor:
        """By the package."""
        way = self.way
        guider = dg.DetailGuidance(
            way.scale if way.call == "generate" else None,
            way.weight,
            dg.Disrupt(CHANNELS, way.block),
            detail_guidance_start=way.window[0],
            detail_guidance_stop=way.window[1],
        )
        if way.call == "with":
            with self.remembered(), dg.detail_guidance(self.pipe, guider):
                return self.call()
        settings = {**self.settings(), "steps": way.steps, "seed": way.seed, "progress": False}
        with self.remembered():
            return dg.generate(self.dit, self.words[0], guidance=guider, **settings).latents

    @contextmanager
    def remembered(self):
        """The transformer's inputs are kept, for the callback that calls it."""

        def keep(module, args, kwargs):
            if not self.extra_calls and not self.inputs:
                named = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
                self.inputs = {k: v for k, v in named.items() if k != "self" and not isinstance(v, dict)}

        handle = self.transformer.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def by_hand(self) -> torch.Tensor:
        """By a forward that runs each conditional call twice."""
        way, forward, own = self.way, self.transformer.forward, vars(self.transformer).get("forward")
        sequential = self.about.HALVES is None if self.about is not None else way.family in TRUE_CFG
        module = self.dit.blocks[way.block].module
        img2img = way.kind == "img2img"
        count = 0
        pushes: list[torch.Tensor] = []  # w (c - d) of the step that runs, for its other pass

        def zero(m, args, output):
            tokens = self.tokens
            if self.about is not None:
                return self.about.zero(output, CHANNELS, tokens)
            image = output[1].clone()
            image[..., CHANNELS] = 0
            return output[0], image

        def stand_in(*args, **kwargs):
            def again():
                output = forward(*args, **{**kwargs, "return_dict": False})
                sample = output[0] if isinstance(output, tuple) else output  # Kandinsky 5 returns it bare
                return torch.stack(sample) if isinstance(sample, list) else sample

            made = predict(again)
            return Transformer2DModelOutput(sample=made) if kwargs.get("return_dict", True) else (made,)

        def predict(again):
            nonlocal count

            if self.extra_calls:
                return again()
            guided = self.live_scale() > 1
            per_step = 2 if sequential and guided else 1
            step, order = divmod(count, per_step)
            count += 1
            prediction = again()
            steps = len(self.pipe.scheduler.timesteps) - (self.pipe.scheduler.begin_index or 0 if img2img else 0)
            if order and pushes:  # the pipeline's sum takes (s - 1) u away
                return prediction - pushes.pop() / (self.live_scale() - 1)
            if order or not self.way.weight or not way.window[0] * steps <= step < way.window[1] * steps:
                return prediction
            handle = module.register_forward_hook(zero)
            degraded = again()
            handle.remove()
            rows = slice(None)
            if guided and not sequential:
                half = len(prediction) // 2
                rows = slice(0, half) if way.family in COND_FIRST else slice(half, None)
            folded = prediction.clone()
            push = way.weight * (prediction[rows] - degraded[rows])
            if guided and self.rescaled:
                pushes[:] = [push]
                return prediction
            folded[rows] += push / (self.live_scale() if guided else 1.0)
            return folded

        self.transformer.forward = stand_in
        try:
            with self.remembered(), uncompiled(self.transformer):
                latents = self.call()
            return spatial(self.dit, latents, *way.size) if way.call == "generate" else latents
        finally:
            del self.transformer.forward
            if own is not None:  # of offloading
                self.transformer.forward = own

    @property
    def rescaled(self) -> bool:
        """Whether the pipeline rescales what guidance gives to c, so that c must stay as it is."""
        return hasattr(self.about, "afterwards")

    def live_scale(self) -> float:
        """The scale that the pipeline's loop multiplies with now."""
        if self.way.family in SD3 or self.way.family in ("cogview4", "z_image") or getattr(self.about, "LIVE", False):
            return self.pipe.guidance_scale + self.offset
        return self.way.scale

    @property
    def tokens(self) -> int:
        rows, columns = self.dit.grid(*self.way.size)
        return rows * columns

    def settle(self) -> None:
        """Forget what a run left."""
        self.inputs = {}


def walk(way: Draw) -> tuple[str, float]:
    """(refused in a sentence, or empty; the difference over what is allowed) of one draw: below 1 it agrees."""
    with fresh_compiler() if way.compiled else nullcontext():
        return compared(way)


def compared(way: Draw) -> tuple[str, float]:
    """The same, with whatever the compiler has."""
    walker = Walker(way)
    before = left(walker)
    try:
        package = walker.guided()
    except ValueError as refusal:
        assert left(walker) == before
        return str(refusal), 0.0
    assert left(walker) == before, f"left behind: {left(walker) ^ before}"
    walker.settle()
    hand = walker.by_hand()
    walker.settle()
    walker.way = dataclasses.replace(way, weight=0.0)
    plain = walker.by_hand()
    change = (hand.float() - plain.float()).norm().item()
    assert change > 0 and package.shape == hand.shape
    difference = (package.float() - hand.float()).norm().item()
    allowed = TOLERANCE[way.dtype] * change
    if way.dtype != "float32" and difference >= allowed:  # a small change may be near what rounding does
        walker.way = dataclasses.replace(way, weight=way.weight * (1 + torch.finfo(getattr(torch, way.dtype)).eps))
        walker.settle()
        allowed = 3 * (walker.by_hand().float() - hand.float()).norm().item()
    return "", difference / allowed


def left(walker: Walker) -> set[str]:
    """Attributes and hooks that a run could leave on a transformer, its blocks and the scheduler."""
    found = {f"scheduler.{name}" for name in vars(walker.pipe.scheduler) if name in ("step", "set_timesteps")}
    for name, module in walker.transformer.named_modules():
        found |= {f"{name}.{a}" for a in vars(module) if a in ("forward", "cache_context", "__getstate__")}
        found.add(f"{name} called by {module._compiled_call_impl}")
        found |= {f"{name}: {hook}" for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())}
    return found
