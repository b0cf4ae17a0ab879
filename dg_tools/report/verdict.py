"""A verdict is one row: a number, its interval, its bound, its controls, and the status that follows from these alone.

Arrays in, rows out; nothing here knows a model or a data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from dg_tools.metrics import bootstrap_interval

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
CONTROLS, FEW, SOME = "controls do the same", "too few controls", "at some blocks"
NOT_TESTED, REPORTED = "not tested", "reported"
ORDER = (HOLDS, SOME, FAILS, UNDECIDED, CONTROLS, FEW, REPORTED, NOT_TESTED)
COUNTED = {  # in a sentence: of one claim, and of several
    HOLDS: ("holds", "hold"),
    SOME: ("holds at some blocks only", "hold at some blocks only"),
    FAILS: ("does not hold", "do not hold"),
    CONTROLS: ("has controls that do the same", "have controls that do the same"),
    FEW: ("has too few controls", "have too few controls"),
}
CHANCE = 0.05  # (1 + controls as extreme) / (1 + controls), at most

Interval = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True)
class Row:
    """One claim on one model.

    Attributes:
        key: short and unique in a column; the columns of a table are joined by it.
        section: of the paper.
        text: the claim, as tested.
        status: one of the constants above.
        number: estimate, low, high; None where nothing was measured.
        unit, bound: of the number, in words.
        draws, extreme: how many controls, and how many of them are as extreme.
        why: what decided it, where the number does not say all: the reason of "not tested", parts, blocks.
        exploratory: comes after a primary that does not hold.
    """

    key: str
    section: str
    text: str
    status: str
    number: Interval | None = None
    unit: str = ""
    bound: str = ""
    draws: int = 0
    extreme: int = 0
    why: str = ""
    exploratory: bool = False
    parts: dict[str, Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, floats to six digits."""
        record = asdict(self)
        record["number"] = None if self.number is None else [float(f"{x:.6g}") for x in self.number]
        record["parts"] = {k: [float(f"{x:.6g}") for x in v] for k, v in self.parts.items()}
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Row:
        """A row from what `to_json` gave."""
        number = None if record["number"] is None else tuple(record["number"])
        parts = {k: tuple(v) for k, v in record["parts"].items()}
        return cls(**{**record, "number": number, "parts": parts})


def against(number: Interval, direction: Literal["above", "below"], margin: float) -> str:
    """`holds`, `does not hold` or `undecided`, of an interval and a bound."""
    _, low, high = number
    if not np.all(np.isfinite(number)):
        return UNDECIDED
    past, short = (low > margin, high < margin) if direction == "above" else (high < margin, low > margin)
    return HOLDS if past else FAILS if short else UNDECIDED


def extreme(estimate: float, direction: Literal["above", "below"], null: Sequence[float]) -> int:
    """How many controls are at least as extreme."""
    draws = np.asarray(null, float)
    return int((draws >= estimate).sum() if direction == "above" else (draws <= estimate).sum())


def with_controls(row: Row, estimate: float, direction: Literal["above", "below"], null: Sequence[float]) -> Row:
    """The row with its controls counted, after which it may no longer hold."""
    count = extreme(estimate, direction, null)
    status = row.status
    if status == HOLDS and (1 + count) / (1 + len(null)) > CHANCE:
        status = FEW if 1 / (1 + len(null)) > CHANCE else CONTROLS
    return replace(row, status=status, draws=len(null), extreme=count)


def judged(
    row: Row,
    values: Any,
    clusters: Any,
    direction: Literal["above", "below"],
    margin: float,
    null: Sequence[float] | None = None,
) -> Row:
    """The row with the mean of `values`, its interval over `clusters`, and the verdict."""
    number = bootstrap_interval(values, clusters)
    sign = ">" if direction == "above" else "<"
    made = replace(row, number=number, bound=f"{sign} {margin:g}", status=against(number, direction, margin))
    return made if null is None else with_controls(made, number[0], direction, null)


def together(statuses: Sequence[str]) -> str:
    """The verdict on a conjunction: it holds if each part holds, and does not hold if one part does not."""
    if FAILS in statuses:
        return FAILS
    return HOLDS if set(statuses) == {HOLDS} else UNDECIDED


def by_block(row: Row, numbers: dict[int, Interval], direction: Literal["above", "below"], margin: float) -> Row:
    """The row of a claim about each block: it holds at all, at none, or at some, which are listed."""
    statuses = {block: against(number, direction, margin) for block, number in numbers.items()}
    there = [block for block, status in statuses.items() if status == HOLDS]
    whole = HOLDS if len(there) == len(numbers) else SOME if there else together([*statuses.values()])
    sign = ">" if direction == "above" else "<"
    middle, low, high = (float(np.median(ends)) for ends in zip(*numbers.values(), strict=True))
    return replace(
        row,
        number=(middle, low, high),
        bound=f"{sign} {margin:g}",
        status=whole,
        why=f"holds at {len(there)} of {len(numbers)} blocks" + (f": {', '.join(map(str, there))}" if there else ""),
        parts={f"block {block}": number for block, number in numbers.items()},
    )


def tally(statuses: Iterable[str]) -> str:
    """How many claims have which verdict, in words.

    Example:
        >>> tally(["holds", "does not hold", "holds", "undecided"])
        '2 hold, 1 does not hold, 1 is undecided'
    """
    counts = Counter(statuses)
    there = [status for status in ORDER if counts[status]]
    words = {status: COUNTED.get(status, (f"is {status}", f"are {status}")) for status in there}
    return ", ".join(f"{counts[status]} {words[status][counts[status] > 1]}" for status in there)


def not_tested(row: Row, why: str, number: Interval | None = None, unit: str = "") -> Row:
    """The row without a verdict, with the reason and the number that says so."""
    return replace(row, status=NOT_TESTED, why=why, number=number, unit=unit, bound="")
