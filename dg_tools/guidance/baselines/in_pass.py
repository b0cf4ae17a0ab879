"""The base of baselines that act in the run's own passes: what these are told, how they run, what they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.rival import WithoutWeakModel
from dg_tools.models.dit import DiT

Forward = Callable[[dict[str, Any], Call], torch.Tensor]


class InPass(WithoutWeakModel):
    """A guidance in the run's own passes, those of CFG among them. Where it does not act the run is plain CFG.

    Args:
        guidance_scale: the usual CFG scale s, 1 = off; None: 1, and in `dg.detail_guidance` whatever the call says.
        start, stop: where it acts, as fractions of the steps. Outside, and with `enabled=False`, the run is plain CFG.

    Raises:
        TypeError, ValueError: settings that cannot work, before any forward.
    """

    in_pass = True

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

    def predicted(self, dit: DiT, inputs: dict[str, Any], call: Call, own: Forward, again: Forward) -> torch.Tensor:
        """The transformer's prediction under it, all rows of the call.

        Args:
            dit: the model.
            inputs: what it is told.
            call: which.
            own: the forward of this call.
            again: a forward that is a call of its own, of other rows.
        """
        return own(inputs, call)

    def given(
        self, prediction: torch.Tensor, inputs: dict[str, Any], call: Call, steps: int, scale: float
    ) -> torch.Tensor:
        """What the run gets instead of the prediction of such a call, all rows."""
        return prediction

    def note(self, steps: int, scale: float) -> str:
        """What the report says besides numbers; nothing here."""
        return ""
