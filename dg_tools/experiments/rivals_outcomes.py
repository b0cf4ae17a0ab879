"""From numbers by picture to a choice, a row and a verdict for each guidance. No model.

A guidance *gives detail and loses nothing* if the lower bounds of its changes from no guidance are above +0.10
doublings of detail at equal contrast, -0.02 of rightness, -0.01 of the low band's correlation, and -5% of the base's
margin of retrieval: the bounds of the evidence (`evidence/rules.md`), set before anything was run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.experiments.result import Outcome
from dg_tools.experiments.rivals_plan import DG, Method
from dg_tools.metrics import bootstrap_interval, bootstrap_ratio

DETAIL, RIGHT, LOW, MARGIN = 0.10, -0.02, -0.01, -0.05
LACKS = -0.1  # doublings of amt: a base below it lacks detail
ACTS = 0.10  # ||d - c|| / ||c||: a degraded prediction that is nearer to c is hardly one
PARTS = {"amt_c": DETAIL, "right": RIGHT, "low": LOW, "margin": MARGIN}
UNITS = {
    "amt_c": "doublings at equal contrast",
    "right": "high-band correlation",
    "low": "low-band correlation",
    "margin": "of the base's margin",
}
CLAIMS = {
    "amt_c": "gives detail",
    "right": "keeps the detail as right as it was",
    "low": "keeps layout and colours",
    "margin": "keeps what is drawn",
}
HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not hold", "undecided", "not tested"


def mean_changes(numbers: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    """Mean changes from the base by `PARTS`, the margin as a share of the base's."""
    means = {name: float(np.mean(numbers[name]) - np.mean(base[name])) for name in PARTS}
    return means | {"margin": means["margin"] / abs(float(np.mean(base["margin"])) or 1.0)}


def search_row(method: Method, value: float, numbers: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The row of one value that was tried on the search prompts."""
    changes = mean_changes(numbers, base)
    lost = [name for name in ("right", "low", "margin") if not changes[name] > PARTS[name]]
    amount = float(np.mean(numbers["amt_c"]))
    price = {name: numbers[name] for name in ("passes", "seconds", "change")}
    about = {"method": method.name, "setting": method.words(value), "value": value}
    return {**about, "amount": amount, **changes, **price, "loses": ", ".join(lost)}


def choose(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Among the values that lose nothing, the one whose amount of detail is nearest to the references'; if all lose
    something, the weakest.

    Args:
        rows: of `search_row`, weakest first.
    """
    kept = [row for row in rows if not row["loses"]]
    return min(kept, key=lambda row: abs(row["amount"])) if kept else rows[0]


def intervals(table: pd.DataFrame, base: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Paired changes from the base with 95% intervals over prompts, by `PARTS`."""
    prompts = base["prompt"].to_numpy()
    found = {name: bootstrap_interval(table[name] - base[name], prompts) for name in PARTS if name != "margin"}
    return found | {"margin": bootstrap_ratio(table["margin"] - base["margin"], base["margin"], prompts)}


def outcomes_of(
    method: str, table: pd.DataFrame, base: pd.DataFrame, null: Sequence[float], primary: bool
) -> list[Outcome]:
    """The four parts of the claim about one method; `null`: the changes of detail of its control draws."""
    made = []
    for name, (estimate, low, high) in intervals(table, base).items():
        own = tuple(null) if name == "amt_c" else ()
        control = "DG away from other channels that move the velocity as much" if own else "none"
        claim = f"{method} {CLAIMS[name]}"
        about = (f"{method}: {name}", claim, estimate, low, high, UNITS[name])
        made.append(Outcome(*about, "above", PARTS[name], own, control, primary and name == "amt_c"))
    return made


def lacking(base: pd.DataFrame) -> tuple[float, float, float]:
    """The base's amount of detail, as it is, with its interval."""
    return bootstrap_interval(base["amt"], base["prompt"].to_numpy())


def verdict(parts: Sequence[Outcome], method: Method, change: float | None, base_amount: float) -> tuple[str, str]:
    """The verdict in a word or two, and why."""
    if not base_amount < LACKS:
        return NOT_TESTED, f"without guidance amt is {base_amount:+.2f}: that lacks no detail"
    if method.weak and change is not None and not change >= ACTS:
        return NOT_TESTED, f"the degraded prediction hardly differs: {change:.3f} of c"
    statuses = {part.name.rpartition(": ")[2]: part.status for part in parts}
    why = "; ".join(f"{name}: {status}" for name, status in statuses.items() if status != "holds")
    if "fails" in statuses.values():
        return FAILS, why
    if statuses["amt_c"] == "no more than controls":
        return "controls do the same", why
    return (UNDECIDED, why) if why else (HOLDS, "")


def row(
    method: Method,
    chosen: Mapping[str, Any],
    numbers: Mapping[str, Any],
    parts: Sequence[Outcome],
    said: tuple[str, str],
) -> dict[str, Any]:
    """One line of the table."""
    cells: dict[str, Any] = {"method": method.name, "setting": chosen["setting"], "tried": len(method.values)}
    for part in parts:
        name = part.name.rpartition(": ")[2]
        cells |= {name: part.estimate, f"{name}_from": part.low, f"{name}_to": part.high}
    price = {name: numbers[name] for name in ("passes", "forwards", "seconds", "change")}
    return {**cells, **price, "verdict": said[0], "why": said[1], "search loses": chosen["loses"]}


def words(table: pd.DataFrame, model: str, count: int) -> str:
    """The verdict over all methods, in one or two sentences."""
    kinds = []
    for kind in dict.fromkeys([HOLDS, *table["verdict"]]):
        own = table[table["verdict"] == kind].sort_values("amt_c", ascending=False)
        names = [
            f"{r['method']} ({r['setting']}, {r['amt_c']:+.2f}, {r['passes']:.3g} passes)" for _, r in own.iterrows()
        ]
        kinds.append(f"{kind}: {', '.join(names) or 'none'}")
    return f"{model}, {count} prompts that chose nothing: gives detail and loses nothing, {'; '.join(kinds)}."


def dg_beside(table: pd.DataFrame) -> str:
    """DG's line in words, where there is one, with its rank among the methods by detail."""
    if DG not in set(table["method"]):
        return ""
    order = table.sort_values("amt_c", ascending=False)["method"].tolist()
    own = table[table["method"] == DG].iloc[0]
    return f"DG gives {own['amt_c']:+.2f} doublings at {own['setting']}, number {order.index(DG) + 1} of {len(order)}"
