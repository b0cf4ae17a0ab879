"""The base of baselines that change what the run's own passes are told, or what they give: no further pass."""

from __future__ import annotations

from dg_tools.guidance.baselines.in_pass import InPass
from dg_tools.models.dit import DiT


class OnePass(InPass):
    """A guidance that costs what the run costs without it, CFG or none; for models that predict a velocity.

    `guidance_scale`, `start`, `stop` as in `InPass`.
    """

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any forward for a model that does not predict a velocity, or a window without a step."""
        if dit.family.prediction != "velocity":
            raise ValueError(
                f"{type(self).__name__} needs a model that predicts velocities; family {dit.family.name!r} "
                f"predicts {dit.family.prediction}"
            )
        super().check(dit, steps, height, width)
