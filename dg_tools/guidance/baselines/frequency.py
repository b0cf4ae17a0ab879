"""CFG by band: the high band of c - u gets a scale of its own. It takes no more passes than CFG.

    FreSca   D = u + s (l low(c - u) + h high(c - u))
    FDG      D = low(u) + s low(c - u)  +  high(u) + s_high high(c - u)

FreSca (Huang et al., arXiv 2504.02154, `apply_fresca` of github.com/WikiChao/FreSca) leaves the low band as it is
(l = 1) and scales the high one by 1 < h < 1.5, on SDXL, SD3 and VideoCrafter2. Frequency-decoupled guidance (Sadat et
al., arXiv 2506.19713, algorithm 2) has one CFG scale for each band, s = 5 and s_high = 10 on SDXL (table 8), and may
weaken the part of each band's difference that lies along the conditional prediction.

Without that weakening the two are one formula: s_low = s l, s_high = s h. They differ in what stays fixed when the CFG
scale changes, and in how the authors split the bands: by a square of low frequencies (FreSca), or a Laplacian pyramid
(FDG, for which diffusers' guider needs kornia). Here both split at a radius in cycles per latent cell, by default where
the high band of `metrics.cell_bands` begins. So a band is the same at every size of picture, square or not. FreSca's
cut by a share of the energy is not implemented. The mean is in the low band. Splitting velocities or predicted pictures
x0 gives the same differences and sums; the part along c is the one along x0_c, as in the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.guiders.guider_utils import GuiderOutput

from dg_tools.guidance.baselines.combined import Combined
from dg_tools.metrics.bands import radius
from dg_tools.metrics.cell_bands import HIGH
from dg_tools.numbers import number


class ByBand(Combined):
    """CFG with one scale for the low band and another for the high band.

    Args:
        cutoff: where the high band begins, in cycles per latent cell: more than 0, at most 0.5.
        guidance_scale, others: as in `Combined`; further settings of the subclass.

    Raises:
        ValueError: a cutoff out of range.
    """

    def __init__(self, guidance_scale: float | None = None, *, cutoff: float = HIGH[0], **others: Any) -> None:
        if not 0 < number(cutoff, "cutoff") <= 0.5:
            raise ValueError(f"cutoff={cutoff}; in cycles per latent cell, more than 0 and at most 0.5")
        super().__init__(guidance_scale, cutoff=cutoff, **others)
        self.cutoff = cutoff

    @property
    def scales(self) -> tuple[float, float]:
        """Scales of the low and the high band; 1 leaves c as it is."""
        raise NotImplementedError

    def forward(
        self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None, pred_disrupted: Any = None
    ) -> GuiderOutput:
        """The guided velocity of the step in `seen`."""
        assert pred_uncond is not None
        difference = pred_cond.float() - pred_uncond.float()
        fine = self.fine(difference)
        low, high = self.scales
        pred = pred_uncond.float() + low * self.shift(difference - fine, pred_cond, False)
        pred = (pred + high * self.shift(fine, pred_cond, True)).to(pred_cond.dtype)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def fine(self, x: torch.Tensor) -> torch.Tensor:
        """The high band of predictions, in their own layout."""
        assert self.seen is not None
        return self.seen.on_grid(x, lambda field: high_pass(field, self.cutoff))

    def shift(self, band: torch.Tensor, cond: torch.Tensor, high: bool) -> torch.Tensor:
        """The part of one band of c - u that is scaled: here all of it."""
        return band


class FreSca(ByBand):
    """FreSca: `FreSca(3.0, high=1.25)` is CFG whose high band counts 1.25 times.

    Args:
        high: factor h on the high band of c - u, 0 and up; its authors: 1 < h < 1.5. 1 (with `low`) is plain CFG.
        low: factor l on the low band; its authors leave it at 1.
        guidance_scale, cutoff, others: as in `ByBand`.

    Raises:
        ValueError: a negative factor.

    Example:
        >>> FreSca(3.0, high=1.5).scales
        (3.0, 4.5)
    """

    short = "FreSca"

    def __init__(
        self,
        guidance_scale: float | None = None,
        *,
        high: float = 1.25,
        low: float = 1.0,
        cutoff: float = HIGH[0],
        **others: Any,
    ) -> None:
        for name, factor in (("high", high), ("low", low)):
            if not number(factor, name) >= 0:
                raise ValueError(f"{name}={factor}; a factor on a band of c - u, 0 and up (1 = plain CFG)")
        super().__init__(guidance_scale, cutoff=cutoff, high=high, low=low, **others)
        self.high = high
        self.low = low

    def words(self, scale: float) -> list[str]:
        """`FreSca 3 to 3.75`: the low band's scale, and the high one's."""
        return [f"{self.short} {scale * self.low:g} to {scale * self.high:g}"] if self._enabled else []

    @property
    def scales(self) -> tuple[float, float]:
        """As in `ByBand`."""
        return self.guidance_scale * self.low, self.guidance_scale * self.high


class FDG(ByBand):
    """Frequency-decoupled guidance: `FDG(2.0, high=4.0)`; the CFG scale is that of the low band.

    Args:
        high: CFG scale s_high of the high band, 1 and up; None: twice that of the low band, as in the paper.
        parallel: factor on the part of each band's difference along x0_c, 0..1; 1 leaves it as it is.
        guidance_scale, cutoff, others: as in `ByBand`.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> FDG(2.0).scales
        (2.0, 4.0)
    """

    short = "FDG"

    def __init__(
        self,
        guidance_scale: float | None = None,
        *,
        high: float | None = None,
        parallel: float = 1.0,
        cutoff: float = HIGH[0],
        **others: Any,
    ) -> None:
        if high is not None and not number(high, "high") >= 1:
            raise ValueError(f"high={high}; the CFG scale of the high band, 1 and up, or None for twice the low one's")
        if not 0 <= number(parallel, "parallel") <= 1:
            raise ValueError(f"parallel={parallel}; a factor, 0 to 1 (1 = as it is)")
        super().__init__(guidance_scale, cutoff=cutoff, high=high, parallel=parallel, **others)
        self.high = high
        self.parallel = parallel

    @property
    def scales(self) -> tuple[float, float]:
        """As in `ByBand`."""
        return self.guidance_scale, 2 * self.guidance_scale if self.high is None else self.high

    def words(self, scale: float) -> list[str]:
        """`FDG 2 to 4`: the low band's scale, and the high one's."""
        high = 2 * scale if self.high is None else self.high
        return [f"{self.short} {scale:g} to {high:g}"] if self._enabled else []

    def shift(self, band: torch.Tensor, cond: torch.Tensor, high: bool) -> torch.Tensor:
        """As in `ByBand`, with the part along x0_c times `parallel`."""
        if self.parallel == 1:
            return band
        assert self.seen is not None
        picture = self.seen.z.float() - self.seen.sigma * cond.float()
        fine = self.fine(picture)
        onto = fine if high else picture - fine
        dims = tuple(range(1, onto.ndim))
        size = onto.square().sum(dims, keepdim=True).clamp_min(torch.finfo(onto.dtype).tiny)
        along = (band * onto).sum(dims, keepdim=True) / size * onto
        return band + (self.parallel - 1) * along


def high_pass(x: torch.Tensor, cutoff: float) -> torch.Tensor:
    """The part of (..., h, w) at and above a cutoff in cycles per cell; the mean is always removed."""
    mask = (radius(x.shape[-2:]) >= cutoff).to(x.device)
    return torch.fft.ifft2(torch.fft.fft2(x.float()) * mask).real
