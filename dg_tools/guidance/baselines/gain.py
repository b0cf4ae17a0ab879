"""Velocity gain, the simplest rival of a guidance for detail: the prediction times a number. It needs no extra pass.

If a weak model d has the gain g = <c, d> / <c, c>, c + w (c - d) is larger by 1 + w (1 - g), whatever else d lacks. So
a guidance must give more than a gain of that size. `Gain(gain=run.report.own_gain(w))` is the gain that a guided run
contained, by noise level.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.one_pass import OnePass
from dg_tools.interventions.modes import at_sigma
from dg_tools.interventions.settings import Schedule, schedule
from dg_tools.models.dit import DiT

Of = Literal["velocity", "x0"]


class Gain(OnePass):
    """Velocity gain: `Gain(3.0, gain=1.1)` gives 1.1 (u + s (c - u)); `Gain(1.0, gain=1.05, of="x0")` 1.05 x0.

    Args:
        gain: the factor, more than 0: a number, or ((sigma, gain), ...), linear between the points. 0.8 to 1.3 in use.
            1 is off: bit-equal to the run without it.
        of: what is multiplied: the guided `velocity`, or the picture that it predicts, `x0` = z - sigma v.
        guidance_scale, others: as in `OnePass`.

    Raises:
        ValueError: a gain out of range, an unknown `of`, or x0 where the pipeline rescales the guided prediction
            (Qwen-Image).
    """

    short = "gain"

    def __init__(
        self, guidance_scale: float | None = None, *, gain: Schedule = 1.1, of: Of = "velocity", **others: Any
    ) -> None:
        factor = schedule(gain, "gain")
        if not all(value > 0 for value in factors(factor)):
            raise ValueError(f"gain={gain}; a factor, more than 0 (1 = off)")
        if of not in get_args(Of):
            raise ValueError(f"of={of!r}; allowed: {', '.join(get_args(Of))}")
        super().__init__(guidance_scale, gain=factor, of=of, **others)
        self.gain: Schedule = factor
        self.of = of

    @property
    def pushes(self) -> bool:
        """Whether the gain differs from 1."""
        return any(value != 1 for value in factors(self.gain))

    @property
    def named(self) -> str:
        """`gain 1.1`, `x0 gain 1.1`, `gain 1.05 to 1.12`."""
        ends = dict.fromkeys(f"{end(factors(self.gain)):.4g}" for end in (min, max))
        return f"{'x0 ' if self.of == 'x0' else ''}{self.short} {' to '.join(ends)}"

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `OnePass`, and ValueError for x0 where the pipeline rescales the guided prediction."""
        super().check(dit, steps, height, width)
        if self.of == "x0" and dit.family.rescaling:
            raise ValueError(f"of='x0' has no effect here: {dit.family.rescaling}. Pass of='velocity'")

    def given(
        self, prediction: torch.Tensor, inputs: dict[str, Any], call: Call, steps: int, scale: float
    ) -> torch.Tensor:
        """The prediction times the gain, row by row, so that CFG's sum is multiplied too."""
        factor = at_sigma(self.gain, call.sigma)
        louder = factor * prediction
        if self.of == "velocity":
            return louder
        z = inputs["hidden_states"]
        if z.shape != prediction.shape:
            raise ValueError(
                f"of='x0' needs z_t in the shape of the prediction, {tuple(prediction.shape)}; this pipeline's is "
                f"{tuple(z.shape)}: take of='velocity'"
            )
        return louder + (1 - factor) / call.sigma * z  # the velocity of gain (z - sigma v)


def factors(gain: Schedule) -> list[float]:
    """The factors of a number or a schedule."""
    return [float(gain)] if isinstance(gain, int | float) else [value for _, value in gain]
