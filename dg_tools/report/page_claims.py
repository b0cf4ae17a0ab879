"""The claims on the page: a table with one row per claim, whose verdict leads to its number in report.json."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from itertools import groupby

from dg_tools.report.cells import in_words, interval, number
from dg_tools.report.verdict import FAILS, HOLDS, NOT_TESTED, REPORTED, SOME, Row

KINDS = {HOLDS: "holds", SOME: "some", FAILS: "fails", NOT_TESTED: "untested", REPORTED: "untested"}
GROUPS = {"": "Whether anything can be tested", "1": "What they are", "2": "Where they come from"}
GROUPS |= {"3": "What they do", "4": "What guidance buys"}
BOUND = re.compile(r"([<>]) ([-+]?[\d.]+(?:e[-+]?\d+)?)")
SIGNED = ("3", "4")  # sections of the paper whose numbers are changes


def claims_table(claims: Sequence[tuple[str, Row]]) -> str:
    """All claims, in groups of the paper's sections.

    Args:
        claims: each with its id.
    """
    lines = [
        '<div class="sheet"><table class="claims">',
        '<thead><tr><th scope="col">verdict</th><th scope="col">claim</th><th scope="col">effect, 95% interval</th>'
        '<th scope="col">controls as extreme</th></tr></thead>',
    ]
    ordered = sorted(claims, key=lambda claim: claim[1].section)
    for section, group in groupby(ordered, key=lambda claim: claim[1].section):
        title = GROUPS.get(section, f"Section {section}")
        lines += ["<tbody>", f'<tr class="group"><th colspan="4" scope="rowgroup">{escape(title)}</th></tr>']
        lines += [claim_row(name, row) for name, row in group]
        lines.append("</tbody>")
    return "\n".join([*lines, "</table></div>"])


def claim_row(name: str, row: Row) -> str:
    """One claim: verdict, what is claimed and why it is judged so, the number with its bound, the controls."""
    place = f"claims/{name}"
    kind = KINDS.get(row.status, "undecided")
    verdict = f'<a class="verdict {kind}" href="#{place}">{escape(row.status)}</a>'
    exploratory = '<span class="more">exploratory</span>' if row.exploratory else ""
    why = f'<p class="more">{escape(in_words(row.why))}</p>' if row.why else ""
    controls = f"<td>{row.extreme} of {row.draws}</td>" if row.draws else '<td class="none">–</td>'
    source = f'<a class="source" href="report.json#{place}">report.json#{place}</a>'
    return (
        f'<tr id="{place}"><td>{verdict}{exploratory}</td><td>{escape(row.text)}{why}{parts_list(row)}{source}</td>'
        f"<td>{effect(row)}</td>{controls}</tr>"
    )


def effect(row: Row) -> str:
    """The number, its interval, its unit and its bound, in words and as a drawing."""
    if row.number is None:
        return "–"
    said = f'<span class="effect">{interval(row.number, signed=row.section in SIGNED)}</span>'
    words = f"{row.unit}, median of {len(row.parts)} blocks" if of_blocks(row) else row.unit
    unit = f' <span class="more">{escape(words)}</span>' if words else ""
    bound = f'<span class="more bound-words">required: {escape(in_words(row.bound))}</span>' if row.bound else ""
    return f"{said}{unit}{mark(row)}{bound}"


def of_blocks(row: Row) -> bool:
    """Whether the number is the median of several blocks' numbers, which are its parts: see `verdict.by_block`."""
    return len(row.parts) > 1 and all(name.startswith("block ") for name in row.parts)


def parts_list(row: Row) -> str:
    """The parts of a claim, to be unfolded."""
    if not row.parts:
        return ""
    items = "".join(f"<li>{escape(in_words(k))}: {interval(v, signed=True)}</li>" for k, v in row.parts.items())
    count = f"{len(row.parts)} part{'s' if len(row.parts) > 1 else ''}"
    return f"<details><summary>{count}</summary><ul>{items}</ul></details>"


def mark(row: Row) -> str:
    """The interval as a line beside the bound, the side that is required shaded; empty where there is no such bound."""
    bound = BOUND.match(row.bound)
    if row.number is None or bound is None or not all(map(math.isfinite, row.number)):
        return ""
    middle, low, high = row.number
    limit = float(bound[2])
    first, last = min(low, limit), max(high, limit)
    room = 0.15 * (last - first) or 1.0

    def place(x: float) -> float:
        return round(100 * (x - first + room) / (last - first + 2 * room), 2)

    at, left, right = place(limit), place(low), place(high)
    start, width = (at, 100 - at) if bound[1] == ">" else (0, at)
    kind = KINDS.get(row.status, "undecided")
    words = f"{number(middle)}, from {number(low)} to {number(high)}; required: {in_words(row.bound)}"
    return (
        f'<svg class="mark {kind}" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(words)}"><rect class="asks" x="{start:g}" y="0" width="{width:g}" height="10"/>'
        f'<path class="bound" d="M{at:g} 0V10"/><path class="range" d="M{left:g} 5H{max(right, left + 0.5):g}"/>'
        f'<path class="middle" d="M{place(middle):g} 2V8"/></svg>'
    )
