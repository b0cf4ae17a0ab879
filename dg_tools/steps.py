"""Which denoising step, and which half of classifier-free guidance, is this call of the transformer?

A count of calls cannot tell: true CFG calls twice a step, skip-layer guidance and guiders more often, and a callback
may call at will. The step is therefore read from the timestep that the transformer was given, against the scheduler's
own list; the branch from the row layout of the family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.families import Family

Branch = Literal["both", "cond", "uncond", "other"]


@dataclass(frozen=True)
class Call:
    """One call of the transformer.

    Attributes:
        step: index into the scheduler's timesteps; None for a call at another timestep (not part of the sampling).
        timestep: the scheduler's timestep, 0..1000.
        sigma: noise level, 0..1 for flow matching.
        branch: `both` (rows [uncond, cond]), `cond`, `uncond`, or `other`: a further call at a step already seen, such
            as skip-layer guidance makes.
        cond, uncond: the row ranges of the two halves; empty where a half is absent.
    """

    step: int | None
    timestep: float
    sigma: float
    branch: Branch
    cond: slice
    uncond: slice

    def rows(self, which: Literal["all", "cond"]) -> slice:
        """The rows that `which` asks for."""
        return slice(None) if which == "all" else self.cond


NOTHING = slice(0, 0)


class Clock:
    """Reads the calls of a pipeline's sampling runs; a new list of timesteps on the scheduler begins a new run."""

    def __init__(self, pipeline: Any, family: Family) -> None:
        self.pipeline, self.family = pipeline, family
        self._timesteps: torch.Tensor | None = None
        self._rows = 0
        self._cond_text = 0

    def read(self, inputs: dict[str, Any]) -> Call:
        """The call that these keyword inputs of the transformer belong to."""
        timesteps = self.pipeline.scheduler.timesteps
        if timesteps is not self._timesteps:
            self._timesteps = timesteps
            self._rows, self._cond_text = inputs["hidden_states"].shape[0], inputs["encoder_hidden_states"].data_ptr()
        given = inputs["timestep"].detach().flatten()[0].double().item() * 1000.0 / self.family.timestep_scale
        schedule = timesteps.double().cpu()
        step: int | None = int((schedule - given).abs().argmin())
        # bf16 timesteps keep 8 bits, hence the wide tolerance; schedules are far coarser or exact
        near = 1e-3 if inputs["timestep"].dtype in (torch.float32, torch.float64, torch.int64) else 2.0
        if abs(schedule[step].item() - given) > near:
            step = None
        rows = inputs["hidden_states"].shape[0]
        branch, cond, uncond = self._layout(inputs, rows)
        sigma = self.pipeline.scheduler.sigmas[step].item() if step is not None else given / 1000.0
        return Call(step, given, sigma, branch, cond, uncond)

    def _layout(self, inputs: dict[str, Any], rows: int) -> tuple[Branch, slice, slice]:
        if self.family.rows == "batched":
            if not self.pipeline.do_classifier_free_guidance:
                return "cond", slice(0, rows), NOTHING
            if rows == self._rows:
                return "both", slice(rows // 2, rows), slice(0, rows // 2)
            return "other", slice(0, rows), NOTHING
        if inputs["encoder_hidden_states"].data_ptr() == self._cond_text:
            return "cond", slice(0, rows), NOTHING
        return "uncond", NOTHING, slice(0, rows)
