"""nnsight on a DiT: named views of a block's streams, and a trace whose steps and order can be trusted.

Imported on first use only: nnsight adds `.save` to every object and patches autograd when it is imported.
"""

# mypy: disable-error-code="no-redef"
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.eproperty import eproperty
from nnsight.intervention.source import Controller
from nnsight.intervention.tracer import InterleavingTracer

from dg_tools.families import BlockList, Family, Stream, bind
from dg_tools.forward.active import active
from dg_tools.forward.call import Call
from dg_tools.forward.clock import Clock
from dg_tools.forward.compiled import check_uncompiled
from dg_tools.forward.refusals import REFUSALS
from dg_tools.models.block import Model
from dg_tools.models.guider import sample
from dg_tools.models.step import Step


class PipelineModule(torch.nn.Module):
    """A loaded pipeline as a torch module, so that nnsight can trace a whole sampling run."""

    def __init__(self, pipeline: Any, family: Family) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.family = family
        self.own_forwards: dict[torch.nn.Module, Any] = {}
        for name, component in pipeline.components.items():
            if isinstance(component, torch.nn.Module):
                self.add_module(name, component)
                own = {m: vars(m)["forward"] for m in component.modules() if "forward" in vars(m)}
                self.own_forwards |= own  # offloading sits there: nnsight takes its place, and `unwrap` gives it back

    def forward(self, prompt: dict[str, Any], **kwargs: Any) -> Any:
        """Call the pipeline; `prompt` is {name of its prompt argument: value}, the one positional input of nnsight."""
        return sample(self.pipeline, self.family, **prompt, **kwargs)


def block_envoy(record: BlockList, image_tokens: Callable[[], int]) -> type[Envoy]:
    """An Envoy class with `.image` and `.text` views of what a block returns, written back whole."""

    def get(raw: Any, stream: Stream) -> torch.Tensor | None:
        hidden = record.get(raw, stream, image_tokens())
        return None if hidden is None else hidden.clone()

    def put(raw: Any, stream: Stream, value: Any) -> Any:
        return record.put(raw, stream, value, image_tokens())

    class BlockEnvoy(Envoy):
        @eproperty(key="output")
        def image(self, value: Any) -> torch.Tensor | None:
            return get(value, "image")

        @image.transform
        def image(self, edited: torch.Tensor, raw: Any) -> Any:
            return put(raw, "image", edited)

        @image.postprocess
        def image(self, value: torch.Tensor) -> Any:
            return put(self.output, "image", value)

        @eproperty(key="output")
        def text(self, value: Any) -> torch.Tensor | None:
            return get(value, "text")

        @text.transform
        def text(self, edited: torch.Tensor | None, raw: Any) -> Any:
            return raw if edited is None else put(raw, "text", edited)

        @text.postprocess
        def text(self, value: torch.Tensor) -> Any:
            return put(self.output, "text", value)

    return BlockEnvoy


def wrap(dit: Model) -> NNsight:
    """The pipeline as an nnsight model with block views.

    Raises:
        RuntimeError: inside `dg.detail_guidance`, whose end would remove the wrapping.
        ValueError: blocks are compiled.
    """
    check_uncompiled(dit.transformer)
    if active(dit.transformer).guidance is not None:
        raise REFUSALS["trace"].error()
    # by path: HiDream's two lists have blocks of one class
    envoys = {f"transformer.{r.path}.*": block_envoy(r, dit.image_tokens_now) for r in dit.family.lists}
    return NNsight(PipelineModule(dit.pipeline, dit.family), envoys=envoys)


def unwrap(model: NNsight) -> None:
    """Undo what wrapping left on the modules."""
    own = model._module.own_forwards
    for module in model._module.modules():
        if isinstance(vars(module).get("forward"), Controller):
            del module.__dict__["forward"]
            if module in own:
                module.__dict__["forward"] = own[module]
        module.__dict__.pop("__nnsight__", None)


def is_displaced(transformer: torch.nn.Module) -> bool:
    """Whether accelerate has replaced nnsight's forward since, as model offloading does after each run."""
    inner = getattr(vars(transformer).get("forward"), "func", None)
    return getattr(inner, "__module__", None) == "accelerate.hooks"


class GuardedTracer(InterleavingTracer):
    """An nnsight tracer that refuses reads out of execution order, and holds the model's lock."""

    def __init__(self, dit: Model, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dit = dit
        self.image_tokens = 0
        self._last: tuple[int, int] = (-1, -1)
        self._absent: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"GuardedTracer({self.dit!r})"

    def begin(self, inputs: dict[str, Any], absent: frozenset[int] = frozenset()) -> None:
        """A call of the transformer begins."""
        self._last = (-1, -1)
        self._absent = absent
        self.image_tokens = self.dit.family.image_tokens(self.dit.transformer, inputs["hidden_states"])

    def guard(self, index: int, rank: int, what: str) -> None:
        """Raise if a read would go back in the model's order, or wait for a block that this call leaves out."""
        if index in self._absent:
            raise RuntimeError(
                f"block {index}'s .{what} was read in a call that leaves this block out (skip-layer guidance, "
                "or a disrupted pass): check step.visits(block) first, or read only in calls whose "
                "step.branch is not 'other'"
            )
        if (index, rank) < self._last:
            order = ("modulation", "heads", "attn", "mlp", "image")
            last = f"block {self._last[0]}'s .{order[self._last[1]]}"
            raise RuntimeError(
                f"block {index}'s .{what} was read after {last}, so it would be the next step's value: within "
                "a step, read in execution order (block by block; modulation, heads, attn, mlp, then image "
                "and text)"
            )
        self._last = (index, rank)

    def __exit__(self, *exception: Any) -> bool:
        with self.dit.running(), warnings.catch_warnings():
            # the loop over steps is open-ended on purpose: it ends with the run
            warnings.filterwarnings("ignore", message=".*was never reached.*")
            self.dit.tracer = self
            try:
                return super().__exit__(*exception)
            finally:
                self.dit.tracer = None


class RunTracer(GuardedTracer):
    """The tracer of a sampling run, which knows the steps from the pipeline's own state.

    A hook on the transformer reads each call in the pipeline's own thread; the trace runs in another thread.
    """

    def __init__(self, dit: Model, *args: Any, **kwargs: Any) -> None:
        callback = kwargs.get("callback_on_step_end")
        if callback is not None and hasattr(
            callback, "tensor_inputs"
        ):  # diffusers' own callbacks say what they want to be given
            kwargs["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs
        super().__init__(dit, *args, **kwargs)
        self.clock = Clock(dit.pipeline, dit.family)
        self.call: Call | None = None  # the one that is running

    def __exit__(self, *exception: Any) -> bool:
        def read(module: torch.nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
            self.call = self.clock.read(bind(module, args, inputs))

        handle = self.dit.transformer.register_forward_pre_hook(read, prepend=True, with_kwargs=True)
        try:
            with self.clock:
                return super().__exit__(*exception)
        finally:
            handle.remove()

    @property
    def calls(self) -> Iterator[Step]:
        """One `Step` for each call of the transformer that belongs to the schedule, until the run ends.

        When the run ends, nnsight ends the whole trace: code after the loop does not run.
        """
        transformer = self.dit.nnsight.transformer
        seen: set[Any] = set()
        for _ in self.iter[:]:
            inputs = bind(self.dit.transformer, *transformer.inputs)
            call = self.call
            if call is None or call.step is None:
                self.begin(inputs)
                continue
            key = (call.step, call.branch)
            if key in seen:  # a further pass at this step, such as a disrupted one
                call = replace(call, branch="other")
            seen.add(key)
            absent = frozenset(inputs.get("skip_layers") or ())
            if call.branch == "other":
                lists = [getattr(self.dit.transformer, record.path) for record in self.dit.family.lists]
                there = {id(module) for blocks in lists for module in blocks}
                absent |= {b.index for b in self.dit.blocks if id(b.module) not in there}
            self.begin(inputs, absent)
            yield Step.of(key[0], call, absent)

    @property
    def steps(self) -> Iterator[Step]:
        """One `Step` for each call of the transformer that belongs to the schedule.

        It ends with the last step's own call, so code after the loop (reading `run.result`) still runs.
        """
        for step in self.calls:
            yield step
            if step + 1 == step.call.steps and step.branch != "other" and self.clock.closing:
                return
