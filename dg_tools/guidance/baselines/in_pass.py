"""The base of baselines that act in the run's own passes: they change inputs, computation or output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.rival import WithoutWeakModel
from dg_tools.models.dit import DiT

Forward = Callable[[dict[str, Any], Call], torch.Tensor]


class InPass(WithoutWeakModel):
    """A guidance that acts in the run's own passes, those of CFG included. Where it does not act, the run is plain CFG.

    Args:
        guidance_scale: the usual CFG scale s, 1 = off; None: 1, and in `dg.detail_guidance` the scale of the call.
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
        """The guidance in a few words."""
        return self.short

    @property
    def widened(self) -> str:
        """The name of the window to widen if it contains no step."""
        return f"window [{self._start}, {self._stop}): widen it"

    def told(self, inputs: dict[str, Any], call: Call, steps: int, scale: float) -> dict[str, Any]:
        """The inputs that the transformer gets in a call, which replace `inputs`.

        Args:
            inputs: by name.
            call: which.
            steps: how many the run has.
            scale: the run's CFG scale.
        """
        return inputs

    def predicted(self, dit: DiT, inputs: dict[str, Any], call: Call, own: Forward, again: Forward) -> torch.Tensor:
        """The transformer's prediction under this guidance, all rows of the call.

        Args:
            dit: the model.
            inputs: the transformer's inputs.
            call: which.
            own: the forward of this call.
            again: a forward of other rows, as a separate call.
        """
        return own(inputs, call)

    def given(
        self, prediction: torch.Tensor, inputs: dict[str, Any], call: Call, steps: int, scale: float
    ) -> torch.Tensor:
        """The prediction that the run gets in place of a call's own, all rows."""
        return prediction

    def note(self, steps: int, scale: float) -> str:
        """A sentence for the report; empty here."""
        return ""
