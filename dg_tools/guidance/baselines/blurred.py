"""Blurred-prediction guidance: the weak prediction is the predicted picture, blurred; no weak model is needed.

The x0 of the degraded prediction is that of c, x0 = z - sigma c, blurred in latents. It costs no second forward, and w
(c - degraded) is unsharp masking of x0: x0 + w (x0 - blur x0). It is our own baseline, the simplest rival of any
guidance that claims detail.
"""

from __future__ import annotations

from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.perturbed import Again, Perturbed
from dg_tools.guidance.baselines.smooth import gaussian_blur
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import packed, spatial


class Blurred(Perturbed):
    """Guidance away from the blurred prediction: `Blurred(3.0, 0.5, sigma=1.0)`.

    Args:
        sigma: standard deviation of the blur, in latent cells.
        guidance_scale, weight, others: as in `Perturbed`.

    Raises:
        ValueError: sigma that is not positive.
    """

    short = "blur"

    def __init__(
        self, guidance_scale: float | None = None, weight: float = 1.0, *, sigma: float = 1.0, **others: Any
    ) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma={sigma}; a width in latent pixels, more than 0")
        super().__init__(guidance_scale, weight, sigma=sigma, **others)
        self.sigma = sigma

    def degraded(self, dit: DiT, rows: dict[str, Any], cond: torch.Tensor, call: Call, again: Again) -> torch.Tensor:
        """The velocity of the blurred x0; no forward."""
        side = dit.pixels_per_token
        height, width = (side * n for n in dit.family.grid(dit.transformer, rows))
        z, velocity = (spatial(dit, x.float(), height, width) for x in (rows["hidden_states"], cond))
        x0 = z - call.sigma * velocity
        return packed(dit, (z - gaussian_blur(x0, self.sigma)) / call.sigma).to(cond.dtype)
