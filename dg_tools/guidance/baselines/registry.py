"""The table of baselines and their settings, for the command line, sweeps, recipes and experiments.

It has only names and facts: importing it does not load torch, and a baseline's class is loaded on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers.guiders import BaseGuidance

    from dg_tools.guidance.baselines.one_pass import OnePass
    from dg_tools.models.dit import DiT


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        name: its class name, as in recipes, sweep files and `dg-tools compare --with`.
        module: where the class is.
        weighted: it adds w (c - degraded) to CFG, so it takes a weight w and a window. Of the others, those without
            `strength` combine c and u in another way: they take only the CFG scale s, and need it above 1.
        in_blocks: it needs `blocks=`, which it perturbs or skips.
        weak_model: it can take another transformer as the weak model.
        any_family: it works on every family (APG, CFG-Zero*, FreSca, FDG, Gain and Detail Daemon where a velocity is
            predicted, S2-Guidance and SLG in the unconditional pass where blocks can be left out); the others on SD3,
            SD3.5 and FLUX.1 only.
        strength: for a baseline that works in the run's own passes at any CFG scale, the setting that a weight w sets.
        free: it costs no further pass and has nothing to choose, so it is shown beside every guidance.
        least, unit: that setting is `least` + `unit` w, so that w = 0 is off. For a gain, `unit` is 1/5: the same w as
            for a weak model with 0.8 of c.
        windowed: it takes the window of `guider`; Detail Daemon has its own bump.
        settings: further settings with their defaults.
    """

    name: str
    module: str
    weighted: bool = False
    in_blocks: bool = False
    weak_model: bool = False
    any_family: bool = False
    strength: str = ""
    free: bool = False
    least: float = 0.0
    unit: float = 1.0
    windowed: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_weight(self) -> bool:
        """Whether a weight w says how strong it is, besides the CFG scale."""
        return self.weighted or bool(self.strength)

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
        window: Sequence[float] | None = None,
        **settings: Any,
    ) -> BaseGuidance:
        """The guider, with those of these values that it takes; the others are ignored.

        Args:
            scale: the usual CFG scale s, 1 = off.
            weight: w, 0 = off; where `takes_weight`.
            blocks: indices into `dit.blocks`; where `in_blocks`, and needed there.
            window: (start, stop) of the degraded prediction, as fractions of the steps; where `takes_weight`, and
                `windowed`; None: the baseline's own.
            **settings: further ones of this baseline.

        Raises:
            ValueError: no blocks where they are needed, or what the guider itself refuses.
        """
        if self.strength:
            when = dict(zip(("start", "stop"), window, strict=True)) if self.windowed and window else {}
            return self.guidance(scale, **{self.strength: self.least + self.unit * weight, **when, **settings})
        if self.in_blocks:
            if blocks is None:
                raise ValueError(f"{self.name} needs blocks=, one or several indices into dit.blocks")
            settings["blocks"] = blocks
        if not self.weighted:
            return self.guidance(guidance_scale=scale, **settings)
        return self.guidance(scale, weight, **({"window": window} if window else {}), **settings)


HOME = "dg_tools.guidance.baselines"
BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline("CFG", "dg_tools.guidance.cfg", any_family=True),
        Baseline("PAG", f"{HOME}.pag", weighted=True, in_blocks=True),
        Baseline("SLG", f"{HOME}.slg", weighted=True, in_blocks=True),
        Baseline("SEG", f"{HOME}.seg", weighted=True, in_blocks=True, settings={"sigma": None}),
        Baseline("SoftPAG", f"{HOME}.soft_pag", weighted=True, in_blocks=True, settings={"mix": 0.5, "heads": None}),
        Baseline("S2Guidance", f"{HOME}.s2", weighted=True, any_family=True, settings={"share": 0.1, "seed": 0}),
        Baseline("SLGUncond", f"{HOME}.slg_uncond", in_blocks=True, any_family=True),
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
        Baseline("FreSca", f"{HOME}.frequency", any_family=True, settings={"high": 1.25, "low": 1.0, "cutoff": 0.25}),
        Baseline("FDG", f"{HOME}.frequency", any_family=True, settings={"high": None, "parallel": 1.0, "cutoff": 0.25}),
        Baseline("NAG", f"{HOME}.nag", strength="phi", unit=4.0, settings={"tau": 2.5, "alpha": 0.25}),
        Baseline(
            "Gain",
            f"{HOME}.gain",
            any_family=True,
            strength="gain",
            free=True,
            least=1.0,
            unit=0.2,
            settings={"of": "velocity"},
        ),
        Baseline(
            "DetailDaemon",
            f"{HOME}.daemon",
            any_family=True,
            strength="amount",
            free=True,
            windowed=False,
            settings={"start": 0.2, "stop": 0.8, "bias": 0.5, "exponent": 1.0, "smooth": True},
        ),
    )
}
RIVALS = tuple(name for name in BASELINES if name != "CFG")  # those in `dg.baselines`
IN_BLOCKS = tuple(name for name, baseline in BASELINES.items() if baseline.in_blocks)
ONE_PASS = tuple(name for name, baseline in BASELINES.items() if baseline.free)  # what every guidance must beat


def beside(dit: DiT, scale: float, weight: float, steps: int | None = None) -> tuple[dict[str, OnePass], list[str]]:
    """The guidances that cost nothing more and are shown beside every other: `Gain` and `DetailDaemon`.

    Args:
        dit: the model.
        scale: the usual CFG scale s, 1 = off.
        weight: w; 0 is off, and gives none.
        steps: of the run; None: the pipeline's default.

    Returns:
        Guiders by name, and a sentence about each that cannot run on this model.
    """
    guiders, notes = {}, []
    for name in ONE_PASS if weight else ():
        guider: Any = BASELINES[name].guider(scale, weight)
        try:
            guider.check(dit, dit.default_steps if steps is None else steps)
        except ValueError as error:
            notes.append(f"without {name}: {error}")
        else:
            guiders[name] = guider
    return guiders, notes
