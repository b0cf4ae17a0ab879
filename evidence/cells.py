"""How is an outcome written in a cell of EVIDENCE.md? Verdict, effect, interval, bound, controls, from it alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dg_tools.experiments.result import Outcome, Result
from evidence.claims import Claim

WORDS = {
    "holds": "holds",
    "fails": "does not hold",
    "undecided": "undecided",
    "no more than controls": "not shown: controls do the same",
    "too few controls": "not shown: too few controls",
}
BOUND = {"above": ">", "below": "<", "within": "within ±"}

Results = dict[str, dict[str, Result]]  # model -> part -> result


def number(value: float) -> str:
    """Three digits, a real minus sign left out for plain text."""
    return "-" if not np.isfinite(value) else f"{value:.3g}"


def bound(outcome: Outcome) -> str:
    """The bound that was set beforehand: `> 0.95`."""
    return f"{BOUND[outcome.direction]}{' ' if outcome.direction != 'within' else ''}{number(outcome.margin)}"


def effect(outcome: Outcome) -> str:
    """Effect, unit, interval and bound."""
    interval = f"({number(outcome.low)} to {number(outcome.high)})"
    return f"{number(outcome.estimate)} {outcome.unit} {interval}; asked {bound(outcome)}"


def draws(outcome: Outcome) -> str:
    """The null distribution's median, and the effect's rank in it."""
    less = f"{outcome.rank} of {len(outcome.null)} less extreme"
    return f"median {number(float(np.median(outcome.null)))}; {less}"


def controls(outcome: Outcome) -> str:
    """What the controls are, null distribution and rank."""
    if not outcome.null:
        return f"no draws ({outcome.control.removeprefix('none: ')})" if outcome.control != "none" else "none"
    return f"{outcome.control}: {draws(outcome)}"


def find(claim: Claim, parts: dict[str, Result]) -> Outcome | None:
    """A claim's outcome, None where its part was not run or says in a note that there was nothing to measure."""
    outcomes = parts[claim.part].outcomes if claim.part in parts else []
    return next((o for o in outcomes if o.name == claim.outcome), None)


def claim_row(claim: Claim, results: Results) -> list[str]:
    """A claim's row of the main table: what is asked and what the controls are, then one short cell per model.

    What is not the same for all models stands in their own cells.
    """
    outcomes = [find(claim, parts) for parts in results.values()]
    some = [o for o in outcomes if o is not None]
    head = claim.text
    kinds = {o.control for o in some if o.null}
    if some:
        head += f"<br>Asked: {bound(some[0])} {some[0].unit}."
        head += f"<br>Controls: {kinds.copy().pop()}." if len(kinds) == 1 else ""
    return [claim.section, head, f"[{claim.part}](#{claim.part})", *(cell(o, kinds) for o in outcomes)]


def cell(outcome: Outcome | None, kinds: set[str]) -> str:
    """A model's entry; `kinds` of controls that the row names already."""
    if outcome is None:
        return "not measured"
    beside = draws(outcome) if outcome.null and len(kinds) == 1 else controls(outcome)
    interval = f"{number(outcome.estimate)} ({number(outcome.low)} to {number(outcome.high)})"
    return f"**{WORDS[outcome.status]}**<br>{interval}<br>controls: {beside}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head, *body = [[c.replace("|", "\\|").replace("\n", " ") for c in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])
