"""Choose a setting by an objective, and report it on prompts that were not used to choose it.

There are two objectives, both stated before anything is run; a lower cost is better.

    amount   cost = mean over pictures of |log2(high-band power / its reference's)|, in doublings: the right amount
             of detail. Guard: the mean high-band correlation with the reference may not fall by more than 0.02 below
             that of the unguided pictures from the same noise; else wrong detail could bring the right amount.
    detail   for a model without references: cost = - mean of log2(high-band share of all power), the most detail.
             Guard: the mean low-band correlation with the unguided picture from the same noise may not fall under
             1 - 0.1, so that layout and colour stay. It cannot tell detail from noise: look at the pictures.

Among the settings of each guidance that hold the guard, the one of least cost on the development prompts is chosen;
equal costs go to fewer block calls. Every guidance has the same number of settings. The chosen ones, and `cond`, then
run on the test prompts, which had no part in the choice.

Bands are in cycles per latent cell, without the mean (`metrics.cell_bands`): low below 1/8, high from 1/4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.metrics import bootstrap_interval
from dg_tools.sweeps.settings import Setting


@dataclass(frozen=True)
class Objective:
    """The objective of a choice.

    Attributes:
        cost, guard: columns of the table, one value per picture.
        margin: by default, how far the guard's mean may fall below that of `cond`.
        words: the formula in words, for a profile.
        unit: of the cost.
    """

    cost: str
    guard: str
    margin: float
    words: str
    unit: str


OBJECTIVES = {
    "amount": Objective(
        "amount_error",
        "high_correlation",
        0.02,
        "least mean |log2(high-band power / own reference's)| of the settings whose mean high-band correlation with "
        "the own reference falls by no more than {margin:g} under the unguided pictures' from the same noise",
        "doublings",
    ),
    "detail": Objective(
        "detail_lack",
        "layout",
        0.1,
        "most mean log2(high-band share of all power) of the settings whose mean low-band correlation with the "
        "unguided picture from the same noise is at least 1 - {margin:g}; cannot tell detail from noise",
        "doublings",
    ),
}


def scores(table: pd.DataFrame, settings: Sequence[Setting], objective: str, margin: float) -> pd.DataFrame:
    """One row per setting: mean cost and guard on the development prompts, how far the guard falls, and `allowed`.

    Columns: `number` (of the setting), the setting's own, `cost`, `guard`, `fall`, `allowed`, `block_calls` (per
    picture), `pictures`. A setting with a picture that is not finite has no cost and is not allowed.
    """
    rule = OBJECTIVES[objective]
    rows = []
    for number, part in table[table["split"] == "development"].groupby("number"):
        cost, guard = part[rule.cost].to_numpy(float), part[rule.guard].to_numpy(float)
        about = {"number": number, **settings[int(number)].to_json(), "name": str(settings[int(number)])}
        calls = float(part["block_calls"].mean())
        rows.append({**about, "cost": cost.mean(), "guard": guard.mean(), "block_calls": calls, "pictures": len(part)})
    scored = pd.DataFrame(rows)
    scored["fall"] = float(scored.loc[scored["number"] == 0, "guard"].iloc[0]) - scored["guard"]
    scored["allowed"] = np.isfinite(scored["cost"]) & (scored["fall"] <= margin)
    return scored


def best(scored: pd.DataFrame) -> dict[str, int | None]:
    """Number of the chosen setting by guidance; None where no setting holds the guard. `cond` has nothing to choose."""
    numbers: dict[str, int | None] = {"cond": 0}
    for guidance, part in scored[scored["number"] > 0].groupby("guidance", sort=False):
        allowed = part[part["allowed"]].sort_values(["cost", "block_calls", "number"])
        numbers[str(guidance)] = int(allowed["number"].iloc[0]) if len(allowed) else None
    return numbers


def report(table: pd.DataFrame, chosen: dict[str, int | None], objective: str) -> pd.DataFrame:
    """Each guidance's chosen setting on the test prompts, with 95% intervals clustered by prompt.

    Columns: guidance, number, `cost`; `gain_over_X` for X = cond and every other guidance chosen: its cost minus this
    one's on the same noise (more than 0: this one is better); `guard_change`: the guard minus that of `cond`. Each with
    `_low` and `_high`.
    """
    rule, rows = OBJECTIVES[objective], []
    test = table[table["split"] == "test"]
    values = {}
    for guidance, number in chosen.items():
        if number is not None:
            values[guidance] = test[test["number"] == number].set_index(["prompt", "seed"]).sort_index()
    for guidance, own in values.items():
        prompts = own.index.get_level_values("prompt").to_numpy()
        row: dict[str, Any] = {"guidance": guidance, "number": chosen[guidance]}
        row |= interval("cost", own[rule.cost].to_numpy(float), prompts)
        for other, theirs in values.items():
            if other != guidance:
                change = theirs[rule.cost].to_numpy(float) - own[rule.cost].to_numpy(float)
                row |= interval(f"gain_over_{other}", change, prompts)
        change = own[rule.guard].to_numpy(float) - values["cond"][rule.guard].to_numpy(float)
        rows.append(row | interval("guard_change", change, prompts))
    return pd.DataFrame(rows)


def worse_than(report: pd.DataFrame) -> list[str]:
    """Guidances that are better than the chosen Detail Guidance on the test prompts, by whole intervals."""
    rows = report[report["guidance"] == "DG"]
    others = [g for g in report["guidance"] if g != "DG"]
    return [g for g in others if len(rows) and rows.iloc[0][f"gain_over_{g}_high"] < 0]


def recommendation(choice: Setting | None, report: pd.DataFrame) -> str:
    """The recommendation in words; nothing if the test prompts show the choice to be worse than another guidance."""
    if choice is None:
        return "no setting of Detail Guidance holds the objective's guard"
    if worse := worse_than(report):
        return f"nothing: the best setting of Detail Guidance ({choice}) is worse than {', '.join(worse)}"
    return str(choice)


def verdict(report: pd.DataFrame) -> str:
    """Whether the chosen Detail Guidance beats the other guidances, in words, by the intervals on the test prompts."""
    rows = report[report["guidance"] == "DG"]
    if not len(rows):
        return "no setting of Detail Guidance holds the objective's guard"
    row, words = rows.iloc[0], []
    for other in [g for g in report["guidance"] if g != "DG"]:
        gain, low, high = (row[f"gain_over_{other}{end}"] for end in ("", "_low", "_high"))
        how = "better than" if low > 0 else "worse than" if high < 0 else "not shown to differ from"
        words.append(f"{how} {other} ({gain:+.3f} [{low:+.3f}, {high:+.3f}])")
    return "on the test prompts Detail Guidance is " + ", ".join(words)


def interval(name: str, values: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
    """A mean and its interval, as columns."""
    value, low, high = bootstrap_interval(values, prompts)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def profile_of(
    setting: Setting, scored: pd.DataFrame, report: pd.DataFrame, objective: str, margin: float, about: dict[str, Any]
) -> dict[str, Any]:
    """The chosen Detail Guidance as a profile: `DetailGuidance(disrupt=...)` and `.from_profile` read it."""
    row = scored[scored["name"] == str(setting)].iloc[0]
    test = report[report["guidance"] == "DG"].iloc[0].drop(["guidance", "number"]).dropna().to_dict()
    return {
        "model": about["model"],
        "channels": list(setting.channels),
        "block": setting.block,
        **({} if setting.rho is None else {"mode": "scale", "rho": setting.rho}),
        "guidance_scale": setting.s,
        "detail_guidance_scale": setting.w,
        "window": list(setting.window),
        "objective": OBJECTIVES[objective].words.format(margin=margin),
        "source": f"dg_tools.sweeps: {int((scored['guidance'] == 'DG').sum())} settings of each guidance on "
        f"{about['development']} development prompts, reported on {about['test']} others",
        "development": {"cost": row["cost"], "guard_fall": row["fall"], "unit": OBJECTIVES[objective].unit},
        "test": test,
        "verdict": verdict(report),
        "weights": about["weights"],
        "steps": about["steps"],
    }
