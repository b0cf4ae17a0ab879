"""One step of a sampling loop: its predictions by name, each computed on first use, and what they cost.

The cost is counted in block calls, rows times blocks: a disrupted prediction starts from the conditional one's hidden
states, and costs the blocks after the disrupted one only.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.forward.call import Call
from dg_tools.forward.restart import Restart, why_not
from dg_tools.guidance.baselines.one_pass import OnePass
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.interventions import Disrupt, attached
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import packed, spatial

Source = Literal["cond", "uncond"] | Disrupt | InBlocks | torch.nn.Module
SOURCES: Mapping[str, Source] = {"c": "cond", "u": "uncond"}  # always there


@dataclass
class Cost:
    """What was computed, in rows: through the transformer, and through its blocks."""

    forwards: int = 0
    block_calls: int = 0

    def add(self, more: Cost) -> None:
        """Add another cost to this one."""
        self.forwards += more.forwards
        self.block_calls += more.block_calls


@dataclass
class StepBatch:
    """What is the same for every step of a batch.

    Attributes:
        dit: the model.
        cond, uncond: the transformer's inputs besides z_t and the timestep.
        sources: of the predictions, by name.
        pictures: indices of the batch's pictures among all.
    """

    dit: DiT
    cond: dict[str, Any]
    uncond: dict[str, Any]
    sources: dict[str, Source]
    pictures: range

    def restarts(self) -> dict[int, Restart]:
        """For one step: where a prediction starts from a block's output in the conditional forward, by that block."""
        starts = Counter(starts_after(self.dit, source, self.cond) for source in self.sources.values())
        transformer, family = self.dit.transformer, self.dit.family
        return {block: Restart(transformer, family, block, n) for block, n in starts.items() if block is not None}


class SamplingStep:
    """One step of one batch, as a rule sees it.

    Attributes:
        z: z_t, (N, C, h, w).
        sigma: noise level, 0..1.
        step, steps: index of the step, and how many there are.
        pictures: indices of the batch's pictures among all.
        cost: of the predictions so far.
    """

    def __init__(
        self, batch: StepBatch, z: torch.Tensor, timestep: torch.Tensor, sigma: float, step: int, steps: int
    ) -> None:
        self.z = z
        self.sigma = sigma
        self.step = step
        self.steps = steps
        self.pictures = batch.pictures
        self.cost = Cost()
        self._batch = batch
        self._timestep = timestep
        self._predictions: dict[str, torch.Tensor] = {}
        self._restarts = batch.restarts()
        self._one_pass: tuple[OnePass, float] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        """A prediction by name, (N, C, h, w): the velocity noise - x.

        Raises:
            KeyError: a name without a source, with the names that have one.
        """
        if name not in self._predictions:
            sources = self._batch.sources
            if name not in sources:
                raise KeyError(f"no prediction {name!r}; there are {[*sources]}: name its source in sources=")
            self._predictions[name] = self._predict(sources[name])
        return self._predictions[name]

    def under(self, guider: OnePass, scale: float) -> SamplingStep:
        """The same step under a guidance in the run's own passes, `Gain` or `DetailDaemon`, at CFG scale `scale`."""
        step = copy.copy(self)  # one cost for both
        step._predictions, step._restarts, step._one_pass = {}, self._batch.restarts(), (guider, scale)
        return step

    def x0(self, velocity: torch.Tensor) -> torch.Tensor:
        """The picture that a velocity predicts, in latents: z - sigma v."""
        return self.z - self.sigma * velocity

    def _predict(self, source: Source) -> torch.Tensor:
        batch, dit = self._batch, self._batch.dit
        blocks = len(dit.blocks)
        inputs = batch.uncond if source == "uncond" else batch.cond
        tokens = dit.family.image_tokens(dit.transformer, self.z)
        call = Call.at(self.sigma, step=self.step, image_tokens=tokens)
        if isinstance(source, torch.nn.Module):
            return self._forward(source, inputs, call, blocks)
        start = starts_after(dit, source, inputs)
        if isinstance(source, InBlocks):
            return self._perturbed(source, inputs, call, start)
        if isinstance(source, Disrupt) and start is None:
            with attached(dit.transformer, dit.family, [source], call):
                return self._forward(dit.transformer, inputs, call, blocks)
        if isinstance(source, Disrupt) and start is not None:
            record, disrupt = dit.block(start).record, source
            with self._starting(start, lambda output: disrupt.must_edit(output, record, call)):
                return self._forward(dit.transformer, inputs, call, blocks - start - 1)
        with ExitStack() as stack:
            for restart in self._restarts.values() if source == "cond" else ():
                stack.enter_context(restart.keeping())
            return self._forward(dit.transformer, inputs, call, blocks)

    def _perturbed(self, source: InBlocks, inputs: dict[str, Any], call: Call, start: int | None) -> torch.Tensor:
        """A baseline's degraded prediction, from its first perturbed block on."""
        dit = self._batch.dit
        rows, blocks = {**inputs, "hidden_states": packed(dit, self.z)}, source.calls(len(dit.blocks))
        with nullcontext() if start is None else self._starting(start), source.on(dit, rows, call):
            return self._forward(dit.transformer, inputs, call, blocks + (source.first if start is None else 0))

    def _starting(self, block: int, edit: Callable[[Any], Any] = lambda output: output) -> AbstractContextManager[None]:
        """A forward inside starts from `edit` of the block's output in the conditional forward."""
        _ = self["c"]  # keeps it
        return self._restarts[block].starting(edit)

    def _forward(self, transformer: torch.nn.Module, inputs: dict[str, Any], call: Call, blocks: int) -> torch.Tensor:
        dit, count = self._batch.dit, len(self.z)
        level = self._timestep.expand(count) / (1000.0 / dit.family.timestep_scale)
        state = {"hidden_states": packed(dit, self.z), "timestep": level, "return_dict": False}
        inputs = {**inputs, **state}
        if self._one_pass is None:
            predicted = transformer(**inputs)[0]
        else:
            guider, scale = self._one_pass
            predicted = transformer(**guider.told(inputs, call, self.steps, scale))[0]
            predicted = guider.given(predicted, inputs, call, self.steps, scale)
        self.cost.forwards += count
        self.cost.block_calls += count * blocks
        return spatial(dit, predicted, *dit.picture_size(self.z))


def starts_after(dit: DiT, source: Source, inputs: dict[str, Any]) -> int | None:
    """The block from whose output in the conditional forward a prediction may start; None: it runs whole."""
    if why_not(dit.family, inputs) is not None:
        return None
    if isinstance(source, Disrupt):
        return source.block if source.why_whole is None else None
    return source.first - 1 if isinstance(source, InBlocks) and source.first else None
