"""Progress of a run, a way to cancel it, and the picture that the model expects at each step.

Read at the scheduler's step, which every pipeline calls once per step, in plain, traced and guided runs.
A flow-matching model at z_t = (1 - sigma) x + sigma noise predicts v = noise - x, so x = z_t - sigma v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.forward.stepping import replaced_step
from dg_tools.models.dit import DiT

Tick = Callable[[int, int], None]  # called with steps done and their total


class Cancelled(KeyboardInterrupt):
    """Raised inside a run that was cancelled; what catches Ctrl-C catches this, and keeps what it keeps then."""


@contextmanager
def watched(dit: DiT, on_step: Tick, estimates: dict[int, torch.Tensor] | None = None) -> Iterator[None]:
    """Call `on_step(done, total)` before each scheduler step of the runs inside; it may raise `Cancelled`.

    Args:
        dit: the model.
        on_step: steps done in this run, counted from 1, and how many the run has.
        estimates: filled with the estimate of x, as the pipeline lays latents out, by step.
    """
    scheduler = dit.pipeline.scheduler

    def around(step: Callable) -> Callable:
        def stepped(velocity: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            times = scheduler.timesteps
            index = int((times.to(torch.float64) - float(timestep)).abs().argmin())
            if estimates is not None:
                sigma = scheduler.sigmas[index].to(sample)
                x = sample.float() - sigma.float() * velocity.float()
                estimates[index] = x.detach().to(sample.dtype).clone()
            on_step(index + 1, len(times))
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
