"""The rows about samples of a model without references, by the rules of *A model of your own*. No model, no data set.

A table has amt_c (amount against the base's own sample), low (its low band's correlation with it) and margin, and the
same two as amt_c_clean and low_clean. `sample_rows` has the rows that are the same with references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dg_tools.metrics import bootstrap_interval
from dg_tools.report import rules, sample_rows
from dg_tools.report.sample_rows import CONTRAST, Measured, Weak
from dg_tools.report.verdict import HOLDS, NOT_TESTED, REPORTED, Row, against, judged, not_tested, together

CFG = f"CFG {rules.OWN_CFG:g}"
BARE = "its controls were not run"


def rows(measured: Measured, capable: Row, main: str, has_cfg: bool) -> list[Row]:
    """Every row about samples, the gate first.

    Args:
        measured: all runs. capable: the gate.
        main: the weak model at whose block the dose is varied; empty where there is none.
        has_cfg: whether the pipeline has classifier-free guidance.
    """
    made = []
    for weak in measured.weak:
        a, b, c, d = sample_rows.in_order(
            [
                sample_rows.row_a(measured, weak),
                row_b(measured, weak),
                row_c(measured, weak),
                row_d(measured, weak, has_cfg),
            ]
        )
        about = [a, row_stays(measured, weak), b, c, d, row_on_cfg(measured, weak, has_cfg)]
        made += [replace(row, text=f"{row.text} Weak model: {rules.WEAK_MODELS[weak.name]}.") for row in about]
    dosed = next((weak for weak in measured.weak if weak.name == main), measured.weak[-1])
    made.append(sample_rows.row_curve(measured, dosed))
    if capable.status == HOLDS:
        return [capable, *made]
    reason = f"it is not shown that the model draws pictures ({capable.why})"
    return [capable, *(not_tested(row, reason, capable.number, capable.unit) for row in made)]


def needs_controls(measured: Measured, name: str) -> list[str]:
    """Of a weak model, the runs whose row holds, controls aside: `weak`, `DG`."""
    weak = next(weak for weak in measured.weak if weak.name == name)
    about = {"weak": sample_rows.row_a(measured, weak), "DG": row_b(measured, weak)}
    return [kind for kind, row in about.items() if row.status == NOT_TESTED and row.why == BARE]


def row_stays(measured: Measured, weak: Weak) -> Row:
    """What is drawn stays: the own clean sample is nearer than that of any other prompt."""
    row = Row(f"{weak.name} stays", "3", "What is drawn stays (margin of retrieval).", "", unit="margin")
    run = f"weak, {weak.name}"
    if (closed := sample_rows.gated(row, measured, weak, [run])) is not None:
        return closed
    return judged(row, measured.tables[run]["margin"], measured.captions, "above", rules.OWN_MARGIN)


def row_b(measured: Measured, weak: Weak, base: str = "cond", run: str = "") -> Row:
    """(b) DG gives detail, and nothing is lost, against the base's own sample."""
    plain = base == "cond"
    run = run or f"DG, {weak.name}"
    text = "DG gives detail, and nothing is lost." if plain else f"DG on {CFG} gives detail, and nothing is lost."
    row = Row(f"{weak.name} b" + ("" if plain else f", {CFG}"), "4", text, "", unit=CONTRAST)
    if (closed := sample_rows.gated(row, measured, weak, [base, run])) is not None:
        return closed
    guided, before, captions = measured.tables[run], measured.tables[base], measured.captions
    parts = {"amt_c": bootstrap_interval(guided["amt_c"] - before["amt_c"], captions)}
    parts |= {name: bootstrap_interval(guided[name], captions) for name in ("low", "margin")}
    bounds = {"amt_c": rules.DETAIL, "low": rules.LAYOUT, "margin": rules.OWN_MARGIN}
    statuses = {name: against(parts[name], "above", bound) for name, bound in bounds.items()}
    made = replace(
        row,
        number=parts.pop("amt_c"),
        bound=f"> {rules.DETAIL:g}; low > {rules.LAYOUT:g}, margin > {rules.OWN_MARGIN:g}",
        status=together([*statuses.values()]),
        why=sample_rows.failing(statuses),
        parts=parts,
    )
    if not plain:
        return made
    return sample_rows.controlled(made, measured, run, "above", lambda table: float(table["amt_c"].mean()))


def row_on_cfg(measured: Measured, weak: Weak, has_cfg: bool) -> Row:
    """(b) on a base with guidance."""
    row = row_b(measured, weak, f"{CFG}, base", f"{CFG} and DG, {weak.name}")
    return row if has_cfg else not_tested(row, "this pipeline has no classifier-free guidance")


def row_c(measured: Measured, weak: Weak) -> Row:
    """(c) DG against the gain that it contains."""
    row = Row(f"{weak.name} c", "4", "DG gives more detail than its own gain.", "", unit=CONTRAST)
    runs = [f"DG, {weak.name}", f"its gain, {weak.name}"]
    if (closed := sample_rows.gated(row, measured, weak, runs)) is not None:
        return closed
    guided, louder = (measured.tables[run]["amt_c"] for run in runs)
    number = bootstrap_interval(guided - louder, measured.captions)
    parts = {"its gain": bootstrap_interval(louder, measured.captions)}
    status = against(number, "above", rules.BEYOND)
    return replace(row, number=number, bound=f"> {rules.BEYOND:g}", status=status, parts=parts)


def row_d(measured: Measured, weak: Weak, has_cfg: bool) -> Row:
    """(d) DG against CFG, reported."""
    row = Row(f"{weak.name} d", "4", f"DG minus {CFG}.", "", unit=CONTRAST)
    if not has_cfg:
        return not_tested(row, "this pipeline has no classifier-free guidance")
    if (closed := sample_rows.gated(row, measured, weak, [f"DG, {weak.name}", CFG])) is not None:
        return closed
    parts = sample_rows.differences(measured.tables[f"DG, {weak.name}"], measured.tables[CFG], measured.captions)
    return replace(row, number=parts.pop("amt_c"), status=REPORTED, parts=parts)


def untested(reason: str) -> Sequence[Weak]:
    """Both weak models, where they were not looked for."""
    return [Weak(name, why=reason) for name in rules.WEAK_MODELS]
