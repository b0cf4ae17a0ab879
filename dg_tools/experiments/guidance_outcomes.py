"""The outcomes of a guidance experiment from its table: what DG improves, over what, beside which controls.

The margins come from what the quantities mean and are set before any run: a high-band correlation changes from one
hundredth of its range on, the high-band power from a tenth of a doubling on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.experiments.guidance_plan import Run
from dg_tools.experiments.perception_distortion import amount_and_rightness, difference
from dg_tools.experiments.result import Outcome

RIGHTNESS = 0.02  # high-band correlation: one hundredth of its range, -1..1
AMOUNT = 0.1  # doublings of high-band power: seven percent
COSINE = 0.5  # a quarter of a direction's power lies along the other
MARGINS = {"rightness": RIGHTNESS, "amount": AMOUNT}
UNITS = {"rightness": "high-band correlation", "amount": "doublings of high-band power"}


def run_name(plan: Sequence[Run], role: str, base: str) -> str:
    """Name of the first run of a role that is compared with a base."""
    return next(run.name for run in plan if run.role == role and run.base == base)


def outcomes(table: pd.DataFrame, directions: pd.DataFrame, plan: Sequence[Run]) -> list[Outcome]:
    """Effects of DG with CFG and without, at equal compute; beside what costs no further pass, and beside other
    degraded predictions; is it hidden CFG?
    """
    cond, cfg, windowed = [run.name for run in plan if run.role == "base"]
    draws = [run.name for run in plan if run.draw >= 0]
    control = "matched channels disrupted instead, at DG's norm in every step"
    dg, fair = run_name(plan, "DG", cfg), run_name(plan, "equal compute", cfg)
    claims = {
        "rightness": "DG+CFG buys right detail: its high band follows the own reference more than that of CFG with as "
        "many block calls",
        "amount": "DG+CFG buys the right amount of detail: its high-band power is nearer to the own reference's than "
        "that of CFG with as many block calls",
    }
    results = [
        change(table, dg, fair, what, claim, null=draws, control=control, primary=what == "rightness")
        for what, claim in claims.items()
    ]
    for base, words in ((cond, "without CFG"), (windowed, "both within one window")):
        ours, equal = run_name(plan, "DG", base), run_name(plan, "equal compute", base)
        for what in UNITS:
            detail = {"rightness": "right detail", "amount": "the right amount of detail"}[what]
            claim = f"DG buys {detail}, {words}, at equal block calls"
            results.append(change(table, ours, equal, what, claim, name=f"{what}, {words}"))
    alternatives = [r for r in plan if r.role == "control guidance" and r.base == cfg and r.guidance.norm_of]
    for run in alternatives:
        other = run.name.removeprefix(f"{cfg} + ").removesuffix(", norm of DG")
        for what in UNITS:
            claim = f"DG buys more {what} than guiding away from the {other} at the same norm per step"
            results.append(change(table, dg, run.name, what, claim, name=f"{what}, beside {other}"))
    for base, end in ((cfg, ""), (cond, ", without CFG")):
        ours = run_name(plan, "DG", base)
        for run in [r for r in plan if r.role == "one pass" and r.base == base]:
            for what in UNITS:
                claim = f"DG buys more {what} than {run.name}, which costs no further pass"
                name = f"{what}, beside {run.name.removeprefix(f'{cfg} + ')}{end}"
                results.append(change(table, ours, run.name, what, claim, name=name))
    across = next(r.name for r in plan if r.role == "part of DG" and r.base == cfg and r.guidance.part == "across")
    for what in UNITS:
        claim = f"without its part along CFG, DG buys as much {what}"
        results.append(
            change(table, across, dg, what, claim, name=f"{what}, CFG direction removed", direction="within")
        )
    return [*results, hidden_cfg(directions, dg, draws)]


def change(
    table: pd.DataFrame,
    rule: str,
    base: str,
    what: str,
    claim: str,
    *,
    null: Sequence[str] = (),
    name: str = "",
    **settings: Any,
) -> Outcome:
    """A rule over a base in rightness (rise of the correlation) or amount (fall of the amount error)."""
    values, prompts = improvement(table, rule, base, what)
    controls = [float(np.mean(improvement(table, draw, base, what)[0])) for draw in null]
    settings = {"direction": "above", "margin": MARGINS[what], "unit": UNITS[what], **settings}
    return Outcome.from_values(name or what, claim, values, prompts, null=controls, **settings)


def improvement(table: pd.DataFrame, rule: str, base: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The same picture by picture, with the pictures' prompts."""
    column, sign = {"rightness": ("high_correlation", 1), "amount": ("amount_error", -1)}[what]
    values, prompts = difference(table, rule, base, column)
    return sign * values, prompts


def hidden_cfg(directions: pd.DataFrame, dg: str, draws: Sequence[str]) -> Outcome:
    """Is c - d the direction of CFG? Mean cosine over the steps, along the run's own trajectory."""
    cosines = directions[(directions["quantity"] == "cosine") & (directions["with"] == "u")]

    def of(rule: str) -> pd.Series:
        part = cosines[(cosines["rule"] == rule)]
        return part.groupby(["prompt", "seed"])["value"].mean()

    ours = of(dg)
    return Outcome.from_values(
        "hidden CFG",
        "DG is hidden CFG: c - d points along c - u",
        ours.to_numpy(),
        ours.index.get_level_values("prompt").to_numpy(),
        null=[float(of(draw).mean()) for draw in draws],
        control="c - d' of matched channels along their own runs",
        unit="cosine",
        direction="above",
        margin=COSINE,
    )


def sentences(comparison: pd.DataFrame, model: str) -> list[str]:
    """What DG improves on this model, amount and rightness always side by side; then the sweep."""
    words = {"gained": "comes nearer", "lost": "moves away", "same": "stays", "undecided": "is undecided"}
    lines = []
    for row in comparison[comparison["varied"] == ""].to_dict("records"):
        lines.append(
            f"{model}, {row['rule']} against {row['base']}: the amount of detail {words[row['amount_is']]} "
            f"({row['amount']:+.3f} doublings, {row['amount_low']:+.3f} to {row['amount_high']:+.3f}); its rightness "
            f"{words[row['rightness_is']].replace('comes nearer', 'rises').replace('moves away', 'falls')} "
            f"({row['rightness']:+.3f} of correlation, {row['rightness_low']:+.3f} to {row['rightness_high']:+.3f})"
        )
    sweep = comparison[comparison["varied"] != ""]
    if len(sweep):
        for what in UNITS:
            best = sweep.loc[sweep[what].idxmax()]
            lines.append(
                f"exploratory, over the sweep: DG buys most {what} at {best['varied']} "
                f"({best[what]:+.3f}, {best[f'{what}_low']:+.3f} to {best[f'{what}_high']:+.3f})"
            )
    return lines


def compare(table: pd.DataFrame, plan: Sequence[Run]) -> pd.DataFrame:
    """`amount_and_rightness` at equal compute: of DG over each base with more steps, of what costs no further pass over
    each base as it is; and of the sweep over CFG with as many steps as DG.
    """
    pairs = [(r.name, run_name(plan, "equal compute", r.base), "") for r in plan if r.role == "DG"]
    pairs += [(r.name, r.base, r.varied) for r in plan if r.role in ("one pass", "sweep")]
    comparison = amount_and_rightness(table, [(rule, base) for rule, base, _ in pairs], MARGINS)
    return comparison.assign(varied=[varied for _, _, varied in pairs])
