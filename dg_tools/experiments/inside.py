"""z_t along a model's own sampling, and what one forward there passes by.

`trajectories` samples batches of prompt and seed and keeps z_t at chosen steps; `watching` calls a function at every
block of the forwards inside it. Plain hooks, always taken off again: one forward at a z_t reads all prompts at once,
and without guidance every row is a conditional one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dg_tools.interventions import bind
from dg_tools.models import Block, DiT
from dg_tools.onestep import conditions
from dg_tools.pictures import spatial
from dg_tools.progress import progress_bar
from dg_tools.steps import Clock

GUIDED = ("guidance_scale", "negative_prompt")  # of sampling; a forward that is watched is conditional


@dataclass(frozen=True)
class Batch:
    """Some of the runs of an experiment.

    Attributes:
        rows: indices among all (prompt, seed) pairs, prompts outermost.
        prompts: of each row.
        steps: (step, sigma, z_t (N, C, h, w)) of each step kept.
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
        raise ValueError(f"steps={steps} asked for; at least 1 is needed")
    if not 1 <= count <= steps:
        raise ValueError(f"measured={count} steps asked for; there are 1 to {steps} to measure at")
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
    call = {**kwargs, "steps": steps, "height": height, "width": width}
    plain = {k: v for k, v in kwargs.items() if k not in GUIDED}
    for begin in progress_bar(progress, range(0, len(jobs), batch), desc="batches"):
        part = jobs[begin : begin + batch]
        names = [p for p, _ in part]
        kept: dict[int, tuple[float, torch.Tensor]] = {}
        clock = Clock(dit.pipeline, dit.family)

        def see(
            module: torch.nn.Module,
            args: tuple,
            given: dict[str, Any],
            clock: Clock = clock,
            kept: dict[int, tuple[float, torch.Tensor]] = kept,
        ) -> None:
            inputs = bind(module, args, given)
            now = clock.read(inputs)
            if now.step is not None and now.step in keep and now.step not in kept and now.branch in ("both", "cond"):
                latents = inputs["hidden_states"][now.cond].detach().clone()
                kept[now.step] = (now.sigma, spatial(dit, latents, height, width))

        with dit.running():
            handle = dit.transformer.register_forward_pre_hook(see, with_kwargs=True)
            try:
                made = dit.pipeline(
                    **dit.arguments(names, seed=[s for _, s in part], **call), output_type="latent"
                ).images
            finally:
                handle.remove()
        if sorted(kept) != sorted(keep):
            raise RuntimeError(f"the run gave steps {sorted(kept)}; {sorted(keep)} were asked for: it ended early")
        steps_kept = [(s, *kept[s]) for s in sorted(kept)]
        inputs = conditions(dit, names, height, width, **plain)
        yield Batch(range(begin, begin + len(part)), names, steps_kept, spatial(dit, made, height, width), inputs)


@contextmanager
def watching(dit: DiT, see: Callable[[Block, tuple], None]) -> Iterator[None]:
    """Call `see(block, output)` after every block of every forward inside, in execution order."""
    with ExitStack() as stack:
        for block in dit.blocks:
            hook = lambda module, inputs, output, block=block: see(block, output)  # noqa: E731
            stack.callback(block.module.register_forward_hook(hook).remove)
        yield
