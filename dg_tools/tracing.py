"""nnsight on a DiT: named views of a block's streams, and a trace whose steps and order can be trusted.

Imported on first use only: nnsight adds `.save` to every object and patches autograd when it is imported.
"""

# mypy: disable-error-code="no-redef"
from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.eproperty import eproperty
from nnsight.intervention.tracer import InterleavingTracer

from dg_tools.families import BlockList
from dg_tools.models import PipelineModule
from dg_tools.steps import Branch, Call, Clock

if TYPE_CHECKING:
    from dg_tools.models import DiT


def block_envoy(record: BlockList) -> type[Envoy]:
    """An Envoy class with `.image` and `.text` views of a block's returned tuple, written back whole."""

    def put(raw: tuple, at: int, value: Any) -> tuple:
        return tuple(value if i == at else kept for i, kept in enumerate(raw))

    class BlockEnvoy(Envoy):
        @eproperty(key="output")
        def image(self, value: tuple) -> torch.Tensor:
            return value[record.image].clone()

        @image.transform
        def image(self, edited: torch.Tensor, raw: tuple) -> tuple:
            return put(raw, record.image, edited)

        @image.postprocess
        def image(self, value: torch.Tensor) -> tuple:
            return put(self.output, record.image, value)

        @eproperty(key="output")
        def text(self, value: tuple) -> torch.Tensor | None:
            return None if value[record.text] is None else value[record.text].clone()

        @text.transform
        def text(self, edited: torch.Tensor | None, raw: tuple) -> tuple:
            return put(raw, record.text, edited)

        @text.postprocess
        def text(self, value: torch.Tensor) -> tuple:
            return put(self.output, record.text, value)

    return BlockEnvoy


def wrap(dit: DiT) -> NNsight:
    """The pipeline as an nnsight model with block views."""
    envoys = {type(b.module): block_envoy(b.record) for b in dit.blocks}
    return NNsight(PipelineModule(dit.pipeline), envoys=envoys)


def unwrap(model: NNsight) -> None:
    """Undo what wrapping left on the modules."""
    for module in model._module.modules():
        for name in ("forward", "__nnsight__"):
            module.__dict__.pop(name, None)


class Step(int):
    """A denoising step from `run.steps`: its index, with `.sigma`, `.timestep`, `.branch`, `.cond`, `.uncond`."""

    sigma: float
    timestep: float
    branch: Branch
    cond: slice
    uncond: slice
    call: Call


class RunTracer(InterleavingTracer):
    """An nnsight tracer that knows steps from timesteps and refuses reads out of execution order."""

    def __init__(self, dit: DiT, guided: bool, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dit, self.guided = dit, guided
        self.image_tokens = 0
        self._last: tuple[int, int] = (-1, -1)

    @property
    def steps(self) -> Iterator[Step]:
        """One `Step` for each call of the transformer that belongs to the schedule.

        Ends with the last step's own call, so that what stands after the loop (reading `run.result`) still runs.
        """
        clock = Clock(self.dit.pipeline, self.dit.family)
        transformer = self.dit.nnsight.transformer
        closing = "uncond" if self.guided and self.dit.family.rows == "sequential" else None
        for _ in self.iter[:]:
            inputs = transformer.inputs[1]
            call = clock.read(inputs)
            self._last = (-1, -1)
            self.image_tokens = count_image_tokens(self.dit, inputs["hidden_states"])
            if call.step is None:
                continue
            step = Step(call.step)
            step.sigma, step.timestep, step.branch = call.sigma, call.timestep, call.branch
            step.cond, step.uncond, step.call = call.cond, call.uncond, call
            yield step
            if call.step == len(self.dit.pipeline.scheduler.timesteps) - 1 and closing in (None, call.branch):
                return

    def guard(self, index: int, rank: int, what: str) -> None:
        """Raise where a read would go back in the model's order."""
        if (index, rank) < self._last:
            order = ("modulation", "attn", "mlp", "image")
            last = f"block {self._last[0]}'s .{order[self._last[1]]}"
            raise RuntimeError(
                f"block {index}'s .{what} was read after {last}: in a step, read in execution order "
                "(block by block; modulation, attn, mlp, then image and text), or it would silently be the next step's"
            )
        self._last = (index, rank)

    def __exit__(self, *exception: Any) -> bool:
        with self.dit.running(), warnings.catch_warnings():
            # the loop over steps is open-ended on purpose: it ends with the run
            warnings.filterwarnings("ignore", message=".*was never reached.*")
            self.dit._run = self
            try:
                return super().__exit__(*exception)
            finally:
                self.dit._run = None


def count_image_tokens(dit: DiT, hidden_states: torch.Tensor) -> int:
    """Image tokens in the transformer's own input: a latent picture, or tokens already packed."""
    if hidden_states.ndim == 3:
        return hidden_states.shape[1]
    patch = dit.transformer.config.patch_size
    return (hidden_states.shape[-2] // patch) * (hidden_states.shape[-1] // patch)
