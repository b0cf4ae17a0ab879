"""Other channels whose dose is searched until they move one step's velocity as much as an edit does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dg_tools.experiments.dose_outcomes import EQUAL
from dg_tools.experiments.dose_step import OneStep
from dg_tools.interventions import Disrupt


def control_of(edit: Disrupt, draw: int) -> Disrupt:
    """A draw of as many other channels, whose dose is to be found."""
    return replace(edit, rho=1.5, mode="scale", others=True, draw=draw, control=True)


def moved(steps: Sequence[OneStep], edit: Disrupt) -> list[float]:
    """The mean ||v - v_d|| of an edit at each noise level."""
    amounts = []
    for at in steps:
        with at.dit.running(), torch.no_grad():
            amounts.append(float(at.change(at.velocity(edit)).mean()))
    return amounts


def matched(steps: Sequence[OneStep], control: Disrupt, targets: Sequence[float]) -> dict[str, Any]:
    """The dose of a control by noise level, and its effect as a share of the target's; plain JSON."""
    points, ratios, factor = [], [], 1.0
    for at, target in zip(steps, targets, strict=True):
        with at.dit.running(), torch.no_grad():
            scaled, factor, ratio = at.scaled(control, target, factor)
        points.append([at.sigma, scaled.rho])
        ratios.append(ratio)
    return {"rho": points, "reached": ratios}


def as_matched(control: Disrupt, found: Mapping[str, Any]) -> Disrupt | None:
    """The control at the dose that `matched` found; None where it did not reach the target."""
    if max(abs(ratio - 1) for ratio in found["reached"]) > EQUAL:
        return None
    return replace(control, rho=tuple(map(tuple, found["rho"])))
