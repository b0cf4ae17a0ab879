"""The measurements of the guidance experiment: perception and distortion of every planned run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dg_tools.experiments.direction_log import DirectionLog
from dg_tools.experiments.directions import ALWAYS, BLUR, WEAK
from dg_tools.experiments.guidance_alone import AgainstPlain
from dg_tools.experiments.guidance_plan import Run
from dg_tools.experiments.perception_distortion import Truth, distortion, perception
from dg_tools.experiments.sampling_loop import sample
from dg_tools.experiments.sampling_step import Source
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures as decoded
from dg_tools.progress import progress_bar


@dataclass
class Measurements:
    """What was measured on the plan's runs, as tidy tables.

    Attributes:
        table: one row per run and picture: distortion, or the changes from the plain samples.
        runs: the plan, with costs.
        perception: of the pictures as a set, one row per run; empty where prompts have no pictures.
        directions, spectra, maps: of the `DirectionLog`s.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    perception: pd.DataFrame
    directions: pd.DataFrame
    spectra: pd.DataFrame
    maps: pd.DataFrame


def measure(
    dit: DiT,
    plan: Sequence[Run],
    sources: Mapping[str, Source],
    prompts: list[str],
    seeds: list[int],
    truth: Truth | AgainstPlain,
    call: dict[str, Any],
    progress: bool,
) -> Measurements:
    """Sample and measure every run of the plan, against references or against the plain samples."""
    tables, costs, sets, directions, spectra, maps = [], [], [], [], [], []
    for run in progress_bar(progress, iterable=plan, desc="guidance", unit="run"):
        rule = run.guidance
        log = log_of(run)
        result = sample(dit, prompts, seeds, rule, sources=sources, steps=run.steps, observe=log, **call)
        pictures = decoded(dit, result.latents, batch=call["batch"])
        about = {"rule": run.name, "role": run.role, "base": run.base, "draw": run.draw, "varied": run.varied}
        columns = truth.columns(run, pictures) if isinstance(truth, AgainstPlain) else distortion(pictures, truth)
        tables.append(pd.DataFrame({**about, "prompt": prompts, "seed": seeds, **columns}))
        calls, forwards = result.cost.block_calls / len(prompts), result.cost.forwards / len(prompts)
        costs.append({**about, "steps": run.steps, "block_calls": calls, "forwards": forwards})
        if isinstance(truth, Truth):
            sets.append({**about, **perception(dit, pictures, truth, call["batch"])})
        if log is not None:
            directions.append(log.table(prompts, seeds).assign(rule=run.name))
        if log is not None and log.fields:
            spectra.append(log.spectra().assign(rule=run.name))
            maps.append(log.maps().assign(rule=run.name))
    return Measurements(
        pd.concat(tables, ignore_index=True),
        pd.DataFrame(costs),
        pd.DataFrame(sets),
        pd.concat(directions, ignore_index=True),
        pd.concat(spectra, ignore_index=True),
        pd.concat(maps, ignore_index=True),
    )


def log_of(run: Run) -> DirectionLog | None:
    """The log of a run: all directions along cond and CFG, one along DG+CFG and the control draws, else none."""
    rule = run.guidance
    if run.role == "base" and rule.cfg_window == ALWAYS:
        pairs = [("d", "u"), ("d", BLUR), ("d", WEAK), ("d", "control 0"), (BLUR, "u"), ("control 0", "u")]
        return DirectionLog(["u", "d", BLUR, WEAK, "control 0"], pairs, rule.blur_sigma)
    if run.draw >= 0 or (run.role == "DG" and rule.scale > 1 and rule.window == ALWAYS):
        return DirectionLog(["u", rule.degraded], [(rule.degraded, "u")], fields=False)
    return None
