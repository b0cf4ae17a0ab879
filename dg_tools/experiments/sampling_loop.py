"""A sampling loop of one's own: any combination of predictions, over the pipeline's own noise, text and scheduler.

A pipeline's call can be guided in one way at a time. Here a *rule* says how the velocity of a step is made from named
predictions at the same z_t, each computed when it is first asked for and kept for the step:

    def rule(at): return at["u"] + 3.0 * (at["c"] - at["u"]) + 0.5 * (at["c"] - at["d"])
    sample(dit, prompts, seeds, rule, sources={"d": off})

Noise, text and schedule are read from the pipeline's own first call (`onestep.first_call`), so that the same rule gives
the same latents as `dg_tools.generate`. What is computed is counted in block calls, rows times blocks: a disrupted
prediction starts from the conditional one's hidden states, and costs the blocks after the disrupted one only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from dg_tools.forward.call import Call
from dg_tools.forward.restart import starting_after, why_not
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.interventions import Disrupt, attached
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import packed, spatial
from dg_tools.onestep import first_call, without_state

Source = Literal["cond", "uncond"] | Disrupt | InBlocks | torch.nn.Module
SOURCES: Mapping[str, Source] = {"c": "cond", "u": "uncond"}  # always there


@dataclass
class Cost:
    """What was computed, in rows: through the transformer, and through its blocks."""

    forwards: int = 0
    block_calls: int = 0


@dataclass
class Sampled:
    """What `sample` made.

    Attributes:
        latents: (N, C, h, w).
        cost: of the rule, all pictures together.
        observed: of what `observe` asked for beyond the rule.
    """

    latents: torch.Tensor
    cost: Cost = field(default_factory=Cost)
    observed: Cost = field(default_factory=Cost)


class At:
    """One step of one batch, as a rule sees it.

    Attributes:
        z: z_t, (N, C, h, w).
        sigma: noise level, 0..1.
        step, steps: index of the step, and how many there are.
        pictures: indices of the batch's pictures among all.
    """

    def __init__(
        self, batch: _Batch, z: torch.Tensor, timestep: torch.Tensor, sigma: float, step: int, steps: int
    ) -> None:
        self.z, self.sigma, self.step, self.steps = z, sigma, step, steps
        self.pictures = batch.pictures
        self.cost = Cost()
        self._batch, self._timestep = batch, timestep
        self._made: dict[str, torch.Tensor] = {}
        self._kept: dict[int, tuple] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        """A prediction by name, (N, C, h, w): the velocity noise - x.

        Raises:
            KeyError: a name without a source, with those that there are.
        """
        if name not in self._made:
            sources = self._batch.sources
            if name not in sources:
                raise KeyError(f"no prediction {name!r}; there are {[*sources]}: name its source in sources=")
            self._made[name] = self._predict(sources[name])
        return self._made[name]

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
            with self._keeping() if source == "cond" else _nothing():
                return self._forward(dit.transformer, inputs, blocks)
        if not forks(dit, source, inputs):
            with attached(dit.transformer, dit.family, [source], call):
                return self._forward(dit.transformer, inputs, blocks)
        at = source.block
        record = dit.block(at).record
        _ = self["c"]  # keeps the block's output
        edit = lambda output: source.must_edit(output, record, call)  # noqa: E731
        with starting_after(dit.transformer, dit.family, at, self._kept[at], edit):
            return self._forward(dit.transformer, inputs, blocks - at - 1)

    def _perturbed(self, source: InBlocks, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """A baseline's worse prediction, from its first perturbed block on."""
        dit, begin = self._batch.dit, starts_after(self._batch.dit, source, inputs)
        given = {**inputs, "hidden_states": packed(dit, self.z)}
        if begin is None:
            with source.on(dit, given, call):
                return self._forward(dit.transformer, inputs, source.calls(len(dit.blocks)) + source.first)
        _ = self["c"]  # keeps the block's output
        same = starting_after(dit.transformer, dit.family, begin, self._kept[begin], lambda output: output)
        with same, source.on(dit, given, call):
            return self._forward(dit.transformer, inputs, source.calls(len(dit.blocks)))

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """The conditional forward inside leaves the outputs of the blocks that a disruption may start from."""
        dit = self._batch.dit
        handles = []

        def keep(block: int) -> Callable:
            def hook(module: torch.nn.Module, inputs: Any, output: tuple) -> None:
                self._kept[block] = output

            return hook

        try:
            for block in self._batch.forked:
                handles.append(dit.block(block).module.register_forward_hook(keep(block)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, transformer: torch.nn.Module, inputs: dict[str, Any], blocks: int) -> torch.Tensor:
        dit, count = self._batch.dit, len(self.z)
        level = self._timestep.expand(count) / (1000.0 / dit.family.timestep_scale)
        state = {"hidden_states": packed(dit, self.z), "timestep": level, "return_dict": False}
        made = transformer(**{**inputs, **state})[0]
        self.cost.forwards += count
        self.cost.block_calls += count * blocks
        return spatial(dit, made, *dit.picture_size(self.z))


@dataclass
class _Batch:
    """What is the same for every step of a batch."""

    dit: DiT
    cond: dict[str, Any]
    uncond: dict[str, Any]
    sources: dict[str, Source]
    pictures: range

    @property
    def forked(self) -> list[int]:
        """Blocks whose output in the conditional forward a disrupted prediction starts from."""
        found = {s.block for s in self.sources.values() if isinstance(s, Disrupt) and forks(self.dit, s, self.cond)}
        begins = [starts_after(self.dit, s, self.cond) for s in self.sources.values() if isinstance(s, InBlocks)]
        return sorted(found.union(b for b in begins if b is not None))


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def forks(dit: DiT, edit: Disrupt, inputs: dict[str, Any]) -> bool:
    """Whether a disrupted prediction may start from the conditional one's hidden states at the disrupted block."""
    return edit.why_whole is None and why_not(dit.family, inputs) is None


def sample(
    dit: DiT,
    prompts: Sequence[str],
    seeds: Sequence[int],
    rule: Callable[[At], torch.Tensor],
    *,
    sources: Mapping[str, Source] | None = None,
    steps: int = 20,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str = "",
    batch: int = 32,
    observe: Callable[[At, torch.Tensor], None] | None = None,
    **kwargs: Any,
) -> Sampled:
    """Latents of pictures sampled by a rule.

    Args:
        dit: any DiT.
        prompts, seeds: one of each a picture; a picture's noise comes from a generator of its own, as in the pipeline.
        rule: from a step (`At`) to its velocity (N, C, h, w).
        sources: what further names of predictions stand for: a `Disrupt` (conditional, disrupted), a baseline that
            perturbs blocks (PAG, SLG, SEG; its weight plays no part), or another transformer of the same class
            (conditional), beside `c` and `u`.
        steps, height, width: of the run; the pipeline's own size where None.
        negative_prompt: what `u` is conditional on.
        batch: pictures a forward.
        observe: called after each step's velocity is known, with both; what it asks for is counted apart.
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError: a family that predicts no velocity, no pictures, not one seed a prompt, steps or batch below 1, a
            source that takes a reserved name.
        IndexError: a disruption that this model cannot have.
    """
    prompts, seeds = list(prompts), list(seeds)
    check(dit, prompts, seeds, sources or {}, steps, batch, height, width)
    height, width = dit.size(height, width)
    call = {"steps": steps, "height": height, "width": width, **kwargs}
    made: list[torch.Tensor] = []
    result = Sampled(torch.empty(0))
    with dit.running(), torch.no_grad():
        for begin in range(0, len(prompts), batch):
            part = slice(begin, begin + batch)
            words = prompts[part]
            uncond = first_call(dit, [negative_prompt] * len(words), seed=0, **call)
            first = first_call(dit, words, seed=seeds[part], **call)
            group = _Batch(
                dit,
                without_state(first),
                without_state(uncond),
                {**SOURCES, **(sources or {})},
                range(begin, begin + len(words)),
            )
            scheduler = copy.deepcopy(dit.pipeline.scheduler)  # the pipeline's may be set anew meanwhile
            z = spatial(dit, first["hidden_states"], height, width)
            for step, timestep in enumerate(scheduler.timesteps):
                level = timestep.to(first["timestep"].dtype)
                at = At(group, z, level, float(scheduler.sigmas[step]), step, len(scheduler.timesteps))
                velocity = rule(at)
                add(result.cost, at.cost)
                if observe is not None:
                    at.cost = Cost()
                    observe(at, velocity)
                    add(result.observed, at.cost)
                z = scheduler.step(velocity, timestep, z, return_dict=False)[0].to(z.dtype)
            made.append(z)
    result.latents = torch.cat(made)
    return result


def starts_after(dit: DiT, source: InBlocks, inputs: dict[str, Any]) -> int | None:
    """The block before a baseline's first perturbed one, whose output its pass may start from; None: it runs whole."""
    return source.first - 1 if source.first and why_not(dit.family, inputs) is None else None


def add(total: Cost, more: Cost) -> None:
    """Add one cost to another."""
    total.forwards += more.forwards
    total.block_calls += more.block_calls


def check(
    dit: DiT,
    prompts: list[str],
    seeds: list[int],
    sources: Mapping[str, Source],
    steps: int,
    batch: int,
    height: int | None,
    width: int | None,
) -> None:
    """Raise before the first forward for what cannot be sampled."""
    if dit.family.prediction != "velocity":
        raise ValueError(
            f"family {dit.family.name!r} predicts {dit.family.prediction}; the loop's rules combine velocities"
        )
    if not prompts:
        raise ValueError("no prompts: pass at least one")
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: one of each a picture")
    if steps < 1 or batch < 1:
        raise ValueError(f"steps={steps}, batch={batch}; both are at least 1")
    taken = set(sources) & set(SOURCES)
    if taken:
        raise ValueError(f"sources name {sorted(taken)}, which always stand for {dict(SOURCES)}: choose other names")
    for source in sources.values():
        if isinstance(source, Disrupt):
            source.check(dit, steps, height, width)
        elif isinstance(source, InBlocks):
            source.check(dit)
        elif isinstance(source, torch.nn.Module) and type(source) is not type(dit.transformer):
            raise ValueError(
                f"a source is a {type(source).__name__}; another {type(dit.transformer).__name__} is needed"
            )
