"""Detail Daemon: in mid-run the model gets a lower noise level than the latents have, and so removes less noise.

By muerrilla (github.com/muerrilla/sd-webui-detail-daemon), for flow models in Jonseed's and blepping's port
(github.com/Jonseed/ComfyUI-Detail-Daemon, `detail_daemon_node.py`), which is followed here, and written anew. The level
sigma becomes sigma' = sigma max(1e-6, 1 - 0.1 m s), where m is a bump over the steps and s the CFG scale. There the
model is a denoiser, x0 = z - sigma' v(z, sigma'), and the sampler divides by the true sigma. So the velocity used is
(sigma' / sigma) v(z, sigma'): the method has both the lower level and the smaller velocity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.one_pass import OnePass
from dg_tools.numbers import number

UNIT = 0.1  # of sigma, for an amount of 1 without CFG


class DetailDaemon(OnePass):
    """Detail Daemon: `DetailDaemon(3.0, amount=0.5)`; more detail for an amount above 0, less below.

    Args:
        amount: height of the bump, the authors' `detail_amount`: -5 to 5; 0 is off, 0 to 1 work best.
        start, stop: of the bump, as fractions of the steps (their `start`, `end`).
        bias: place of its top between start and stop, 0 to 1.
        exponent: exponent of its flanks.
        start_offset, end_offset: the value of m before and after the bump, where its flanks begin and end.
        fade: share by which m is reduced, 0 to 1.
        smooth: flanks as cosines, not as lines.
        cfg_scale: s of the formula; 0: the run's own CFG scale (their `cfg_scale_override`).
        guidance_scale, enabled: as in `OnePass`.

    Raises:
        ValueError: a setting out of range; a bump that no step of the run is in.
    """

    short = "daemon"

    def __init__(
        self,
        guidance_scale: float | None = None,
        *,
        amount: float = 0.1,
        start: float = 0.2,
        stop: float = 0.8,
        bias: float = 0.5,
        exponent: float = 1.0,
        start_offset: float = 0.0,
        end_offset: float = 0.0,
        fade: float = 0.0,
        smooth: bool = True,
        cfg_scale: float = 0.0,
        enabled: bool = True,
    ) -> None:
        offsets = {"start_offset": start_offset, "end_offset": end_offset}
        own = {"amount": amount, "bias": bias, "exponent": exponent, **offsets, "fade": fade, "cfg_scale": cfg_scale}
        ranges = {"amount": (-5, 5), "exponent": (0, 10), "cfg_scale": (0, 100)} | dict.fromkeys(offsets, (-1, 1))
        for name, value in own.items():
            low, high = ranges.get(name, (0, 1))
            if not low <= number(value, name) <= high:
                raise ValueError(f"{name}={value}; a number from {low} to {high} is needed")
        super().__init__(guidance_scale, start=start, stop=stop, enabled=enabled, smooth=smooth, **own)
        self.smooth = smooth
        self.amount = amount
        self.bias = bias
        self.exponent = exponent
        self.start_offset = start_offset
        self.end_offset = end_offset
        self.fade = fade
        self.cfg_scale = cfg_scale

    @property
    def pushes(self) -> bool:
        """Whether m differs from 0 in any step."""
        return bool(self.amount or self.start_offset or self.end_offset) and self.fade < 1

    @property
    def named(self) -> str:
        """`daemon 0.5`."""
        return f"{self.short} {self.amount:g}"

    def multipliers(self, steps: int) -> np.ndarray:
        """The multiplier m of each of `steps` steps.

        Example:
            >>> DetailDaemon(amount=0.5).multipliers(6).round(2).tolist()
            [0.0, 0.0, 0.5, 0.25, 0.0, 0.0]
        """
        m = np.zeros(steps)
        if steps < 2:
            return m
        top = self._start + self.bias * (self._stop - self._start)
        first, middle, last = (round(share * (steps - 1)) for share in (self._start, top, self._stop))
        m[:first], m[last + 1 :] = self.start_offset, self.end_offset
        rise = (first, middle, np.linspace(0, 1, middle - first + 1), self.start_offset)
        fall = (middle, last, np.linspace(1, 0, last - middle + 1), self.end_offset)
        for begin, end, height, offset in (rise, fall):  # the top is the first step of the fall
            shape = 0.5 * (1 - np.cos(np.pi * height)) if self.smooth else height
            m[begin : end + 1] = offset + (self.amount - offset) * shape**self.exponent
        return m * (1 - self.fade)

    def factor(self, step: int, steps: int, scale: float) -> float:
        """The ratio sigma' / sigma in step `step` of `steps`, in a run of CFG scale `scale`."""
        return max(1e-6, 1 - UNIT * float(self.multipliers(steps)[step]) * (self.cfg_scale or scale))

    def in_window(self, step: int, steps: int) -> bool:
        """Whether the model gets another level in a step."""
        return self._enabled and self.multipliers(steps)[step] != 0

    @property
    def widened(self) -> str:
        """The name of the window to widen if it contains no step."""
        return f"bump [{self._start}, {self._stop}]: widen it"

    def told(self, inputs: dict[str, Any], call: Call, steps: int, scale: float) -> dict[str, Any]:
        """The inputs with the lower level."""
        assert call.step is not None
        return {**inputs, "timestep": inputs["timestep"] * self.factor(call.step, steps, scale)}

    def given(
        self, prediction: torch.Tensor, inputs: dict[str, Any], call: Call, steps: int, scale: float
    ) -> torch.Tensor:
        """The velocity that leads from the true level to x0 = z - sigma' v."""
        assert call.step is not None
        return self.factor(call.step, steps, scale) * prediction

    def note(self, steps: int, scale: float) -> str:
        """The levels that the model was given, in a sentence."""
        factors = [self.factor(i, steps, scale) for i in range(steps) if self.in_window(i, steps)]
        return f"told sigma times {min(factors):.3g} to {max(factors):.3g}"
