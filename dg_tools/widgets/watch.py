"""Progress of a run, a way to cancel it, and the picture that the model expects at each step.

Read at the scheduler's step, which every pipeline calls once per step, in plain, traced and guided runs.
A flow-matching model at z_t = (1 - sigma) x + sigma noise predicts v = noise - x, so x = z_t - sigma v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.forward.stepping import first_of, index_of, replaced_step
from dg_tools.models.dit import DiT

Tick = Callable[[int, int], None]  # called with steps done and their total


class Cancelled(KeyboardInterrupt):
    """Raised inside a run that was cancelled; handled as Ctrl-C is, so finished work is kept."""


@contextmanager
def watched(dit: DiT, on_step: Tick, estimates: dict[int, torch.Tensor] | None = None) -> Iterator[None]:
    """Call `on_step(done, total)` before each scheduler step of the runs inside; it may raise `Cancelled`.

    Args:
        dit: the model.
        on_step: steps done in this run, counted from 1, and how many the run has.
        estimates: filled with the estimate of x, as the pipeline lays latents out, by step.
    """
    scheduler = dit.pipeline.scheduler
    timesteps: Any = None
    first, steps = 0, 0  # of the run: the index that it began with, and the steps that it has made

    def around(step: Callable) -> Callable:
        def stepped(velocity: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal timesteps, first, steps
            if scheduler.timesteps is not timesteps:  # a new run
                timesteps = scheduler.timesteps
                first, steps = first_of(scheduler, 0), 0
            index = index_of(scheduler, steps)
            if estimates is not None:
                sigma = scheduler.sigmas[index].to(sample)
                x = sample.float() - sigma.float() * velocity.float()
                estimates[index - first] = x.detach().to(sample.dtype).clone()
            steps += 1
            on_step(steps, len(timesteps) - first)
            return step(velocity, timestep, sample, *args, **kwargs)

        return stepped

    with replaced_step(scheduler, around):
        yield


def across(tick: Tick, runs: int) -> Tick:
    """One bar over several runs: a callback for `watched` that counts steps through all of them."""
    finished = -1

    def on_step(done: int, total: int) -> None:
        nonlocal finished
        finished += done == 1
        tick(finished * total + done, runs * total)

    return on_step
