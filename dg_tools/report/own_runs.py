"""The samples of a report on a model without references: every run, and controls where they can change a verdict."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pandas as pd

from dg_tools.guidance.baselines import Gain
from dg_tools.guidance.cfg import CFG
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.report import own_rows, rules, samples
from dg_tools.report.extent import Extent
from dg_tools.report.own_channels import Side
from dg_tools.report.own_samples import COND, OwnSamples
from dg_tools.report.own_weak import Chosen, knob_of
from dg_tools.report.sample_rows import Measured
from dg_tools.report.samples import Setting
from dg_tools.report.stages import Unit

MATCHED = 4  # pictures of the first part on which controls are scaled


def always(setting: Setting, start: int) -> Setting:
    """The same setting for each chunk."""
    return setting


def own_gain(drawn: OwnSamples, name: str, start: int) -> Setting:
    """The gain that a run contained in the chunk that begins at a prompt."""
    return (), Gain(1.0, gain=tuple(map(tuple, drawn.own_gain[name][start])))


def has_cfg(drawn: OwnSamples) -> bool:
    """Whether the pipeline has classifier-free guidance."""
    return drawn.dit.family.guidance_argument in drawn.dit.takes


def draw_all(drawn: OwnSamples, chosen: Chosen) -> None:
    """Every run but the controls; the base is drawn already."""
    if has_cfg(drawn):
        drawn.base(own_rows.CFG, ((), CFG(rules.OWN_CFG)), against=COND)
    for name, (edit, w) in chosen.edits.items():
        told = [edit.to_json(), w]
        if name == "auto" and chosen.edits.get("zero") == (edit, w):  # nothing is run twice
            copy(drawn, "zero", "auto")
            continue
        drawn.run(f"weak, {name}", partial(always, ((edit,), None)), told)
        drawn.run(f"DG, {name}", partial(always, ((), DetailGuidance(1.0, w, edit))), told, weight=w)
        gains = [factor for points in drawn.own_gain[f"DG, {name}"].values() for _, factor in points]
        if min(gains) > 0:
            drawn.run(f"its gain, {name}", partial(own_gain, drawn, f"DG, {name}"), [told, "its gain"])
        if has_cfg(drawn):
            guider = DetailGuidance(rules.OWN_CFG, w, edit)
            drawn.run(f"{own_rows.CFG} and DG, {name}", partial(always, ((), guider)), told, base=own_rows.CFG)
    knob = knob_of(chosen)
    for rho in rules.RHOS:
        if knob is not None and rho != 1:
            edit = replace(knob, rho=rho)
            drawn.run(f"rho {rho:g}", partial(always, ((edit,), None)), edit.to_json())


def copy(drawn: OwnSamples, name: str, twin: str) -> None:
    """The runs of a weak model under the name of another one that is the same."""
    kept: list[dict[str, Any]] = [drawn.tables, drawn.price, drawn.first, drawn.against, drawn.own_gain]
    for one in kept:
        for key in [k for k in one if k.endswith(f", {name}")]:
            one[key.removesuffix(name) + twin] = one[key]


def draw_controls(
    drawn: OwnSamples, side: Side, chosen: Chosen, measured: Measured, extent: Extent
) -> dict[str, list[pd.DataFrame]]:
    """The controls of the rows that hold without them, by run; and of the weak model that is shown one in any case.

    Args:
        drawn: samples of the second part. side: the first part, on which controls are scaled.
        chosen: the weak models. measured: all runs but the controls.
        extent: how many controls.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, (edit, w) in chosen.edits.items():
        wanted = own_rows.needs_controls(measured, name)
        if name == "auto" and chosen.edits.get("zero") == (edit, w):
            tables |= {f"{kind}, auto": tables[f"{kind}, zero"] for kind in wanted}
            continue
        count = extent.draws if wanted else int(name == chosen.main)
        controls = matched(drawn, side, edit, count)
        if name == chosen.main and controls:
            draw = next(iter(controls))
            control_run(drawn, name, "DG", draw, controls[draw], w, extent)
        for kind in wanted:
            tables[f"{kind}, {name}"] = [
                control_run(drawn, name, kind, draw, control, w, extent) for draw, control in controls.items()
            ]
    return tables


def control_run(
    drawn: OwnSamples, name: str, kind: str, draw: int, control: Disrupt, w: float, extent: Extent
) -> pd.DataFrame:
    """One control's samples: of the weak model, or of Detail Guidance away from it."""
    setting: Setting = ((), DetailGuidance(1.0, w, control)) if kind == "DG" else ((control,), None)
    told = [control.to_json(), w]
    return drawn.run(f"control {draw}, {kind}, {name}", partial(always, setting), told, count=extent.control_prompts)


def matched(drawn: OwnSamples, side: Side, edit: Disrupt, count: int) -> dict[int, Disrupt]:
    """`count` draws of as many other channels, scaled to the edit's ||v - v_d||; only those that reach it."""
    pairs = side.everything[:MATCHED]

    @cache
    def steps() -> tuple[Any, list[float]]:
        levels = samples.one_steps(drawn.dit, pairs)
        return levels, samples.moved(levels, edit)

    def make(draw: int) -> Unit:
        levels, targets = steps()
        return Unit(samples.matched(levels, samples.control_of(edit, draw), targets))

    jobs = {f"draw {draw}": partial(make, draw) for draw in range(count)}
    units = drawn.stages.each("matching", jobs, [side.depends, edit.to_json()])
    found = {i: samples.as_matched(samples.control_of(edit, i), units[f"draw {i}"].values) for i in range(count)}
    return {draw: control for draw, control in found.items() if control is not None}
