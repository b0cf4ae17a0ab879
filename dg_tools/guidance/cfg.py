"""Classifier-free guidance, by diffusers' own guider."""

from __future__ import annotations

from diffusers.guiders import ClassifierFreeGuidance

from dg_tools.guidance.base import without_experimental_notice


class CFG(ClassifierFreeGuidance):
    """Classifier-free guidance, u + s (c - u): diffusers' own guider, which is right, under a short name.

    Args:
        guidance_scale: the usual scale s; 1 is off (the paper's lambda is s - 1).
        guidance_rescale, use_original_formulation, start, stop, enabled: as in `diffusers.ClassifierFreeGuidance`.
    """

    def __init__(
        self,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        with without_experimental_notice():
            super().__init__(guidance_scale, guidance_rescale, use_original_formulation, start, stop, enabled)
