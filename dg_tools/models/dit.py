"""A diffusers pipeline whose transformer's family is known: its blocks, its sizes, its calls, and traces of them."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch

from dg_tools.families import BlockList, Family, family_of
from dg_tools.models.block import Block
from dg_tools.models.check import check_not_compiled, check_record
from dg_tools.models.profiles import check_profile


class DiT:
    """A diffusers pipeline whose transformer's family is known.

    Attributes:
        pipeline: the diffusers pipeline, untouched.
        transformer: its transformer.
        family: the family record.
        blocks: every block in execution order; `block=` arguments index into this.
        width: channels of the residual stream.
        call: arguments that the model card asks to pass in every pipeline call.
        lock: held by every run; a second thread waits.
    """

    def __init__(
        self,
        pipeline: Any,
        family: Family | None = None,
        call: dict[str, Any] | None = None,
        profile: dict[str, Any] | None = None,
    ) -> None:
        transformer = getattr(pipeline, "transformer", None)
        if transformer is None:
            parts = ", ".join(sorted(pipeline.components))
            raise ValueError(
                f"{type(pipeline).__name__} has no transformer (it has: {parts}); dg_tools works on diffusion "
                "transformers, not on U-Nets"
            )
        check_not_compiled(transformer)
        self.pipeline, self.transformer = pipeline, transformer
        self.family = family or family_of(transformer, pipeline)
        self.call, self.profile = call or {}, profile
        self.lock = threading.RLock()
        if getattr(pipeline, "transformer_2", None) is not None:
            raise ValueError(
                f"this {type(pipeline).__name__} hands over to a second transformer within a run; dg_tools looks into "
                "one only"
            )
        for part, facts in ((transformer, self.family.config), (pipeline, self.family.pipeline_config)):
            for name, value in facts:
                if (is_ := getattr(part.config, name, value)) != value:
                    raise ValueError(
                        f"family {self.family.name!r} is about {name}={value!r}; this {type(part).__name__} has {is_!r}"
                    )
        check_record(self.family, transformer)
        self.blocks = [
            Block(self, i, name, record, module)
            for i, (name, record, module) in enumerate(self.family.blocks(transformer))
        ]
        self.width = self.family.width(transformer)
        if profile is not None:
            check_profile(profile, self.sites, self.width)
        self._run: Any = None

    def __repr__(self) -> str:
        lists = " + ".join(f"{len(getattr(self.transformer, r.path))} {r.label or 'blocks'}" for r in self.family.lists)
        return f"DiT({type(self.pipeline).__name__}, family {self.family.name!r}, {lists}, width {self.width})"

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs (with offloading: where it computes)."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    @property
    def sites(self) -> list[str]:
        """Site names in execution order."""
        return [b.name for b in self.blocks]

    def first_index(self, record: BlockList) -> int:
        """Index of the first block of a list."""
        return next(b.index for b in self.blocks if b.record is record)

    def block(self, block: int) -> Block:
        """A block by index.

        Raises:
            IndexError: out of range, with the range and the site names.
        """
        if not isinstance(block, int) or not 0 <= block < len(self.blocks):
            names = f"{self.sites[0]!r} to {self.sites[-1]!r}"
            raise IndexError(f"block {block!r} asked for; there are 0 to {len(self.blocks) - 1} (sites {names})")
        return self.blocks[block]

    # -- sizes ------------------------------------------------------------------------------------------------------

    @property
    def pixels_per_token(self) -> int:
        """Pixels along one side of an image token."""
        return self.vae_scale_factor * self.family.patch(self.transformer)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along one side of a latent pixel."""
        for name in ("vae_scale_factor", "vae_scale_factor_spatial"):
            if hasattr(self.pipeline, name):
                return getattr(self.pipeline, name)
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    def picture_size(self, latents: torch.Tensor) -> tuple[int, int]:
        """Height and width in pixels of the picture that latents (N, C, h, w) are decoded to."""
        height, width = latents.shape[-2:]
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    @property
    def takes(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the pipeline's call, by name."""
        return inspect.signature(self.pipeline.__call__).parameters

    def default_side(self, which: str) -> int:
        """The default height or width in pixels: the model card's, else the pipeline's."""
        stated = self.call.get(which) or (self.takes[which].default if which in self.takes else None)
        if stated:
            return stated
        size: int = getattr(self.pipeline, "default_sample_size", 0) or self.transformer.config.sample_size
        return size * self.vae_scale_factor

    def size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width in pixels, the model card's or the pipeline's default where None.

        Raises:
            ValueError: no multiple of the token size, more tokens than the position table holds, or another size than
                the only one that the pipeline makes.
        """
        defaults = self.default_side("height"), self.default_side("width")
        height, width = height or defaults[0], width or defaults[1]
        if "height" not in self.takes and (height, width) != defaults:
            raise ValueError(
                f"size {height} x {width} asked for; {type(self.pipeline).__name__} makes {defaults[0]} x "
                f"{defaults[1]} only: leave height and width out"
            )
        step = self.pixels_per_token
        if height % step or width % step or height < step or width < step:
            raise ValueError(
                f"size {height} x {width} asked for; both sides must be multiples of {step} pixels (one image token), "
                f"such as {max(step, height // step * step)} x {max(step, width // step * step)}"
            )
        most = self.family.most_tokens(self.transformer)
        if most and max(height, width) > most * step:
            raise ValueError(f"size {height} x {width} asked for; this transformer's positions end at {most * step}")
        return height, width

    def grid(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Image tokens as (rows, columns); token y * columns + x is the patch at (y, x)."""
        height, width = self.size(height, width)
        return height // self.pixels_per_token, width // self.pixels_per_token

    def tokens(
        self,
        boxes: Sequence[tuple[float, float, float, float]] = (),
        mask: torch.Tensor | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> list[int]:
        """Image tokens of a region, for `Disrupt(tokens=...)`: those that lie at least half inside it.

        Args:
            boxes: (left, top, right, bottom) in pixels of the picture; several are joined.
            mask: (height, width), larger than 0.5 inside; joined with the boxes.
            height, width: of the picture; the pipeline's default where None.

        Raises:
            ValueError: a box outside the picture, a mask of another size, or a region that holds no token.
        """
        height, width = self.size(height, width)
        inside = torch.zeros(height, width)
        for left, top, right, bottom in boxes:
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise ValueError(
                    f"box ({left}, {top}, {right}, {bottom}) asked for; (left, top, right, bottom) must lie within "
                    f"(0, 0, {width}, {height})"
                )
            inside[round(top) : round(bottom), round(left) : round(right)] = 1
        if mask is not None:
            if tuple(mask.shape) != (height, width):
                raise ValueError(f"the mask is {tuple(mask.shape)}; the picture is ({height}, {width})")
            inside[mask > 0.5] = 1
        side = self.pixels_per_token
        share = torch.nn.functional.avg_pool2d(inside[None, None], side).flatten()
        found = (share >= 0.5).nonzero().flatten().tolist()
        if not found:
            raise ValueError(f"this region holds no image token: tokens are {side} x {side} pixels")
        return found

    @property
    def default_steps(self) -> int:
        """Denoising steps of the pipeline's own call."""
        return self.takes["num_inference_steps"].default

    # -- one pipeline call ------------------------------------------------------------------------------------------

    def arguments(
        self,
        prompt: str | int | list[str] | list[int],
        *,
        seed: int | list[int] | torch.Generator = 0,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of one call of the pipeline; `guidance_scale` is the usual CFG scale s (1 = off).

        A `prompt` of a class-conditional pipeline is a class number, or a name that the pipeline knows it by.

        Raises:
            ValueError: a size, a count of steps, a prompt or a negative prompt that the pipeline cannot take.
        """
        height, width = self.size(height, width)
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps} asked for; at least 1 is needed")
        single = isinstance(prompt, str | int)
        count = 1 if single else len(prompt)  # type: ignore[arg-type]
        if count == 0:
            raise ValueError("no prompt: pass a string or a list with at least one")
        if isinstance(seed, torch.Generator):
            generator: Any = seed
        else:
            seeds = [seed] * count if isinstance(seed, int) else list(seed)
            if len(seeds) != count:
                raise ValueError(f"{len(seeds)} seeds for {count} prompts: pass one seed, or one for each prompt")
            generator = [torch.Generator("cpu").manual_seed(s) for s in seeds]
            generator = generator[0] if single else generator
        asked = {self.family.prompt: self.prompts(prompt), "generator": generator}
        made = {**self.family.call, **self.call, **asked}
        if "height" in self.takes:
            made |= {"height": height, "width": width}
        if steps is not None:
            made["num_inference_steps"] = steps
        made[self.family.guidance_argument] = guidance_scale
        if negative_prompt and not self.family.negative_prompt:
            raise ValueError(f"{type(self.pipeline).__name__} takes no negative_prompt: leave it out")
        if guidance_scale > 1 and self.family.negative_prompt:
            made["negative_prompt"] = (negative_prompt or "") if single else [negative_prompt or ""] * count
        self.check_call(kwargs)
        return {**made, **kwargs}

    def prompts(self, prompt: Any) -> Any:
        """Prompts as the pipeline takes them: words, or a list of class numbers.

        Raises:
            ValueError: no class of that number, or none of that name.
        """
        if self.family.prompt == "prompt":
            return prompt
        made = []
        for one in prompt if isinstance(prompt, list | tuple | range) else [prompt]:
            labels, count = getattr(self.pipeline, "labels", {}), self.transformer.config[self.family.class_count]
            number = labels.get(one) if isinstance(one, str) else one
            if number is None or not 0 <= number < count:
                known = (
                    f"and {len(labels)} names, such as {next(iter(labels))!r}" if labels else "and it knows no names"
                )
                raise ValueError(f"class {one!r} asked for; there are 0 to {count - 1}, {known}")
            made.append(int(number))
        return made

    def check_call(self, kwargs: dict[str, Any]) -> None:
        """Raise ValueError for an argument that this toolkit needs to be otherwise."""
        for name, value in self.family.call.items():
            if kwargs.get(name, value) != value:
                raise ValueError(f"{name}={kwargs[name]!r} asked for; with family {self.family.name!r} it is {value!r}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """One run at a time: a second thread waits here.

        Where the model card sets the T5 length, the pipeline's warning about text cut at that length is kept quiet: the
        model was trained that way.
        """
        source = logging.getLogger(type(self.pipeline).__module__)
        quiet = (lambda record: "truncated" not in record.getMessage()) if self.call else (lambda record: True)
        with self.lock:
            source.addFilter(quiet)
            try:
                yield
            finally:
                source.removeFilter(quiet)

    # -- nnsight ----------------------------------------------------------------------------------------------------

    @cached_property
    def nnsight(self) -> Any:
        """The pipeline as an nnsight model; wrapped on first use, undone by `unwrap()`."""
        from dg_tools.models.tracing import wrap

        return wrap(self)

    def unwrap(self) -> None:
        """Take nnsight's instrumentation off every module again."""
        if "nnsight" in self.__dict__:
            from dg_tools.models.tracing import unwrap

            unwrap(self.nnsight)
            del self.__dict__["nnsight"]

    def trace(self, prompt: str | list[str], **kwargs: Any) -> Any:
        """An nnsight trace of one sampling run.

            with dit.trace("red apple", seed=0, steps=20) as run:
                for step in run.steps:
                    dit.blocks[5].image[..., channels] = 0

        Takes what `arguments` takes. `run.steps` yields one `Step` (an int) for each call of the transformer, numbered
        by the timestep that it was given. Reads must follow execution order (block by block; modulation, attn, mlp,
        then image and text); another order is an error, not a silent read of the next step. Tensors to keep: clone them
        into a container made before the block (a view that is kept shows an edit made in place through it). After the
        loop `run.result` is what the pipeline returned.
        """
        from dg_tools.models.tracing import RunTracer

        arguments = self.arguments(prompt, **kwargs)
        guided = arguments[self.family.guidance_argument] > 1
        named = {self.family.prompt: arguments.pop(self.family.prompt)}
        return self.nnsight.trace(named, tracer_cls=lambda *a, **k: RunTracer(self, guided, *a, **k), **arguments)

    def guard(self, index: int, rank: int, what: str) -> None:
        """Called by every block view: only inside a trace, and only in execution order."""
        if self._run is None:
            raise RuntimeError(f"block {index}'s .{what} was read outside of `with dit.trace(...)`")
        self._run.guard(index, rank, what)

    def image_tokens_now(self) -> int:
        """Image tokens of the run being traced."""
        return self._run.image_tokens
