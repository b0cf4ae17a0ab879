"""Would any perturbation that changes the prediction as much do the same? Controls brought to the same effect.

Every perturbation of a denoiser harms high frequencies most, and a larger one harms them more. So an edit is selective
only if it is more selective than controls that move the prediction as much: the same mean ||v - v_edit|| at the same
z_t. The size of a control that gets there is not known beforehand; `strength` searches it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from dg_tools.experiments.strength import solve
from dg_tools.interventions import Disrupt
from dg_tools.interventions.validation import WITH_STRENGTH
from dg_tools.models.dit import DiT
from dg_tools.onestep import velocity
from dg_tools.progress import progress_bar


@torch.no_grad()
def output_change(
    dit: DiT, edit: Disrupt, noised: torch.Tensor, sigma: float, inputs: dict[str, Any], clean: torch.Tensor
) -> torch.Tensor:
    """||v - v_edit|| for each picture, (N,), at the same z_t; `clean` is v, as `onestep.velocity` gives it."""
    edited = velocity(dit, noised, sigma, inputs, [edit])
    return (edited.double() - clean.double()).flatten(1).norm(dim=1)


def match_output(
    dit: DiT,
    edit: Disrupt,
    controls: Sequence[Disrupt],
    noised: torch.Tensor,
    sigma: float,
    inputs: dict[str, Any],
    *,
    tolerance: float = 0.01,
    largest: float = 1000.0,
    progress: bool = False,
) -> list[Disrupt]:
    """The controls with the `strength` at which they change the velocity by as much as the edit does.

    Matched is the mean over pictures of ||v - v_control||, all of them in one forward; single pictures differ.

    Args:
        dit: the model.
        edit: sets the target.
        controls: of a mode with a strength: shift, shift_direction or dc (`edit.controls(20)`).
        noised, sigma, inputs: z_t (N, C, h, w), its noise level and the conditions, as in `onestep.velocity`.
        tolerance: relative, of the mean.
        largest: strength up to which is searched.
        progress: show a bar.

    Raises:
        ValueError: no controls, a control without a strength, an edit or a control of certain steps (here there are
            noise levels), or an edit that changes nothing.
        RuntimeError: a control does not reach the target; the message says how far it got.
    """
    if not controls:
        raise ValueError("no controls to match: pass edit.controls(20)")
    for one in (edit, *controls):
        one.check(dit, None, *dit.picture_size(noised))
        if one.steps is not None:
            raise ValueError(f"{one.sentence()}: a single forward has a noise level and no steps")
    for control in controls:
        if control.mode not in WITH_STRENGTH:
            raise ValueError(f"{control.sentence()}: only mode {', '.join(WITH_STRENGTH)} has a strength to match with")
    with torch.no_grad(), dit.running():
        clean = velocity(dit, noised, sigma, inputs)
    target = output_change(dit, edit, noised, sigma, inputs, clean).mean().item()
    if not target > 0 or not math.isfinite(target):
        raise ValueError(f"{edit.sentence()}: it changes the prediction by {target:.3g}, so there is nothing to match")
    matched: list[Disrupt] = []
    for control in progress_bar(progress, list(controls), desc="matching"):

        def change(strength: float, control: Disrupt = control) -> float:
            scaled = replace(control, strength=strength)
            return output_change(dit, scaled, noised, sigma, inputs, clean).mean().item()

        start = matched[-1].strength if matched and matched[-1].mode == control.mode else 1.0  # draws are alike
        strength, reached = solve(change, target, tolerance, largest, float(start))  # type: ignore[arg-type]
        if abs(reached - target) > tolerance * target:
            raise RuntimeError(
                f"{control.sentence()}: at strength {strength:.3g} it changes the prediction by "
                f"{reached:.4g}, the edit by {target:.4g}; no strength up to {largest:g} comes within "
                f"{tolerance:.0%}: leave this control out, match a weaker edit, or pass a larger tolerance"
            )
        matched.append(replace(control, strength=strength))
    return matched
