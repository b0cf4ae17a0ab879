"""Two guidances that need no weak model: the same c and u as CFG, combined in another way.

APG (Sadat et al., arXiv 2410.02416) takes the update x0_c - x0_u, bounds its norm, and weakens its part along x0_c,
which it finds to saturate colours. CFG-Zero* (Fan et al., arXiv 2503.18886) scales u to fit c best, and leaves out the
first steps. Both use diffusers' own formula. APG gets the predicted pictures x0 = z - sigma v, on which the paper
defines it; on velocities the parallel part would differ. It uses the form c + (s - 1) update.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.guiders import BaseGuidance, ClassifierFreeZeroStarGuidance
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.guider_utils import GuiderOutput

from dg_tools.guidance.baselines.rival import WithoutWeakModel
from dg_tools.models.dit import DiT
from dg_tools.models.guider import without_experimental_notice


class Combined(WithoutWeakModel):
    """A guidance that combines c and u in another way than CFG.

    Args:
        guidance_scale: the usual CFG scale s, more than 1; None: in `dg.detail_guidance` the scale of the call.
        start, stop, enabled: as in `Guidance`.

    Raises:
        ValueError: a scale of 1 or less, which leaves nothing to combine.
    """

    def __init__(self, guidance_scale: float | None = None, **own: Any) -> None:
        super().__init__(guidance_scale, **own)
        if guidance_scale is not None:
            self.check_scale(guidance_scale)

    def check_scale(self, scale: float) -> None:
        """Raise ValueError without CFG."""
        if self._enabled and not scale > 1:
            raise ValueError(f"{self.short} at CFG scale {scale:g}: it combines c and u, so a scale above 1 is needed")

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise ValueError for a model that does not predict a velocity."""
        if dit.family.prediction != "velocity":
            raise ValueError(
                f"{self.short} needs a model that predicts velocities; family {dit.family.name!r} predicts "
                f"{dit.family.prediction}"
            )

    def words(self, scale: float) -> list[str]:
        """`APG 3`."""
        return [f"{self.short} {scale:g}"] if self._enabled else []

    def acts(self, step: int, steps: int) -> bool:
        """Whether a step lies in its window."""
        return self._enabled and self.inside(step, steps)

    @property
    def nonlinear(self) -> bool:
        """The result is not a plain sum."""
        return True


class APG(Combined):
    """Adaptive projected guidance: `APG(7.0, eta=0.0, norm=2.5, momentum=-0.5)`.

    Args:
        eta: factor on the part of the update along x0_c, 0..1; the paper's is 0.
        norm: the largest norm of the update, in latents (the paper's r); 0: no bound.
        momentum: momentum of the update over steps, more than -1 and less than 1; the paper's is negative; 0 is off.
        guidance_scale, others: as in `Combined`.

    Raises:
        ValueError: a value out of range.
    """

    short = "APG"

    def __init__(
        self,
        guidance_scale: float | None = None,
        *,
        eta: float = 0.0,
        norm: float = 0.0,
        momentum: float = 0.0,
        **others: Any,
    ) -> None:
        if not 0 <= eta <= 1 or not norm >= 0 or not -1 < momentum < 1:
            raise ValueError(
                f"eta={eta}, norm={norm}, momentum={momentum}; eta is 0 to 1, norm at least 0, and momentum "
                "lies between -1 and 1"
            )
        super().__init__(guidance_scale, eta=eta, norm=norm, momentum=momentum, **others)
        self.eta = eta
        self.norm = norm
        self.momentum = momentum
        self._past: MomentumBuffer | None = None
        self._last = -1

    def forward(
        self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None, pred_disrupted: Any = None
    ) -> GuiderOutput:
        """The guided velocity of the step in `seen`."""
        assert self.seen is not None and pred_uncond is not None
        if self.seen.step <= self._last or self._past is None:  # a new run
            self._past = MomentumBuffer(self.momentum) if self.momentum else None
        self._last = self.seen.step
        z, sigma = self.seen.z.float(), self.seen.sigma
        cond, uncond = z - sigma * pred_cond.float(), z - sigma * pred_uncond.float()
        guided = normalized_guidance(
            cond, uncond, self.guidance_scale - 1, self._past, self.eta, self.norm, use_original_formulation=True
        )
        pred = ((z - guided) / sigma).to(pred_cond.dtype)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)


class CFGZeroStar(Combined):
    """CFG-Zero*: `CFGZeroStar(3.0, zero_steps=1)`.

    Args:
        zero_steps: how many steps at the start have velocity zero, 0 and up.
        guidance_scale, others: as in `Combined`.

    Raises:
        ValueError: a negative count, or, at the run, as many as there are steps.
    """

    short = "CFG-Zero*"

    def __init__(self, guidance_scale: float | None = None, *, zero_steps: int = 1, **others: Any) -> None:
        if not zero_steps >= 0:
            raise ValueError(f"zero_steps={zero_steps}; the number of first steps that are left out is at least 0")
        super().__init__(guidance_scale, zero_steps=zero_steps, **others)
        self.zero_steps = zero_steps

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `Combined`, and ValueError where no step is left."""
        super().check(dit, steps, height, width)
        if steps is not None and self.zero_steps >= steps:
            raise ValueError(
                f"zero_steps={self.zero_steps} of {steps} steps: no step is left, so pass a smaller number"
            )

    def forward(
        self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None, pred_disrupted: Any = None
    ) -> GuiderOutput:
        """The guided velocity, by diffusers' own guider."""
        assert self.seen is not None
        with without_experimental_notice():
            theirs: BaseGuidance = ClassifierFreeZeroStarGuidance(self.guidance_scale, self.zero_steps)
        theirs.set_state(self.seen.step, self.seen.steps, torch.tensor(0))
        return theirs.forward(pred_cond, pred_uncond)
