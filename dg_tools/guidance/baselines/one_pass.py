"""The base of baselines that change what the run's own passes are told, or what they give: no further pass."""

from __future__ import annotations

from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.rival import WithoutWeakModel
from dg_tools.models.dit import DiT


class OnePass(WithoutWeakModel):
    """A guidance in the run's own passes, those of CFG among them: it costs what the run costs without it.

    Args:
        guidance_scale: the usual CFG scale s, 1 = off; None: 1, and in `dg.detail_guidance` whatever the call says.
        start, stop: where it acts, as fractions of the steps. Outside, and with `enabled=False`, the run is plain CFG.

    Raises:
        TypeError, ValueError: settings that cannot work, before any forward.
    """

    in_pass = True

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any forward for a model that does not predict a velocity, or a window without a step."""
        if dit.family.prediction != "velocity":
            raise ValueError(
                f"{type(self).__name__} is made for velocities; family {dit.family.name!r} predicts "
                f"{dit.family.prediction}"
            )
        super().check(dit, steps, height, width)

    def words(self, scale: float) -> list[str]:
        """`CFG 3`, and what it does."""
        return super().words(scale) + ([self.named] if self._enabled and self.pushes else [])

    @property
    def named(self) -> str:
        """It in a few words."""
        return self.short

    @property
    def widened(self) -> str:
        """What is to be widened where it holds no step."""
        return f"window [{self._start}, {self._stop}): widen it"

    def told(self, inputs: dict[str, Any], call: Call, steps: int, scale: float) -> dict[str, Any]:
        """What the transformer is given in a call, instead of these inputs.

        Args:
            inputs: by name.
            call: which.
            steps: how many the run has.
            scale: the run's CFG scale.
        """
        return inputs

    def given(
        self, prediction: torch.Tensor, inputs: dict[str, Any], call: Call, steps: int, scale: float
    ) -> torch.Tensor:
        """What the run gets instead of the prediction of such a call, all rows."""
        return prediction

    def note(self, steps: int, scale: float) -> str:
        """What the report says besides numbers; nothing here."""
        return ""
