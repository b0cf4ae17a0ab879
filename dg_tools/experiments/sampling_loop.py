"""A sampling loop under any rule: how a step's velocity is combined from predictions at the same z_t.

A pipeline's call can be guided in one way at a time. Here a *rule* combines named predictions:

    def rule(at): return at["u"] + 3.0 * (at["c"] - at["u"]) + 0.5 * (at["c"] - at["d"])
    sample(dit, prompts, seeds, rule, sources={"d": off})

Noise, text and schedule are read from the pipeline's own first call (`onestep.first_call`), so that the same rule gives
the same latents as `dg_tools.generate`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dg_tools.experiments.sampling_step import SOURCES, Cost, SamplingStep, Source, StepBatch
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.interventions import Disrupt
from dg_tools.kinds import counted, kind_of
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import spatial
from dg_tools.onestep import first_call, without_state

Rule = Callable[[SamplingStep], torch.Tensor]


@dataclass
class SampledLatents:
    """The result of `sample`.

    Attributes:
        latents: (N, C, h, w).
        cost: of the rule, all pictures together.
        observed: of the predictions that `observe` used beyond the rule's.
    """

    latents: torch.Tensor
    cost: Cost = field(default_factory=Cost)
    observed: Cost = field(default_factory=Cost)


def sample(
    dit: DiT,
    prompts: Sequence[str],
    seeds: Sequence[int],
    rule: Rule,
    *,
    sources: Mapping[str, Source] | None = None,
    steps: int = 20,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str = "",
    batch: int = 32,
    observe: Callable[[SamplingStep, torch.Tensor], None] | None = None,
    **kwargs: Any,
) -> SampledLatents:
    """Latents of pictures sampled by a rule.

    Args:
        dit: any DiT.
        prompts, seeds: one of each per picture; each picture's noise has its own generator, as in the pipeline.
        rule: from a `SamplingStep` to its velocity (N, C, h, w).
        sources: further predictions by name, beside `c` and `u`: a `Disrupt` (conditional, disrupted), a baseline that
            perturbs blocks (PAG, SLG, SEG; its weight plays no part), or another transformer of the same class
            (conditional).
        steps, height, width: of the run; the pipeline's own size where None.
        negative_prompt: what `u` is conditional on.
        batch: pictures in one forward.
        observe: called with each step and its velocity; the predictions that it adds are counted separately.
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
    latents: list[torch.Tensor] = []
    result = SampledLatents(torch.empty(0))
    with dit.running(), torch.no_grad():
        for begin in range(0, len(prompts), batch):
            part = slice(begin, begin + batch)
            words = prompts[part]
            uncond = first_call(dit, [negative_prompt] * len(words), seed=0, **call)
            first = first_call(dit, words, seed=seeds[part], **call)
            group = StepBatch(
                dit,
                without_state(first),
                without_state(uncond),
                {**SOURCES, **(sources or {})},
                range(begin, begin + len(words)),
            )
            scheduler = copy.deepcopy(dit.pipeline.scheduler)  # the pipeline's own may be set again meanwhile
            z = spatial(dit, first["hidden_states"], height, width)
            for step, timestep in enumerate(scheduler.timesteps):
                level = timestep.to(first["timestep"].dtype)
                at = SamplingStep(group, z, level, float(scheduler.sigmas[step]), step, len(scheduler.timesteps))
                velocity = rule(at)
                result.cost.add(at.cost)
                if observe is not None:
                    at.cost = Cost()
                    observe(at, velocity)
                    result.observed.add(at.cost)
                z = scheduler.step(velocity, timestep, z, return_dict=False)[0].to(z.dtype)
            latents.append(z)
    result.latents = torch.cat(latents)
    return result


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
        raise ValueError(
            f"{counted(len(prompts), 'prompt')} and {counted(len(seeds), 'seed')}: one of each per picture"
        )
    if steps < 1 or batch < 1:
        raise ValueError(f"steps={steps}, batch={batch}; both are at least 1")
    taken = set(sources) & set(SOURCES)
    if taken:
        raise ValueError(f"sources name {sorted(taken)}, which always mean {dict(SOURCES)}: choose other names")
    for source in sources.values():
        if isinstance(source, Disrupt):
            source.check(dit, steps, height, width)
        elif isinstance(source, InBlocks):
            source.check(dit)
        elif isinstance(source, torch.nn.Module) and type(source) is not type(dit.transformer):
            raise ValueError(f"a source is {kind_of(source)}; another {type(dit.transformer).__name__} is needed")
