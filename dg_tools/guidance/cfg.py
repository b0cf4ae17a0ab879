"""Classifier-free guidance, by diffusers' own guider."""

from __future__ import annotations

from typing import Any

from diffusers.guiders import ClassifierFreeGuidance

from dg_tools.guidance.base import Guidance
from dg_tools.numbers import number


class CFG(ClassifierFreeGuidance, Guidance):
    """Classifier-free guidance, u + s (c - u): diffusers' own guider under a short name.

    Args:
        guidance_scale: the usual scale s; 1 is off (the paper's lambda is s - 1).
        guidance_rescale, use_original_formulation, start, stop, enabled: as in `diffusers.ClassifierFreeGuidance`.

    Raises:
        TypeError, ValueError: a scale that is not a finite number, or below 1; an empty window.

    Example:
        >>> dg.generate(dit, "red apple", steps=2, guidance=dg.CFG(3.0)).forwards
        [4]
    """

    guidance_scale: Any = 7.5  # diffusers' own attribute: in the original formulation it may be less than 1
    scale_is_set = True

    def __init__(
        self,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        guidance_scale = number(guidance_scale, "guidance_scale")
        if guidance_scale < 1 - bool(use_original_formulation):
            raise ValueError(f"guidance_scale={guidance_scale}; the usual CFG scale s is at least 1 (1 = off)")
        # by name: diffusers takes what comes by position for defaults, and does not copy it
        super().__init__(  # type: ignore[call-arg]  # mypy cannot see diffusers' class
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            use_original_formulation=use_original_formulation,
            start=start,
            stop=stop,
            enabled=enabled,
        )
