"""Which denoising step, and which half of classifier-free guidance, is this call of the transformer?

A count of calls cannot tell: true CFG calls twice a step, skip-layer guidance and guiders more often, and a callback
may call at will. The step is therefore read from the timestep that the transformer was given, against the scheduler's
own list; the branch from the row layout of the family.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.forward.call import NOTHING, Branch, Call
from dg_tools.forward.replaced import replaced


class Clock:
    """Reads the calls of a pipeline's sampling runs; a new list of timesteps on the scheduler begins a new run.

    `guided` says whether the run has classifier-free guidance; None: the pipeline is asked at each call.
    """

    def __init__(self, pipeline: Any, family: Family, guided: bool | None = None) -> None:
        self.pipeline = pipeline
        self.family = family
        self.guided = guided
        self._timesteps: torch.Tensor | None = None
        self._rows = 0
        self._cond_text = 0

    def read(self, inputs: dict[str, Any]) -> Call:
        """The call that these keyword inputs of the transformer belong to."""
        timesteps = self.pipeline.scheduler.timesteps
        if timesteps is not self._timesteps:
            self._timesteps = timesteps
            self._rows = inputs["hidden_states"].shape[0]
            if self.family.rows == "sequential":
                self._cond_text = inputs["encoder_hidden_states"].data_ptr()
        timestep = inputs["timestep"].detach().flatten()[0].double().item() * 1000.0 / self.family.timestep_scale
        schedule = timesteps.double().cpu()
        step: int | None = int((schedule - timestep).abs().argmin())
        # bf16 timesteps keep 8 bits, hence the wide tolerance; schedules are far coarser or exact
        near = 1e-3 if inputs["timestep"].dtype in (torch.float32, torch.float64, torch.int64) else 2.0
        if abs(schedule[step].item() - timestep) > near:
            step = None
        rows = inputs["hidden_states"].shape[0]
        branch, cond, uncond = self._layout(inputs, rows)
        tokens = self.family.image_tokens(self.pipeline.transformer, inputs["hidden_states"])
        return Call(step, timestep, self._sigma(step, timestep), branch, cond, uncond, tokens)

    def _sigma(self, step: int | None, timestep: float) -> float:
        """The noise level: the share of noise in z_t = sqrt(1 - sigma^2) x + sigma noise where noise is predicted."""
        if self.family.prediction == "noise":
            alphas = self.pipeline.scheduler.alphas_cumprod
            return (1 - alphas[min(max(round(timestep), 0), len(alphas) - 1)]).sqrt().item()
        return self.pipeline.scheduler.sigmas[step].item() if step is not None else timestep / 1000.0

    def _guided(self) -> bool:
        if self.guided is not None:
            return self.guided
        stated = getattr(self.pipeline, "do_classifier_free_guidance", None)
        return (callers_scale(self.pipeline, self.family) or 1) > 1 if stated is None else stated

    def _layout(self, inputs: dict[str, Any], rows: int) -> tuple[Branch, slice, slice]:
        if self.family.rows != "sequential":
            if not self._guided():
                return "cond", slice(0, rows), NOTHING
            if rows == self._rows:
                halves = slice(0, rows // 2), slice(rows // 2, rows)
                uncond, cond = halves if self.family.rows == "batched" else reversed(halves)
                return "both", cond, uncond
            return "other", slice(0, rows), NOTHING
        if inputs["encoder_hidden_states"].data_ptr() == self._cond_text:
            return "cond", slice(0, rows), NOTHING
        return "uncond", NOTHING, slice(0, rows)


def callers_scale(pipeline: Any, family: Family) -> float | None:
    """The CFG scale of the pipeline call that is running, read from the call itself; None outside of one.

    FLUX keeps its true CFG scale nowhere but among the local variables of its `__call__`.
    """
    frame = inspect.currentframe()
    while frame is not None:
        local = frame.f_locals
        if frame.f_code.co_name == "__call__" and local.get("self") is pipeline:
            scale = float(local[family.guidance_argument])
            # FLUX needs a negative prompt as well, and a distilled FLUX.2 is not guided
            own = getattr(pipeline, "do_classifier_free_guidance", scale > 1)
            return scale if local.get("do_true_cfg", own) else 1.0
        frame = frame.f_back
    return None


@contextmanager
def after_each_step(pipeline: Any, function: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call `function(step, latents)` whenever the pipeline's scheduler has made a step.

    Not every pipeline takes a callback, and what the callbacks are given differs. The latents are as the scheduler
    returns them.
    """
    count = itertools.count()

    def around(step: Callable) -> Callable:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            output = step(*args, **kwargs)
            function(next(count), output[0])
            return output

        return stepping

    with replaced_step(pipeline.scheduler, around):
        yield


@contextmanager
def replaced_step(scheduler: Any, around: Callable[[Callable], Callable]) -> Iterator[None]:
    """The scheduler's `step` is `around(step)` inside, with the signature that pipelines look at; then put back."""
    with replaced(scheduler, "step", functools.wraps(scheduler.step)(around(scheduler.step))):
        yield
