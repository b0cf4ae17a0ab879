"""What else would do as much damage? Controls scaled until the x0 error is as large as the edit's.

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

from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.strength import solve
from dg_tools.interventions import Disrupt

Match = Literal["error", "output"]

TOLERANCE = 0.1  # a control whose harm is further than this from the edit's is not its equal: it leaves the null
SEARCH = 0.03  # of the error, on the pictures that the search is made on
LARGEST = 1000.0  # largest strength; a control that still does too little is given up


class Matched(NamedTuple):
    """Scaled controls, their strength a schedule over sigma, and a table of how the search went."""

    edits: list[Disrupt]
    table: pd.DataFrame


def matched_controls(
    noised: NoisedPictures,
    edit: Disrupt,
    controls: Sequence[Disrupt],
    sigmas: Sequence[float],
    *,
    match: Match = "error",
    batches: int = 1,
    tick: Callable[[], Any] = lambda: None,
) -> Matched:
    """Controls with the strength, at each sigma, at which they do as much harm as the edit.

    Args:
        noised: pictures under noise; the search uses the first `batches` of them.
        edit: what to match.
        controls: shifts, from `Disrupt.controls`.
        sigmas: each is matched separately, because an edit's harm depends on sigma.
        match: `error`: total x0 error above the clean run's, in pixels; `output`: mean ||v - v_clean||.
        tick: called after each control and sigma.

    Returns:
        The controls, scaled; and a table with control, sigma, matched (error or output), strength, target, searched
        (what the search reached, over the target).
    """
    strengths: list[list[tuple[float, float]]] = [[] for _ in controls]
    rows = []
    for sigma in sigmas:
        clean_v, clean_x = noised.predict(sigma, batches=batches)
        edit_v, edit_x = noised.predict(sigma, [edit], batches=batches)
        base = noised.error(clean_x).mean()
        harm = float(noised.error(edit_x).mean() - base)
        kind = match if harm > 0 else "output"

        target = harm if kind == "error" else distance(edit_v, clean_v)
        start = 1.0
        for i, one in enumerate(controls):

            def root(strength: float, one: Disrupt = one, kind: str = kind) -> float:
                scaled = replace(one, strength=strength)
                v, x = noised.predict(sigma, [scaled], batches=batches, pictures=kind == "error")  # noqa: B023
                if kind == "output":
                    return distance(v, clean_v)  # noqa: B023
                return max(float(noised.error(x).mean() - base), 0.0) ** 0.5  # noqa: B023

            goal = target**0.5 if kind == "error" else target  # an error's root grows about in line with the strength
            start, value = solve(root, goal, SEARCH, LARGEST, start)  # the next control's search begins here
            strengths[i].append((sigma, start))
            rows.append(
                {
                    "control": i,
                    "sigma": sigma,
                    "matched": kind,
                    "strength": start,
                    "target": target,
                    "searched": (value / goal) ** (2 if kind == "error" else 1),
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
        table: rows as `NoisedPictures.measure` gives them, with `variant`, `role` and `sigma`.
    """
    mean = table.groupby(["role", "variant", "sigma"], sort=False)["total"].mean()
    clean, edit = (mean.xs(role).droplevel("variant") for role in ("clean", "edit"))
    rows = [
        {"variant": variant, "sigma": sigma, "reached": (value - clean[sigma]) / (edit[sigma] - clean[sigma])}
        for (variant, sigma), value in mean.xs("control").items()
    ]
    return pd.DataFrame(rows)
