"""What else would do as much damage? Controls scaled until they harm as much as the edit.

Every perturbation of a denoiser hurts high frequencies more than low ones, and the more so the larger it is. So a
control says something about selectivity only at the same harm: its strength is searched, at each sigma, until its
total x0 error over the same pictures is the edit's. Where the edit does no harm at all (its error is not above the
clean run's), no control can be scaled to it, and the change of the velocity, mean ||v - v_clean||, is matched instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch

from dg_tools.experiments.pairs import Pairs
from dg_tools.interventions import Disrupt

Match = Literal["error", "output"]

TOLERANCE = 0.1  # a control whose harm is further than this from the edit's is no equal: it leaves the null
SEARCH = 0.03  # the search stops here, on the pictures that it is made on
LARGEST = 256.0  # strength at which a control that still does too little is given up


class Found(NamedTuple):
    """Where a search ended."""

    strength: float
    value: float
    evaluations: int


def strength_for(
    effect: Callable[[float], float], target: float, start: float = 1.0, tolerance: float = SEARCH, most: int = 10
) -> Found:
    """The strength at which a growing `effect` reaches `target`: a secant in logarithms, kept inside its bracket.

    Args:
        effect: of a strength; grows with it, at least roughly; may be below zero where the strength is small.
        target: above zero.
        start: first strength tried.
        tolerance: relative, of the effect.
        most: evaluations; then the best one so far is returned, and its `value` says how near it is.

    Raises:
        ValueError: a target that is not above zero.
    """
    if not target > 0:
        raise ValueError(f"target={target}: an effect above zero is needed to scale a control to it")
    below, above, best, before = 0.0, float("inf"), Found(start, float("nan"), 0), None
    strength, power = start, 2.0  # error grows with the square of a small perturbation
    for count in range(1, most + 1):
        value = effect(strength)
        if not abs(value - target) >= abs(best.value - target):
            best = Found(strength, value, count)
        if abs(value - target) <= tolerance * target:
            return Found(strength, value, count)
        below, above = (max(below, strength), above) if value < target else (below, min(above, strength))
        if before is not None and value > 0 and before[1] > 0 and value != before[1]:
            slope = torch.tensor([value / before[1], strength / before[0]]).log()
            power = min(max(float(slope[0] / slope[1]), 0.5), 4.0)
        before = (strength, value)
        factor = (target / value) ** (1 / power) if value > 0 else 4.0
        strength *= min(max(factor, 1 / 16), 16.0)
        if not below < strength < above:  # outside of what is known: the middle, in logarithms
            strength = (max(below, above / 64) * above) ** 0.5 if above < float("inf") else below * 2
        if strength > LARGEST:
            break
    return best._replace(evaluations=count)


class Matched(NamedTuple):
    """Scaled controls, their strength a schedule over sigma, and a table of how the search went."""

    edits: list[Disrupt]
    table: pd.DataFrame


def matched_controls(
    pairs: Pairs,
    edit: Disrupt,
    controls: Sequence[Disrupt],
    sigmas: Sequence[float],
    *,
    match: Match = "error",
    batches: int = 1,
    tick: Callable[[], Any] = lambda: None,
) -> Matched:
    """Controls with the strength, at each sigma, at which they do what the edit does.

    Args:
        pairs: pictures under noise; the search uses the first `batches` of them.
        edit: what to match.
        controls: shifts, from `Disrupt.controls`.
        sigmas: each is matched apart, because an edit's harm is spread over sigma in its own way.
        match: `error`: total x0 error above the clean run's, in pixels; `output`: mean ||v - v_clean||.
        tick: called after each control and sigma.

    Returns:
        The controls, scaled; and a table with control, sigma, matched (error or output), strength, target, searched
        (what the search reached, over the target) and evaluations.
    """
    strengths: list[list[tuple[float, float]]] = [[] for _ in controls]
    rows = []
    for sigma in sigmas:
        clean_v, clean_x = pairs.predict(sigma, batches=batches)
        edit_v, edit_x = pairs.predict(sigma, [edit], batches=batches)
        base = pairs.error(clean_x).mean()
        harm = float(pairs.error(edit_x).mean() - base)
        kind = match if harm > 0 else "output"

        def effect(one: Disrupt, strength: float, kind: str = kind, v: Any = clean_v, base: float = base) -> float:
            changed = replace(one, strength=strength)
            made_v, made_x = pairs.predict(sigma, [changed], batches=batches, pictures=kind == "error")  # noqa: B023
            return float(pairs.error(made_x).mean() - base) if kind == "error" else distance(made_v, v)

        target = harm if kind == "error" else distance(edit_v, clean_v)
        start = 1.0
        for i, one in enumerate(controls):
            found = strength_for(lambda s, one=one: effect(one, s), target, start)  # type: ignore[misc]
            start = found.strength  # the next control's search begins where this one's ended
            strengths[i].append((sigma, found.strength))
            rows.append(
                {
                    "control": i,
                    "sigma": sigma,
                    "matched": kind,
                    "strength": found.strength,
                    "target": target,
                    "searched": found.value / target,
                    "evaluations": found.evaluations,
                }
            )
            tick()
    edits = [replace(c, strength=tuple(points)) for c, points in zip(controls, strengths, strict=True)]
    return Matched(edits, pd.DataFrame(rows))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over items of ||a - b||."""
    return float((a - b).flatten(1).norm(dim=1).mean())


def reached(table: pd.DataFrame) -> pd.DataFrame:
    """What each scaled control reached over *all* pictures: extra total error over the edit's, by control and sigma.

    Args:
        table: rows as `Pairs.measure` gives them, with `variant`, `role` and `sigma`.
    """
    total = table.groupby(["role", "variant", "sigma", "picture", "seed"], sort=False)["error"].sum()
    mean = total.groupby(["role", "variant", "sigma"], sort=False).mean()
    clean, edit = (mean.xs(role).droplevel("variant") for role in ("clean", "edit"))
    rows = [
        {"variant": variant, "sigma": sigma, "reached": (value - clean[sigma]) / (edit[sigma] - clean[sigma])}
        for (variant, sigma), value in mean.xs("control").items()
    ]
    return pd.DataFrame(rows)
