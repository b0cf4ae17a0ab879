"""A diffusers pipeline whose transformer's family is known: its blocks, its sizes, its calls, and traces of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dg_tools.cards import block_strip, card
from dg_tools.families import BlockList, Family, bind, family_of
from dg_tools.families.inputs import NamedForward
from dg_tools.forward.active import Active, active
from dg_tools.forward.compiled import check_uncompiled, compiled_parts, stepping
from dg_tools.forward.refusals import check_cache
from dg_tools.forward.replaced import copied_plain, replaced
from dg_tools.models.arguments import Arguments
from dg_tools.models.block import Block
from dg_tools.models.check import check_pipeline, check_record
from dg_tools.models.guider import sample
from dg_tools.models.profiles import check_profile, profile_words

if TYPE_CHECKING:  # nnsight is imported on first use
    from nnsight import NNsight

    from dg_tools.models.tracing import GuardedTracer


class DiT(Arguments):
    """A diffusers pipeline with a known transformer family; `dg.load` returns one.

    Attributes:
        pipeline: the diffusers pipeline, untouched.
        transformer: its transformer.
        family: the family record.
        blocks: every block in execution order; `block=` arguments index into this.
        width: channels of the residual stream.
        call: arguments that the model card asks to pass in every pipeline call.
    """

    def __init__(
        self,
        pipeline: Any,
        family: Family | None = None,
        call: dict[str, Any] | None = None,
        profile: dict[str, Any] | None = None,
    ) -> None:
        check_pipeline(pipeline)
        if family is not None and not isinstance(family, Family):
            raise TypeError(f"family={family!r}; a record is needed, dg_tools.families.Family(...)")
        transformer = pipeline.transformer
        compiled_parts(transformer)  # another way to compile is refused
        self.pipeline = pipeline
        self.transformer = transformer
        self.family = family or family_of(transformer, pipeline)
        self.call = call or {}
        self.profile = profile
        self.family.check(transformer.config, type(transformer).__name__, pipeline.config, type(pipeline).__name__)
        check_record(self.family, transformer)
        self.blocks = [
            Block(self, i, name, record, module)
            for i, (name, record, module) in enumerate(self.family.blocks(transformer))
        ]
        self.width = self.family.width(transformer)
        if profile is not None:
            check_profile(profile, self.sites, self.width)

    def __repr__(self) -> str:
        lists = " + ".join(f"{len(getattr(self.transformer, r.path))} {r.label or 'blocks'}" for r in self.family.lists)
        return f"DiT({type(self.pipeline).__name__}, family {self.family.name!r}, {lists}, width {self.width})"

    def _repr_html_(self) -> str:
        (height, width), (rows, columns) = self.size(), self.grid()
        profile = self.profile or {}
        at = profile.get("block")
        facts = {
            "family": f"{self.family.name}, predicts {self.family.prediction}",
            "residual stream": f"{self.width} channels, {rows} x {columns} image tokens",
            "picture": f"{height} x {width} pixels (height x width), {self.default_steps} steps",
            "weights": f"{str(self.dtype).removeprefix('torch.')} on {self.device}",
            "profile": profile_words(profile) if profile else "none: dg.find_massive(dg.capture(dit, prompts)) looks",
        }
        lists = {r.label or "blocks": len(getattr(self.transformer, r.path)) for r in self.family.lists}
        drawing = block_strip(lists, [at] if isinstance(at, int) else [])
        name = Path(str(getattr(self.pipeline, "name_or_path", "") or "")).name
        return card(" ".join(filter(None, ("DiT", type(self.pipeline).__name__, name))), facts, drawing)

    @property
    def device(self) -> torch.device:
        """The device on which the pipeline computes, with offloading too."""
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
            raise IndexError(f"block {block!r} requested; there are 0 to {len(self.blocks) - 1} (sites {names})")
        return self.blocks[block]

    # -- what acts on it ----------------------------------------------------------------------------------------------

    @property
    def active(self) -> Active:
        """What acts on the transformer now. It belongs to the transformer: other `DiT`s over it see the same."""
        return active(self.transformer)

    @property
    def tracer(self) -> GuardedTracer | None:
        """The trace that is running, if any."""
        return self.active.trace

    @tracer.setter
    def tracer(self, value: GuardedTracer | None) -> None:
        self.active.trace = value

    def step(self, index: int, steps: int) -> None:
        """Tell the model which denoising step comes next, in your own loop that does not step the pipeline's scheduler.

            with off.on(dit):
                for i, sigma in enumerate(sigmas):
                    dit.step(i, len(sigmas))
                    velocity = dit.transformer(...)

        Args:
            index: of the step, from 0.
            steps: how many the loop has.

        Raises:
            ValueError: a step out of range.
        """
        if not 0 <= index < steps:
            raise ValueError(f"step {index} of {steps}; steps are counted from 0 to {steps - 1}")
        self.active.stated = (index, steps)

    @contextmanager
    def running(self) -> Iterator[None]:
        """One run at a time: a second thread waits here, whichever pipeline over this transformer it comes from.

        Where the model card sets the T5 length, the pipeline's warning about text cut at that length is kept quiet: the
        model was trained that way.
        """
        source = logging.getLogger(type(self.pipeline).__module__)
        quiet = (lambda record: "truncated" not in record.getMessage()) if self.call else (lambda record: True)
        if self.pipeline.transformer is not self.transformer:
            compiled_parts(self.pipeline.transformer)
            raise RuntimeError(
                f"the transformer of this {type(self.pipeline).__name__} was replaced after dg.load, so that nothing "
                "would act on the new one: load it again with dg.load(pipeline)"
            )
        with self.active.lock, ExitStack() as stack:
            if not self.active.runs:  # the contexts of a run around this one do both already
                stack.enter_context(copied_plain(self.transformer))
                stack.enter_context(stepping(self.transformer))
                stack.enter_context(self._named())
            self.active.runs += 1
            source.addFilter(quiet)
            try:
                yield
            finally:
                source.removeFilter(quiet)
                self.active.runs -= 1

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Inside, the transformer takes inputs as other families' do, where it is called in a way of its own."""
        transformer, inputs = self.transformer, self.family.inputs
        with ExitStack() as stack:
            if inputs is not None:
                bound = lambda args, kwargs: bind(transformer, args, kwargs)  # noqa: E731
                named = NamedForward(inputs, transformer.forward, bound)
                stack.enter_context(replaced(transformer, "forward", named))
            yield

    def sample(self, **call: Any) -> Any:
        """Call the pipeline with these arguments; a CFG scale that it does not take goes into its guider."""
        return sample(self.pipeline, self.family, **call)

    # -- nnsight ----------------------------------------------------------------------------------------------------

    @cached_property
    def nnsight(self) -> NNsight:
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
        """Open an nnsight trace of one sampling run.

            with dit.trace("red apple", seed=0, steps=20) as run:
                for step in run.steps:
                    dit.blocks[5].image[..., channels] = 0

        It takes the arguments of `arguments`. `run.steps` yields one `Step` (an int) for each call of the transformer,
        numbered by the scheduler's own index. Reads must follow execution order: block by block, and in a block
        modulation, heads, attn, mlp, then image and text. Another order is an error, not a silent read of the next
        step. Clone tensors that you keep, into a container made before the `with` block: a kept view also shows later
        edits in place. After the loop, `run.result` is what the pipeline returned.
        """
        from dg_tools.models.tracing import RunTracer, is_displaced

        check_cache(self.transformer)
        check_uncompiled(self.pipeline.transformer)
        if is_displaced(self.transformer):
            self.unwrap()
        arguments = self.arguments(prompt, **kwargs)
        named = {self.family.prompt: arguments.pop(self.family.prompt)}
        return self.nnsight.trace(named, tracer_cls=lambda *a, **k: RunTracer(self, *a, **k), **arguments)

    def guard(self, index: int, rank: int, what: str) -> None:
        """Refuse a read by a block view outside of a trace, or out of execution order."""
        if self.tracer is None:
            raise RuntimeError(f"block {index}'s .{what} was read outside of `with dit.trace(...)`")
        self.tracer.guard(index, rank, what)

    def image_tokens_now(self) -> int:
        """Image tokens of the run being traced; 0 outside of a trace."""
        return self.tracer.image_tokens if self.tracer is not None else 0
