"""A scheduler's step, seen from outside: every pipeline calls it once per step, however the blocks are run."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.forward.replaced import replaced


class Stepping:
    """Replaces a scheduler's `step`, with the signature that pipelines look at."""

    def __init__(self, scheduler: Any, step: Callable[..., Any]) -> None:
        self.step = step
        functools.update_wrapper(self, scheduler.step, updated=())  # not the attributes of another such wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.step(*args, **kwargs)


def index_of(scheduler: Any, steps: int) -> int:
    """Index of the step that comes next in the scheduler's list of timesteps.

    Args:
        scheduler: any; some keep an index of their own, which is None before the first step.
        steps: how many this run has made.
    """
    index: int | None = getattr(scheduler, "step_index", None)
    return (getattr(scheduler, "begin_index", None) or 0) + steps if index is None else index


def first_of(scheduler: Any, steps: int) -> int:
    """Index of the run's first step, after `steps` steps: not 0 in img2img, which begins in the middle."""
    begin: int | None = getattr(scheduler, "begin_index", None)
    return index_of(scheduler, steps) - steps if begin is None else begin


@contextmanager
def replaced_step(scheduler: Any, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """The scheduler's `step` is `around(step)` inside; then it is put back."""
    with replaced(scheduler, "step", Stepping(scheduler, around(scheduler.step))):
        yield


@contextmanager
def after_each_step(pipeline: Any, function: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call `function(step, latents)` whenever the pipeline's scheduler has made a step.

    Not every pipeline takes a callback, and what the callbacks are given differs. The latents are as the scheduler
    returns them.
    """
    count = itertools.count()

    def around(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            output = step(*args, **kwargs)
            function(next(count), output[0])
            return output

        return stepping

    with replaced_step(pipeline.scheduler, around):
        yield


def after_callback(arguments: dict[str, Any], function: Callable[[torch.Tensor], None]) -> dict[str, Any]:
    """The arguments of a pipeline's call, changed so that latents that its own callback returns go to `function` too.

    A change by the callback after the last step is not seen by the scheduler, and some pipelines alter it before the
    output.
    """
    callback = arguments.get("callback_on_step_end")
    if callback is None:
        return arguments

    def noted(*args: Any, **kwargs: Any) -> Any:
        tensors = callback(*args, **kwargs)
        if isinstance(tensors, dict) and "latents" in tensors:
            function(tensors["latents"])
        return tensors

    inputs = {"callback_on_step_end_tensor_inputs": i} if (i := getattr(callback, "tensor_inputs", None)) else {}
    return {**arguments, **inputs, "callback_on_step_end": noted}
