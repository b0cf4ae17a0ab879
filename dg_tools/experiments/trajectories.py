"""Keep z_t along a model's own sampling, at chosen steps, for every prompt with every seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dg_tools.families import bind
from dg_tools.forward.clock import Clock
from dg_tools.forward.stepping import after_each_step
from dg_tools.kinds import counted, some
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import spatial
from dg_tools.onestep import conditions
from dg_tools.progress import progress_bar

GUIDED = ("guidance_scale", "negative_prompt")  # of sampling only; what is measured is a conditional forward


@dataclass(frozen=True)
class Batch:
    """Some of the runs of an experiment.

    Attributes:
        rows: indices among all (prompt, seed) pairs, prompts outermost.
        prompts: of each row.
        steps: (step, sigma, z_t (N, C, h, w)) of each chosen step.
        final: latents at the end, (N, C, h, w).
        inputs: of the transformer besides z_t and the timestep, as `onestep.conditions` gives them.
    """

    rows: range
    prompts: list[str]
    steps: list[tuple[int, float, torch.Tensor]]
    final: torch.Tensor
    inputs: dict[str, Any]


def evenly(steps: int, count: int) -> list[int]:
    """`count` step indices spread over `steps`, the first and the last among them.

    Raises:
        ValueError: no steps, or more to keep than there are.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}; at least 1 is needed")
    if not 1 <= count <= steps:
        raise ValueError(f"measured={count}; this run has {counted(steps, 'step')}: pass 1 to {steps}")
    return sorted(set(np.linspace(0, steps - 1, count).round().astype(int).tolist()))


def trajectories(
    dit: DiT,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    keep: Sequence[int],
    batch: int = 32,
    progress: bool = True,
    height: int | None = None,
    width: int | None = None,
    **kwargs: Any,
) -> Iterator[Batch]:
    """Sample every prompt with every seed, `batch` at a time, and keep z_t at the steps `keep`.

    `kwargs` go to the pipeline's call (`guidance_scale` too: z_t then comes from guided sampling).
    """
    jobs = list(itertools.product(prompts, seeds))
    height, width = dit.size(height, width)
    plain = {k: v for k, v in kwargs.items() if k not in GUIDED}
    for begin in progress_bar(progress, range(0, len(jobs), batch), desc="batches"):
        part = jobs[begin : begin + batch]
        names = [prompt for prompt, _ in part]
        call = {**kwargs, "seed": [seed for _, seed in part], "steps": steps, "height": height, "width": width}
        states, final = one_run(dit, names, keep, call)
        if sorted(states) != sorted(keep):
            raise RuntimeError(
                f"the run gave {len(states)} of the {len(keep)} requested steps, without "
                f"{some(sorted(set(keep) - set(states)))}: it ended early"
            )
        in_order = [(step, *states[step]) for step in sorted(states)]
        inputs = conditions(dit, names, height, width, **plain)
        yield Batch(range(begin, begin + len(part)), names, in_order, final, inputs)


def one_run(
    dit: DiT, prompts: list[str], keep: Sequence[int], call: dict[str, Any]
) -> tuple[dict[int, tuple[float, torch.Tensor]], torch.Tensor]:
    """One call of the pipeline: (sigma, z_t) at the steps `keep`, and the latents at the end."""
    states: dict[int, tuple[float, torch.Tensor]] = {}
    last: list[torch.Tensor] = []
    clock = Clock(dit.pipeline, dit.family)

    def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs = bind(module, args, kwargs)
        now = clock.read(inputs)
        if now.step is not None and now.step in keep and now.step not in states and now.branch in ("both", "cond"):
            latents = inputs["hidden_states"][now.cond].detach().clone()
            states[now.step] = (now.sigma, spatial(dit, latents, call["height"], call["width"]))

    def after(step: int, latents: torch.Tensor) -> None:
        last[:] = [latents]

    with dit.running(), clock, after_each_step(dit.pipeline, after):
        handle = dit.transformer.register_forward_pre_hook(before, with_kwargs=True)
        try:
            dit.sample(**dit.arguments(prompts, **call), output_type="latent")
        finally:
            handle.remove()
    return states, spatial(dit, last[-1], call["height"], call["width"])


def runs_of(part: Batch, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """(prompt index, seed index) of each row of a batch."""
    prompt, seed = np.divmod(np.asarray(part.rows), seeds)
    return prompt, seed
