"""The rows about samples: from tables of numbers, one row per caption, to verdicts. No model, no data set.

A table has amt_c, amt, low, margin, found, amt_c_clean and low_clean, and right where there are references. All tables
have the same captions in the same order, or the first of them (the controls).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dg_tools.metrics import bootstrap_interval, bootstrap_ratio
from dg_tools.report import rules
from dg_tools.report.verdict import (
    FAILS,
    HOLDS,
    NOT_TESTED,
    REPORTED,
    UNDECIDED,
    Interval,
    Row,
    against,
    judged,
    not_tested,
    together,
    with_controls,
)

CONTRAST = "doublings at equal contrast"
RESAMPLED = 2000


@dataclass(frozen=True)
class Weak:
    """What is known of a weak model before any sample.

    Attributes:
        name: `zero` or `auto`. text: in words, with channels, block, rho and w.
        acts: median ||v_d - v|| / ||v||; NaN where there is no such weak model.
        why: why there is none.
    """

    name: str
    text: str = ""
    acts: float = float("nan")
    why: str = ""


@dataclass(frozen=True)
class Measured:
    """All runs of one column.

    Attributes:
        tables: by name of the run: cond, `weak, zero`, `DG, zero`, `gain 1.1`, `CFG 1.5`, `rho 0.5` ...
        weak: the weak models, in order.
        controls: tables of the control draws, by `weak, zero` or `DG, zero`.
    """

    tables: Mapping[str, pd.DataFrame]
    weak: Sequence[Weak]
    controls: Mapping[str, Sequence[pd.DataFrame]] = field(default_factory=dict)

    @property
    def captions(self) -> np.ndarray:
        """Labels of the rows of a whole table."""
        return np.arange(len(self.tables["cond"]))


def capable(measured: Measured) -> Row:
    """Whether the model draws what the captions say."""
    row = Row("capable", "", "The model draws what it is asked (found among all references).", "", unit="found")
    return judged(row, measured.tables["cond"]["found"], measured.captions, "above", rules.CAPABLE)


def rows(measured: Measured) -> list[Row]:
    """Every row about samples, the gate first."""
    gate = capable(measured)
    made = [gate]
    for weak in measured.weak:
        primaries = [row_a(measured, weak), row_b(measured, weak), row_c(measured, weak), row_d(measured, weak)]
        made += in_order(primaries)
        made.insert(-3, row_stays(measured, weak))
        if weak.name == "auto":
            made.append(row_curve(measured, weak))
        made.append(row_b(measured, weak, base="CFG 1.5", run=f"CFG 1.5 and DG, {weak.name}"))
    if gate.status == HOLDS:
        return made
    assert gate.number is not None
    reason = f"the model cannot do the task: {gate.number[0]:.1%} of its clean samples are found"
    return [gate, *(not_tested(row, reason, gate.number, "found") for row in made[1:])]


def in_order(primaries: Sequence[Row]) -> list[Row]:
    """The primaries, those after one that does not hold marked as exploratory."""
    made, confirmed = [], True
    for row in primaries:
        made.append(replace(row, exploratory=not confirmed))
        confirmed = confirmed and row.status in (HOLDS, REPORTED)
    return made


def gated(row: Row, measured: Measured, weak: Weak, needed: Sequence[str]) -> Row | None:
    """`not tested`, where the weak model is missing or inert or a run was not made; None where it can be tested."""
    if weak.why:
        return not_tested(row, weak.why)
    if not weak.acts >= rules.ACTS:
        number = (weak.acts, weak.acts, weak.acts)
        return not_tested(row, f"the edit hardly acts: {rules.ACTS:g} is required", number, "||v_d - v|| / ||v||")
    missing = [name for name in needed if name not in measured.tables]
    return not_tested(row, f"not run: {', '.join(missing)}") if missing else None


def row_a(measured: Measured, weak: Weak) -> Row:
    """(a) The weak model lacks detail, and the picture stays."""
    row = Row(f"{weak.name} a", "3", "The weak model lacks detail, and layout and colours stay.", "", unit=CONTRAST)
    run = f"weak, {weak.name}"
    if (closed := gated(row, measured, weak, [run])) is not None:
        return closed
    table, captions = measured.tables[run], measured.captions
    amount = bootstrap_interval(table["amt_c_clean"], captions)
    low = bootstrap_interval(table["low_clean"], captions)
    statuses = {
        "amt_c, against clean": against(amount, "below", rules.WEAK),
        "low with clean": against(low, "above", rules.LAYOUT),
    }
    made = replace(
        row,
        number=amount,
        bound=f"< {rules.WEAK:g}, low > {rules.LAYOUT:g}",
        status=together([*statuses.values()]),
        why=failing(statuses),
        parts={"low with clean": low},
    )
    return controlled(made, measured, run, "below", lambda t: float(t["amt_c_clean"].mean()))


def row_stays(measured: Measured, weak: Weak) -> Row:
    """The object that is drawn stays the same, by the margin of retrieval."""
    row = Row(f"{weak.name} stays", "3", "What is drawn stays (margin of retrieval).", "", unit="of the clean margin")
    run = f"weak, {weak.name}"
    if (closed := gated(row, measured, weak, [run])) is not None:
        return closed
    number = relative(measured.tables[run], measured.tables["cond"], measured.captions)
    return replace(row, number=number, bound=f"> {rules.MARGIN:g}", status=against(number, "above", rules.MARGIN))


def row_b(measured: Measured, weak: Weak, base: str = "cond", run: str = "") -> Row:
    """(b) DG gives detail, and nothing is lost."""
    plain = base == "cond"
    run = run or f"DG, {weak.name}"
    text = "DG gives detail, and nothing is lost." if plain else f"DG on {base} gives detail, and nothing is lost."
    row = Row(f"{weak.name} b" + ("" if plain else f", {base}"), "4", text, "", unit=CONTRAST)
    if (closed := gated(row, measured, weak, [base])) is not None:
        return closed
    captions, before = measured.captions, measured.tables[base]
    if (closed := lacking(row, before, captions, base)) is not None:
        return closed
    if (closed := gated(row, measured, weak, [run])) is not None:
        return closed
    guided = measured.tables[run]
    parts = differences(guided, before, captions)
    bounds = {"right": rules.RIGHT, "low": rules.LOW, "margin": rules.MARGIN}
    statuses = {"amt_c": against(parts["amt_c"], "above", rules.DETAIL)}
    statuses |= {name: against(parts[name], "above", bound) for name, bound in bounds.items() if name in parts}
    made = replace(
        row,
        number=parts["amt_c"],
        bound=f"> {rules.DETAIL:g}; " + ", ".join(f"{name} > {bound:g}" for name, bound in bounds.items()),
        status=together([*statuses.values()]),
        why=failing(statuses),
        parts={name: value for name, value in parts.items() if name != "amt_c"},
    )
    if not plain:
        return made
    return controlled(made, measured, run, "above", lambda t: float((t["amt_c"] - before["amt_c"][: len(t)]).mean()))


def row_c(measured: Measured, weak: Weak) -> Row:
    """(c) DG against a gain of its amount."""
    row = Row(f"{weak.name} c", "4", "DG gives more right detail than a gain of the same amount.", "", unit="of right")
    run = f"DG, {weak.name}"
    gains = {1.0: measured.tables["cond"]}
    gains |= {float(n.removeprefix("gain ")): t for n, t in measured.tables.items() if n.startswith("gain ")}
    if (closed := gated(row, measured, weak, [run])) is not None:
        return closed
    if (closed := lacking(row, measured.tables["cond"], measured.captions, "cond")) is not None:
        return closed
    if "right" not in measured.tables[run]:
        return not_tested(row, "there are no references")
    number, why = beside_gain(measured.tables[run], gains)
    if number is None:
        most = max(gains, key=lambda g: gains[g]["amt_c"].mean())
        reached = bootstrap_interval(gains[most]["amt_c"] - gains[1.0]["amt_c"], measured.captions)
        return not_tested(row, f"{why}; the most is that of gain {most:g}", reached, CONTRAST)
    _, low, high = number
    equal = -rules.EQUAL <= low and high <= rules.EQUAL
    status = HOLDS if low > rules.MORE else FAILS if high < rules.MORE else UNDECIDED
    words = "more than gain" if status == HOLDS else "equal" if equal else "less" if high < 0 else "undecided"
    return replace(row, number=number, bound=f"> {rules.MORE:g}", status=status, why=f"{words}; {why}")


def row_d(measured: Measured, weak: Weak) -> Row:
    """(d) DG against CFG at equal passes, reported."""
    cfg = f"CFG {rules.SCALES[0]:g}"
    row = Row(f"{weak.name} d", "4", f"DG minus {cfg}, which costs as much.", "", unit=CONTRAST)
    run = f"DG, {weak.name}"
    if (closed := gated(row, measured, weak, [run, cfg])) is not None:
        return closed
    parts = differences(measured.tables[run], measured.tables[cfg], measured.captions)
    rest = {name: value for name, value in parts.items() if name != "amt_c"}
    return replace(row, number=parts["amt_c"], status=REPORTED, parts=rest)


def row_curve(measured: Measured, weak: Weak) -> Row:
    """The dose sets the amount of detail, in either direction."""
    row = Row("curve", "3", "The dose sets the amount of detail.", "", unit="rank correlation of amt_c with rho")
    names = {rho: f"rho {rho:g}" if rho != 1 else "cond" for rho in rules.RHOS}
    if (closed := gated(row, measured, weak, [*names.values()])) is not None:
        return closed
    amounts = np.stack([measured.tables[name]["amt_c_clean"] for name in names.values()], axis=1)
    ranks = rankdata(amounts, axis=1) - (len(names) + 1) / 2
    doses = rankdata(rules.RHOS) - (len(names) + 1) / 2
    number = bootstrap_interval((ranks * doses).sum(1) / (doses**2).sum(), measured.captions)
    sign = "below" if number[0] < 0 else "above"
    status = against(number, "below" if number[0] < 0 else "above", rules.MONOTONE * (-1 if number[0] < 0 else 1))
    words = "more dose, less detail" if sign == "below" else "more dose, more detail"
    return replace(row, number=number, bound=f"beyond ±{rules.MONOTONE:g}", status=status, why=words)


# -- helpers ----------------------------------------------------------------------------------------------------------


def lacking(row: Row, base: pd.DataFrame, captions: np.ndarray, name: str) -> Row | None:
    """`not tested`, where the base lacks no detail."""
    amt = bootstrap_interval(base["amt"], captions)
    if amt[0] < rules.LACKS:
        return None
    return not_tested(row, f"the base ({name}) lacks no detail: amt below {rules.LACKS:g} is required", amt, "of amt")


def relative(table: pd.DataFrame, base: pd.DataFrame, captions: np.ndarray) -> Interval:
    """Change of the margin as a share of the base's mean margin."""
    return bootstrap_ratio(table["margin"] - base["margin"], base["margin"], captions)


def differences(table: pd.DataFrame, base: pd.DataFrame, captions: np.ndarray) -> dict[str, Interval]:
    """Paired differences: amt_c, right where there is one, low, and margin as a share of the base's."""
    names = [name for name in ("amt_c", "right", "low") if name in table]
    parts = {name: bootstrap_interval(table[name] - base[name], captions) for name in names}
    return parts | {"margin": relative(table, base, captions)}


def failing(statuses: Mapping[str, str]) -> str:
    """Which parts of a conjunction do not hold, in words."""
    said = [f"{name}: {status}" for name, status in statuses.items() if status != HOLDS]
    return "; ".join(said)


def controlled(
    row: Row, measured: Measured, run: str, direction: str, statistic: Callable[[pd.DataFrame], float]
) -> Row:
    """The row with its controls, on their captions; one that does not hold needs none."""
    if row.status != HOLDS:
        return row
    tables = measured.controls.get(run, [])
    if not tables:
        return replace(row, status=NOT_TESTED, why="its controls were not run")
    own = statistic(measured.tables[run].iloc[: len(tables[0])])
    return with_controls(row, own, "below" if direction == "below" else "above", [statistic(t) for t in tables])


def beside_gain(guided: pd.DataFrame, gains: Mapping[float, pd.DataFrame]) -> tuple[Interval | None, str]:
    """Right, DG minus the gain at its amt_c (interpolated, again in each resample); None where no gain has it."""
    target = guided["amt_c"].mean()
    for one, other in pairwise(sorted(gains)):
        ends = sorted((gains[one]["amt_c"].mean(), gains[other]["amt_c"].mean()))
        if ends[0] <= target <= ends[1] and ends[0] < ends[1]:
            break
    else:
        return None, "no gain has its amt_c"
    count = len(guided)
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLED, count))
    picks = np.vstack([np.arange(count), picks])

    def means(table: pd.DataFrame, column: str) -> np.ndarray:
        return np.asarray(table[column], float)[picks].mean(1)

    span = means(gains[other], "amt_c") - means(gains[one], "amt_c")
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (means(guided, "amt_c") - means(gains[one], "amt_c")) / span
    level = (1 - share) * means(gains[one], "right") + share * means(gains[other], "right")
    values = means(guided, "right") - level
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    at = one + float(share[0]) * (other - one)
    return (float(values[0]), float(low), float(high)), f"a gain of {at:.2f}"
