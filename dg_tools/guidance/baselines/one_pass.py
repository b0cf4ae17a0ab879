"""The base of baselines that change inputs or outputs of the run's own passes, without a further pass."""

from __future__ import annotations

from dg_tools.guidance.baselines.in_pass import InPass
from dg_tools.models.dit import DiT


class OnePass(InPass):
    """A guidance that adds no cost to the run, with or without CFG; for models that predict a velocity.

    `guidance_scale`, `start`, `stop` as in `InPass`.
    """

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise, before any forward, for a model that does not predict a velocity, or a window without a step."""
        if dit.family.prediction != "velocity":
            raise ValueError(
                f"{type(self).__name__} needs a model that predicts velocities; family {dit.family.name!r} "
                f"predicts {dit.family.prediction}"
            )
        super().check(dit, steps, height, width)
