"""A random walk over the ways in which people call a pipeline, each guided run held against a loop written by hand.

The reference knows nothing of the package: it stands in the place of the transformer's forward, counts the pipeline's
calls, runs the same call once more with a plain hook that zeroes channels, and adds w (c - d) by hand.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tiny
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

import dg_tools as dg

CHANNELS = [3, 7]
TOLERANCE = {"float32": 2e-4, "bfloat16": 0.15, "float16": 0.05}  # of the largest change that guidance makes
FAMILIES = tiny.families()
NAMES = [*tiny.PIPELINES, *(name for name in FAMILIES if name not in ("dit", "qwen"))]
FLOW = {"sd3", "sd35-medium", "sd35-large", "flux", "flux-distilled", "chroma", "wan", "auraflow", "cogview4", "flux2"}
HEUN = {"sd3", "sd35-medium", "sd35-large", "wan"}  # the other pipelines set sigmas, which Heun does not take
PROCESSORS = set(NAMES) - {"cogview4"}  # it has no list of attention processors to set
TRUE_CFG = {"flux", "flux-distilled"}  # their usual scale is `true_cfg_scale`
COND_FIRST = {name for name, about in FAMILIES.items() if about.HALVES == "cond, uncond"}


@dataclass(frozen=True)
class Draw:
    """One way to call a pipeline."""

    family: str
    dtype: str
    scheduler: str
    steps: int
    prompts: int
    images: int
    callback: str
    window: tuple[float, float]
    size: tuple[int, int]
    processor: str
    scale: float
    weight: float
    block: int
    seed: int


def draw(rng: random.Random) -> Draw:
    """One draw of every axis."""
    family = rng.choice(NAMES)
    schedulers = ["own", "euler", "unipc"] if family in FLOW else ["own"]
    if family == "cogview4":
        schedulers.remove("unipc")  # its pipeline sets timesteps, which UniPC does not take
    if family in HEUN:
        schedulers.append("heun")
    side = {"wan": 64, "sana": 32}.get(family, 16)
    return Draw(
        family=family,
        dtype=rng.choice(["float32", "float32", "bfloat16", "float16"]),
        scheduler=rng.choice(schedulers),
        steps=rng.choice([2, 3, 5, 8]),
        prompts=rng.choice([1, 1, 2]),
        images=rng.choice([1, 1, 2]),
        callback=rng.choice(["none", "none", "calls", "latents", "scale"]),
        window=rng.choice([(0.0, 1.0), (0.0, 1.0), (0.3, 0.8), (0.5, 1.0)]),
        size=rng.choice([(2 * side, 3 * side), (3 * side, 2 * side), (2 * side, 2 * side)]),
        processor=rng.choice(["stock", "stock", "stock", "hook", "halves" if family in PROCESSORS else "hook"]),
        scale=rng.choice([1.0, 3.0, 4.5]),
        weight=rng.choice([0.3, 0.7, 1.5]),
        block=rng.choice([0, 1, 2]),
        seed=rng.randrange(1000),
    )


class Walker:
    """One draw made real: its pipeline, its call, and both ways to guide it."""

    def __init__(self, way: Draw) -> None:
        self.way = way
        self.about = FAMILIES.get(way.family)
        self.pipe = tiny.PIPELINES[way.family]() if self.about is None else self.about.pipeline()
        self.pipe.to(getattr(torch, way.dtype))
        kinds = {"euler": FlowMatchEulerDiscreteScheduler, "heun": FlowMatchHeunDiscreteScheduler}
        if way.scheduler in kinds:
            self.pipe.scheduler = kinds[way.scheduler](shift=3.0)
        if way.scheduler == "unipc":
            self.pipe.scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            )
        self.dit = dg.load(self.pipe)
        self.transformer = self.pipe.transformer
        self.extra_calls = False  # whether a callback is calling the transformer
        self.inputs: dict[str, Any] = {}
        self.install_processor()

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
    def argument(self) -> str:
        if self.way.family in TRUE_CFG:
            return "true_cfg_scale"
        return getattr(self.about, "SCALE", "guidance_scale")

    def call(self) -> torch.Tensor:
        """The pipeline's own call, and the latents it returns."""
        way = self.way
        words = ["a red apple", "two teapots"][: way.prompts]
        settings = {} if self.about is None else {**self.about.CALL, **self.about.STOCK}
        settings.pop("steps", None)
        arguments = {"prompt": words, "height": way.size[0], "width": way.size[1], "num_inference_steps": way.steps}
        arguments |= {"max_sequence_length": 8} if self.about is None else settings
        arguments |= {self.argument: way.scale, "output_type": "latent"}
        arguments["generator"] = torch.Generator().manual_seed(way.seed)
        takes = self.dit.takes
        images = "num_images_per_prompt" if "num_images_per_prompt" in takes else "num_videos_per_prompt"
        if images in takes:
            arguments[images] = way.images
        if way.scale > 1 and getattr(self.about, "NEGATIVE", True):
            arguments["negative_prompt"] = [""] * way.prompts
        if way.callback != "none" and "callback_on_step_end" in takes:
            arguments["callback_on_step_end"] = self.callback
        return self.pipe(**arguments)[0]

    def callback(self, pipe, step, timestep, tensors):
        if self.way.callback == "calls" and self.inputs:
            self.extra_calls = True
            try:
                pipe.transformer(**self.inputs)
            finally:
                self.extra_calls = False
        if self.way.callback == "latents":
            tensors = {**tensors, "latents": tensors["latents"] * 1.01}
        if self.way.callback == "scale" and hasattr(pipe, "_guidance_scale") and self.way.scale > 1:
            pipe._guidance_scale = self.way.scale + 0.5 * (step + 1)
        return tensors

    # -- both ways ----------------------------------------------------------------------------------------------------

    def guided(self) -> torch.Tensor:
        """By the package."""
        start, stop = self.way.window
        guider = dg.DetailGuidance(
            detail_guidance_scale=self.way.weight,
            disrupt=dg.Disrupt(CHANNELS, self.way.block),
            detail_guidance_start=start,
            detail_guidance_stop=stop,
        )
        with self.remembered(), dg.detail_guidance(self.pipe, guider):
            return self.call()

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
        way, forward = self.way, self.transformer.forward
        sequential = self.about.HALVES is None if self.about is not None else way.family in TRUE_CFG
        module = self.dit.blocks[way.block].module
        count = 0

        def zero(m, args, output):
            tokens = self.tokens
            if self.about is not None:
                return self.about.zero(output, CHANNELS, tokens)
            image = output[1].clone()
            image[..., CHANNELS] = 0
            return output[0], image

        def stand_in(*args, **kwargs):
            nonlocal count
            again = lambda: forward(*args, **{**kwargs, "return_dict": False})[0]  # noqa: E731
            if self.extra_calls:
                return (again(),)
            guided = self.live_scale() > 1
            per_step = 2 if sequential and guided else 1
            step, order = divmod(count, per_step)
            count += 1
            prediction = again()
            steps = len(self.pipe.scheduler.timesteps)
            if order or not way.window[0] * steps <= step < way.window[1] * steps:
                return (prediction,)
            handle = module.register_forward_hook(zero)
            degraded = again()
            handle.remove()
            rows = slice(None)
            if guided and not sequential:
                half = len(prediction) // 2
                rows = slice(0, half) if way.family in COND_FIRST else slice(half, None)
            folded = prediction.clone()
            weight = way.weight / (self.live_scale() if guided else 1.0)
            folded[rows] += weight * (prediction[rows] - degraded[rows])
            return (folded,)

        self.transformer.forward = stand_in
        try:
            with self.remembered():
                return self.call()
        finally:
            del self.transformer.forward

    def live_scale(self) -> float:
        """The scale that the pipeline's loop multiplies with now."""
        if self.way.family.startswith("sd3") or self.way.family == "cogview4":
            return self.pipe.guidance_scale
        return self.way.scale

    @property
    def tokens(self) -> int:
        rows, columns = self.dit.grid(*self.way.size)
        return rows * columns

    def settle(self) -> None:
        """Forget what a run left."""
        self.inputs = {}


def walk(way: Draw) -> tuple[str, float]:
    """(refused in a sentence, or empty; largest difference over the largest guided change) of one draw."""
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
    change = (hand.float() - plain.float()).abs().max().item()
    assert change > 0
    return "", (package.float() - hand.float()).abs().max().item() / change


def left(walker: Walker) -> set[str]:
    """Attributes and hooks that a run could leave on a transformer, its blocks and the scheduler."""
    found = {f"scheduler.{name}" for name in vars(walker.pipe.scheduler) if name in ("step", "set_timesteps")}
    for name, module in walker.transformer.named_modules():
        found |= {f"{name}.{a}" for a in vars(module) if a in ("forward", "cache_context")}
        found |= {f"{name}: {hook}" for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())}
    return found
