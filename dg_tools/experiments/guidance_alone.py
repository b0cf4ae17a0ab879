"""Guidances where prompts have no pictures: what does DG change, in amount of detail and in meaning?

Without references, neither the right amount of detail nor the right detail is known. So each run is compared with the
plain sample from the same noise: the signed change of detail at equal contrast, by band (`prompts_alone`). That DG
keeps what is drawn is non-inferiority: the margins of CLIP and DINO where their weights are on this machine, and the
low band, against the run that DG is added to. All bounds are set beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.experiments.guidance_outcomes import hidden_cfg, run_name
from dg_tools.experiments.guidance_plan import Run
from dg_tools.experiments.perception_distortion import difference, judgement
from dg_tools.experiments.prompts_alone import AMOUNT, UNIT, changes
from dg_tools.experiments.result import Outcome
from dg_tools.experiments.semantics import Score
from dg_tools.metrics import bootstrap_interval, low_correlation

LAYOUT = 0.9  # correlation of the low band with that of the run that DG is added to
QUESTION = "What does Detail Guidance change: the amount of detail, or what is drawn? Is it hidden CFG?"
CONTROL = "matched channels disrupted instead, at DG's norm in every step"


class AgainstPlain:
    """Measures runs of a plan, in its order: against the plain samples, and against each run's own base.

    Args:
        cell: pixels of a latent cell.
        prompts: one for each picture.
        scores: further scores by name.
    """

    def __init__(self, cell: int, prompts: list[str], scores: Mapping[str, Score]) -> None:
        self.cell = cell
        self.prompts = prompts
        self.scores = scores
        self.bases: dict[str, torch.Tensor] = {}

    def columns(self, run: Run, pictures: torch.Tensor) -> dict[str, np.ndarray]:
        """One value per picture, (N,): `prompts_alone.changes` from the plain sample; low_band and scores against the
        run's base (a base against itself).
        """
        if run.role == "base":
            self.bases[run.name] = pictures
        plain, base = next(iter(self.bases.values())), self.bases[run.base or run.name]
        columns = changes(pictures, plain, self.cell)
        columns["low_band"] = low_correlation(pictures, base, self.cell).double().numpy()
        for name, score in self.scores.items():
            columns[name] = score.of(pictures, self.prompts, base).double().numpy()
        return columns


def outcomes(
    table: pd.DataFrame, directions: pd.DataFrame, plan: Sequence[Run], bounds: Mapping[str, float]
) -> list[Outcome]:
    """What DG adds in detail at equal compute, beside its controls and what costs no further pass; what is kept.

    `bounds`: of further scores, by name.
    """
    cond, cfg, windowed = [run.name for run in plan if run.role == "base"]
    draws = [run.name for run in plan if run.draw >= 0]
    dg, fair = run_name(plan, "DG", cfg), run_name(plan, "equal compute", cfg)

    def change(name: str, claim: str, rule: str, base: str, column: str = "amount", **more: Any) -> Outcome:
        values, prompts = difference(table, rule, base, column)
        settings = {"unit": UNIT, "direction": "above", "margin": AMOUNT, **more}
        return Outcome.from_values(name, claim, values, prompts, **settings)

    def drawn(column: str) -> dict[str, Any]:
        return {"null": [float(difference(table, d, fair, column)[0].mean()) for d in draws], "control": CONTROL}

    more = "DG+CFG has more detail at equal contrast than CFG with as many block calls"
    found = [change("amount", more, dg, fair, primary=True, **drawn("amount"))]
    for column in (c for c in table.columns if c.startswith("amount ")):
        band = column.removeprefix("amount ")
        claim = f"{more}, {band} cycle per latent cell"
        found.append(change(f"amount, {band}", claim, dg, fair, column, **drawn(column)))
    for base, words in ((cond, "without CFG"), (windowed, "both within one window")):
        ours, equal = run_name(plan, "DG", base), run_name(plan, "equal compute", base)
        claim = f"DG gives more detail at equal contrast, {words}, at equal block calls"
        found.append(change(f"amount, {words}", claim, ours, equal))
    for run in plan:
        other = run.name.removeprefix(f"{cfg} + ").removesuffix(", norm of DG")
        if run.role == "control guidance" and run.base == cfg and run.guidance.norm_of:
            claim = f"DG gives more detail than guiding away from the {other} at the same norm per step"
            found.append(change(f"amount, beside {other}", claim, dg, run.name))
        if run.role == "one pass" and run.base in (cond, cfg):
            end = ", without CFG" if run.base == cond else ""
            claim = f"DG gives more detail than {run.name}, which costs no further pass"
            found.append(change(f"amount, beside {other}{end}", claim, run_name(plan, "DG", run.base), run.name))
    across = next(r.name for r in plan if r.role == "part of DG" and r.base == cfg and r.guidance.part == "across")
    claim = "without its part along CFG, DG gives as much detail"
    found.append(change("amount, CFG direction removed", claim, across, dg, direction="within"))
    return [*found, *kept(table, dg, cfg, bounds), hidden_cfg(directions, dg, draws)]


def kept(table: pd.DataFrame, dg: str, cfg: str, bounds: Mapping[str, float]) -> list[Outcome]:
    """Whether DG+CFG draws what CFG draws: no worse by more than a bound."""
    rows = table[table["rule"] == dg]
    found = [
        Outcome.from_values(
            "low_band",
            "DG keeps the low band of CFG's picture",
            rows["low_band"].to_numpy(),
            rows["prompt"].to_numpy(),
            unit="correlation of the low band",
            direction="above",
            margin=LAYOUT,
            control="none: non-inferiority",
        )
    ]
    for name, bound in bounds.items():
        values, prompts = difference(table, dg, cfg, name)
        worse = name == "lpips"  # a distance
        found.append(
            Outcome.from_values(
                name,
                f"DG does not worsen {name} against CFG",
                values,
                prompts,
                unit=f"{name}, change",
                direction="below" if worse else "above",
                margin=bound if worse else -bound,
                control="none: non-inferiority",
            )
        )
    return found


def compare(table: pd.DataFrame, plan: Sequence[Run]) -> pd.DataFrame:
    """One row per pair of runs: rule, base, varied; amount (of the rule minus of the base, doublings) with its interval
    and in one word (gained, lost, same, undecided); low_band, with the picture of the rule's base.

    The pairs: DG against each base with more steps; what costs no further pass, and the sweep, against their base.
    """
    pairs = [(r.name, run_name(plan, "equal compute", r.base), "") for r in plan if r.role == "DG"]
    pairs += [(r.name, r.base, r.varied) for r in plan if r.role in ("one pass", "sweep")]
    low_band = table.groupby("rule")["low_band"].mean()
    rows = []
    for rule, base, varied in pairs:
        value, low, high = bootstrap_interval(*difference(table, rule, base, "amount"))
        row = {"rule": rule, "base": base, "amount": value, "amount_low": low, "amount_high": high}
        row |= {"amount_is": judgement(low, high, AMOUNT), "low_band": float(low_band[rule]), "varied": varied}
        rows.append(row)
    return pd.DataFrame(rows)


def sentences(comparison: pd.DataFrame, model: str) -> list[str]:
    """What each guidance changes on this model; then the sweep."""
    words = {"gained": "more", "lost": "less", "same": "as much", "undecided": "undecided, whether more or less"}
    lines = [
        f"{model}, {row['rule']} against {row['base']}: {words[row['amount_is']]} detail at equal contrast "
        f"({row['amount']:+.3f} doublings, {row['amount_low']:+.3f} to {row['amount_high']:+.3f}); the low band "
        f"correlates by {row['low_band']:.3f}"
        for row in comparison[comparison["varied"] == ""].to_dict("records")
    ]
    sweep = comparison[comparison["varied"] != ""]
    if len(sweep):
        best = sweep.loc[sweep["amount"].idxmax()]
        lines.append(
            f"exploratory, over the sweep: DG adds most detail at {best['varied']} ({best['amount']:+.3f} doublings, "
            f"{best['amount_low']:+.3f} to {best['amount_high']:+.3f})"
        )
    return lines
