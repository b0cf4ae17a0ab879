"""One step of a sampling loop: its predictions by name, each computed on first use, and what they cost.

The cost is counted in block calls, rows times blocks: a disrupted prediction starts from the conditional one's hidden
states, and costs the blocks after the disrupted one only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.forward.call import Call
from dg_tools.forward.restart import starting_after, why_not
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

    @property
    def shared_blocks(self) -> list[int]:
        """Blocks from whose output in the conditional forward another prediction starts."""
        disrupted = {
            s.block for s in self.sources.values() if isinstance(s, Disrupt) and shares(self.dit, s, self.cond)
        }
        starts = [starts_after(self.dit, s, self.cond) for s in self.sources.values() if isinstance(s, InBlocks)]
        return sorted(disrupted.union(b for b in starts if b is not None))


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
        self._outputs: dict[int, tuple] = {}

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
            return self._forward(source, inputs, blocks)
        if isinstance(source, InBlocks):
            return self._perturbed(source, inputs, call)
        if not isinstance(source, Disrupt):
            with self._keeping_outputs() if source == "cond" else nullcontext():
                return self._forward(dit.transformer, inputs, blocks)
        if not shares(dit, source, inputs):
            with attached(dit.transformer, dit.family, [source], call):
                return self._forward(dit.transformer, inputs, blocks)
        at = source.block
        record = dit.block(at).record
        _ = self["c"]  # keeps the block's output
        edit = lambda output: source.must_edit(output, record, call)  # noqa: E731
        with starting_after(dit.transformer, dit.family, at, self._outputs[at], edit):
            return self._forward(dit.transformer, inputs, blocks - at - 1)

    def _perturbed(self, source: InBlocks, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """A baseline's degraded prediction, from its first perturbed block on."""
        dit = self._batch.dit
        start = starts_after(dit, source, inputs)
        rows = {**inputs, "hidden_states": packed(dit, self.z)}
        if start is None:
            with source.on(dit, rows, call):
                return self._forward(dit.transformer, inputs, source.calls(len(dit.blocks)) + source.first)
        _ = self["c"]  # keeps the block's output
        same = starting_after(dit.transformer, dit.family, start, self._outputs[start], lambda output: output)
        with same, source.on(dit, rows, call):
            return self._forward(dit.transformer, inputs, source.calls(len(dit.blocks)))

    @contextmanager
    def _keeping_outputs(self) -> Iterator[None]:
        """The forward inside leaves the outputs of the blocks from which other predictions start."""
        dit = self._batch.dit
        handles = []

        def keep(block: int) -> Callable:
            def hook(module: torch.nn.Module, inputs: Any, output: tuple) -> None:
                self._outputs[block] = output

            return hook

        try:
            for block in self._batch.shared_blocks:
                handles.append(dit.block(block).module.register_forward_hook(keep(block)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, transformer: torch.nn.Module, inputs: dict[str, Any], blocks: int) -> torch.Tensor:
        dit, count = self._batch.dit, len(self.z)
        level = self._timestep.expand(count) / (1000.0 / dit.family.timestep_scale)
        state = {"hidden_states": packed(dit, self.z), "timestep": level, "return_dict": False}
        predicted = transformer(**{**inputs, **state})[0]
        self.cost.forwards += count
        self.cost.block_calls += count * blocks
        return spatial(dit, predicted, *dit.picture_size(self.z))


def shares(dit: DiT, edit: Disrupt, inputs: dict[str, Any]) -> bool:
    """Whether a disrupted prediction may start from the conditional one's hidden states at the disrupted block."""
    return edit.why_whole is None and why_not(dit.family, inputs) is None


def starts_after(dit: DiT, source: InBlocks, inputs: dict[str, Any]) -> int | None:
    """The block before a baseline's first perturbed one, whose output its pass may start from; None: it runs whole."""
    return source.first - 1 if source.first and why_not(dit.family, inputs) is None else None
