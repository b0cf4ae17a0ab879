"""Which guidances are compared, which number sets the strength of each, and which values are tried.

All that have a weight w are tried at the same values of w, all that have a CFG scale s only at as many values of s. The
values are set here, before any run; where in its range a method works best is for the search to find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dg_tools.guidance.baselines.registry import BASELINES
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT

WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of w: factors of two
SCALES = (1.25, 1.5, 2.0, 3.0, 4.5)  # of CFG's s
DG, DG_UNCOND = "DG", "DG uncond"
NAMES = (DG, DG_UNCOND, *BASELINES)


@dataclass(frozen=True)
class Method:
    """One guidance, whose strength is searched.

    Attributes:
        name: of `NAMES`.
        what: its strength: `w`, or the CFG scale `s`.
        values: that are tried, weakest first.
        make: the guider of a strength.
        weak: it guides away from a degraded prediction, which must differ from the model's own.
        price: passes per step, roughly: for a forecast.
    """

    name: str
    what: str
    values: tuple[float, ...]
    make: Callable[[float], Any]
    weak: bool
    price: float

    def words(self, value: float) -> str:
        """Its setting: `w 0.5`."""
        return f"{self.what} {value:g}"


def method_of(
    dit: DiT, name: str, edit: Disrupt | None, blocks: Sequence[int], weights: Sequence[float], scales: Sequence[float]
) -> Method:
    """One method by name; an error where it cannot run on this model.

    Raises:
        ValueError: DG without a disruption.
    """
    count = len(dit.blocks)
    if name in (DG, DG_UNCOND):
        if edit is None:
            raise ValueError("this model has no profile that names a weak model: pass disrupt=, or names= without DG")
        if name == DG:
            price = 1 + (count - edit.block - 1) / count
            return Method(name, "w", tuple(weights), lambda w: DetailGuidance(1.0, w, edit), True, price)
        return Method(name, "s", tuple(scales), lambda s: DetailGuidance(s, disrupt=edit, rows="uncond"), False, 2.0)
    baseline = BASELINES[name]
    if not baseline.takes_weight:
        return Method(name, "s", tuple(scales), partial(baseline.guider, blocks=list(blocks)), False, 2.0)
    price = 1.0 if baseline.free or name == "Blurred" else 2.0
    make = partial(baseline.guider, 1.0, blocks=list(blocks))
    return Method(name, "w", tuple(weights), make, baseline.weighted, price)


def methods(
    dit: DiT,
    edit: Disrupt | None,
    names: Sequence[str] | None,
    blocks: Sequence[int],
    weights: Sequence[float],
    scales: Sequence[float],
    steps: int,
    size: tuple[int, int],
) -> tuple[list[Method], list[str]]:
    """The methods, and a sentence about each that cannot run here.

    Args:
        dit: the model.
        edit: how DG's weak model is made.
        names: of `NAMES`; None: all that can run.
        blocks: for the methods that perturb or skip blocks.
        weights, scales: what is tried.
        steps, size: of the runs; height and width.

    Raises:
        ValueError: unknown or repeated names, another number of weights than of scales, values out of range; a method
            that was named and cannot run.
    """
    wanted = NAMES if names is None else tuple(names)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"names={list(wanted)}; name some of {', '.join(NAMES)}, each once")
    if len(weights) != len(scales) or len(set(weights)) < len(weights) or len(set(scales)) < len(scales) or not weights:
        raise ValueError(
            f"weights={list(weights)}, scales={list(scales)}; pass the same number of both, each value once"
        )
    if min(weights) <= 0 or min(scales) <= 1:
        raise ValueError(
            f"weights={list(weights)}, scales={list(scales)}; w must be above 0 and s above 1 (at these they are off)"
        )
    found, notes = [], []
    for name in wanted:
        try:
            method = method_of(dit, name, edit, blocks, sorted(weights), sorted(scales))
            for value in method.values:
                guider = method.make(value)
                if name != "CFG":
                    guider.check_scale(guider.guidance_scale)
                    guider.check(dit, steps, *size)
        except (ValueError, IndexError) as error:
            if names is not None:
                raise
            notes.append(f"without {name}: {error}")
        else:
            found.append(method)
    if not found:
        raise ValueError(f"no guidance can run on this model: {'; '.join(notes)}")
    return found, notes
