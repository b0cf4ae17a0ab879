"""Which baselines are there, and what does each take? One row per baseline, for CLI, sweeps, recipes and experiments.

Only names and facts: importing this module does not load torch, and a baseline's class is loaded on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers.guiders import BaseGuidance


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        name: of its class, as in recipes, sweep files and `dg-tools compare --with`.
        module: where the class is.
        weighted: it adds w (c - degraded) to CFG, so that it takes a weight w and a window. The others combine c and u
            in another way: they take the CFG scale s only, and need it above 1.
        in_blocks: it needs `blocks=`, which it perturbs.
        weak_model: it can take another transformer as the weak model.
        any_family: it works on every family (APG and CFG-Zero* where a velocity is predicted); the others on SD3, SD3.5
            and FLUX.1 only.
        settings: further settings with their defaults.
    """

    name: str
    module: str
    weighted: bool = False
    in_blocks: bool = False
    weak_model: bool = False
    any_family: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def guidance(self) -> type[BaseGuidance]:
        """Its class."""
        return getattr(importlib.import_module(self.module), self.name)

    def guider(
        self,
        scale: float,
        weight: float = 1.0,
        *,
        blocks: int | Sequence[int] | None = None,
        window: Sequence[float] = (0.0, 1.0),
        **settings: Any,
    ) -> BaseGuidance:
        """The guider with those of these values that it takes; the others are not used.

        Args:
            scale: the usual CFG scale s, 1 = off.
            weight: w, 0 = off; where `weighted`.
            blocks: indices into `dit.blocks`; where `in_blocks`, and needed there.
            window: (start, stop) of the degraded prediction, as fractions of the steps; where `weighted`.
            **settings: further ones of this baseline.

        Raises:
            ValueError: no blocks where they are needed, or what the guider itself refuses.
        """
        if not self.weighted:
            return self.guidance(guidance_scale=scale, **settings)
        if not self.in_blocks:
            return self.guidance(scale, weight, window=window, **settings)
        if blocks is None:
            raise ValueError(f"{self.name} needs blocks=, one or several indices into dit.blocks")
        return self.guidance(scale, weight, blocks=blocks, window=window, **settings)


HOME = "dg_tools.guidance.baselines"
BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline("CFG", "dg_tools.guidance.cfg", any_family=True),
        Baseline("PAG", f"{HOME}.pag", weighted=True, in_blocks=True),
        Baseline("SLG", f"{HOME}.slg", weighted=True, in_blocks=True),
        Baseline("SEG", f"{HOME}.seg", weighted=True, in_blocks=True, settings={"sigma": None}),
        Baseline(
            "AutoGuidance",
            f"{HOME}.auto_guidance",
            weighted=True,
            weak_model=True,
            any_family=True,
            settings={"noise": 0.1, "seed": 0},
        ),
        Baseline("Blurred", f"{HOME}.blurred", weighted=True, settings={"sigma": 1.0}),
        Baseline("APG", f"{HOME}.combined", any_family=True, settings={"eta": 0.0, "norm": 0.0, "momentum": 0.0}),
        Baseline("CFGZeroStar", f"{HOME}.combined", any_family=True, settings={"zero_steps": 1}),
    )
}
RIVALS = tuple(name for name in BASELINES if name != "CFG")  # those in `dg.baselines`
IN_BLOCKS = tuple(name for name, baseline in BASELINES.items() if baseline.in_blocks)
