"""The result of an experiment: outcomes with intervals and controls, and a verdict.

An `Outcome` is one number with its interval, its null distribution (the same number for matched controls) and the
bound that was set before anything was measured. It holds only where the whole interval is past the bound *and* the
number is more extreme than the controls' own. A `Result` is a tidy table with its outcomes, of which one is primary,
and a verdict in one sentence that follows from that outcome alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dg_tools.cards import SMALL, card, picture_table, whisker
from dg_tools.metrics import bootstrap_interval

Direction = Literal["above", "below", "within"]
Status = Literal["holds", "fails", "no more than controls", "too few controls", "undecided"]

SIGNIFICANCE = 0.05  # share of the null distribution that may be as extreme as the effect
CONTROLS = 20  # draws; 19 is the least that can reach SIGNIFICANCE


@dataclass(frozen=True)
class Outcome:
    """One effect: an estimate, its 95% interval clustered by prompt, its controls, and the bound set beforehand.

    Attributes:
        name: short key, unique within a result.
        claim: what is true where it holds, in words: "zeroing the massive channels costs detail".
        estimate, low, high: the effect and its interval.
        unit: of the three.
        direction: `above`: it holds where low > margin; `below`: where high < margin; `within`: where the interval lies
            inside [-margin, margin] (equivalence).
        margin: the bound, set before the measurement.
        null: the same estimate for each control draw; empty where a claim has no control (and says so in `control`).
        control: what the control draws are, in words.
        primary: the one outcome that the verdict rests on.
    """

    name: str
    claim: str
    estimate: float
    low: float
    high: float
    unit: str
    direction: Direction
    margin: float
    null: tuple[float, ...] = ()
    control: str = "none"
    primary: bool = False

    @classmethod
    def from_values(
        cls, name: str, claim: str, values: Any, clusters: Any, *, null: Sequence[float] = (), **settings: Any
    ) -> Outcome:
        """The mean of `values` (N,), with a bootstrap interval over whole `clusters` (N,), such as prompts.

        Raises:
            ValueError: fewer than two clusters: no interval.
        """
        estimate, low, high = bootstrap_interval(values, clusters)
        return cls(name, claim, estimate, low, high, null=tuple(float(x) for x in null), **settings)

    @property
    def rank(self) -> int:
        """How many control draws are less extreme than the effect, in the claimed direction."""
        null = np.asarray(self.null, float)
        if self.direction == "within":
            return int((np.abs(null) > abs(self.estimate)).sum())
        return int((null < self.estimate).sum() if self.direction == "above" else (null > self.estimate).sum())

    @property
    def chance(self) -> float:
        """Share of the null distribution at least as extreme, the effect counted in: (1 + n - rank) / (1 + n)."""
        return (1 + len(self.null) - self.rank) / (1 + len(self.null))

    @property
    def status(self) -> Status:
        """`holds`, `fails`, or the reason for neither.

        An equivalence needs no control to beat; its controls show that the measure could have moved.
        """
        if self.direction == "within":
            if -self.margin <= self.low and self.high <= self.margin:
                return "holds"
            return "fails" if self.low > self.margin or self.high < -self.margin else "undecided"
        past = self.low > self.margin if self.direction == "above" else self.high < self.margin
        short = self.high < self.margin if self.direction == "above" else self.low > self.margin
        if not past:
            return "fails" if short else "undecided"
        if not self.null or self.chance <= SIGNIFICANCE:
            return "holds"
        return "no more than controls" if 1 / (1 + len(self.null)) <= SIGNIFICANCE else "too few controls"

    def headline(self) -> str:
        """The claim and whether it holds, in one sentence without a number: the title of a figure."""
        opening = {
            "holds": "Holds",
            "fails": "Does not hold",
            "undecided": "Undecided",
            "no more than controls": "Not shown, matched controls do the same",
            "too few controls": "Not shown, too few controls for a verdict",
        }[self.status]
        return f"{opening}: {self.claim}"

    def sentence(self) -> str:
        """The outcome in one sentence, which may be that it does not hold."""
        bound = {"above": "more than", "below": "less than", "within": "within +-"}[self.direction]
        number = (
            f"{self.estimate:.3g} {self.unit} ({self.low:.3g} to {self.high:.3g}; required: {bound} {self.margin:g})"
        )
        null = ""
        if self.null:
            null = f"; controls ({self.control}): median {np.median(self.null):.3g}, {self.rank} of {len(self.null)}"
            null += " less extreme"
        return f"{self.headline()}. {number}{null}."


@dataclass
class Result:
    """What an experiment returns.

    Attributes:
        experiment: its name, such as `tokens`.
        question: what it answers.
        table: tidy, one row per measurement, with `prompt`, `seed` and whatever else applies as columns.
        outcomes: effects, one of them primary.
        settings: everything needed to run it again, as plain JSON, with the `provenance` of the model.
        tables: further tidy tables by name, for the figure or for you.
        notes: what you must know beside the verdict, such as what was left out and why.
        words: the verdict, if one outcome alone is not enough for it; else empty.
    """

    experiment: str
    question: str
    table: pd.DataFrame = field(repr=False)
    outcomes: list[Outcome]
    settings: dict[str, Any] = field(repr=False)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    notes: list[str] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        if sum(o.primary for o in self.outcomes) != 1:
            raise ValueError(f"experiment {self.experiment!r}: exactly one outcome is primary")
        names = [o.name for o in self.outcomes]
        if len(set(names)) != len(names):
            raise ValueError(f"experiment {self.experiment!r}: outcome names repeat: {names}")

    def __repr__(self) -> str:
        return f"Result({self.experiment!r}: {self.verdict})"

    def _repr_html_(self) -> str:
        cells, names = [], []
        for o in sorted(self.outcomes, key=lambda o: not o.primary):
            needed = {"above": f"more than {o.margin:g}", "below": f"less than {o.margin:g}"}
            bound = needed.get(o.direction, f"within +-{o.margin:g}")
            drawing = whisker(o.estimate, o.low, o.high, o.margin, o.null)
            number = f"{o.estimate:.3g} ({o.low:.3g} to {o.high:.3g}) {o.unit}"
            cells.append([drawing, escape(number), escape(f"required: {bound}"), escape(o.status)])
            names.append(o.claim + (" (primary)" if o.primary else ""))
        facts = {"question": self.question, "verdict": self.verdict, "notes": " ".join(self.notes)}
        marks = f'<div style="{SMALL}">dot and line: estimate, 95% interval; dashed: bound; grey ticks: controls</div>'
        return card(f"Result of {self.experiment}", facts, picture_table(cells, names, []), marks)

    @property
    def primary(self) -> Outcome:
        """The outcome that the verdict rests on."""
        return next(o for o in self.outcomes if o.primary)

    @property
    def verdict(self) -> str:
        """One sentence, from the primary outcome alone; or `words`, where an experiment has its own."""
        return self.words or self.primary.sentence()

    def outcome(self, name: str) -> Outcome:
        """An outcome by name.

        Raises:
            KeyError: an unknown outcome; the message lists the known ones.
        """
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise KeyError(f"no outcome {name!r}; there are {', '.join(o.name for o in self.outcomes)}")

    def to_frame(self) -> pd.DataFrame:
        """The tidy table, a copy."""
        return self.table.copy()

    def effects(self) -> pd.DataFrame:
        """One row per outcome: estimate, interval, bound, controls, rank, status."""
        rows = [
            {
                "outcome": o.name,
                "estimate": o.estimate,
                "low": o.low,
                "high": o.high,
                "unit": o.unit,
                "required": f"{o.direction} {o.margin:g}",
                "controls": len(o.null),
                "control_median": float(np.median(o.null)) if o.null else float("nan"),
                "rank": o.rank if o.null else None,
                "status": o.status,
                "primary": o.primary,
            }
            for o in self.outcomes
        ]
        return pd.DataFrame(rows)

    def plot(self) -> Any:
        """The experiment's figure."""
        from dg_tools.plots import FIGURES

        return FIGURES[self.experiment](self)

    def save(self, folder: str | Path) -> None:
        """Write `result.json` and one CSV per table into a new or existing folder; on an error nothing is changed."""
        folder = Path(folder)
        partial = folder / ".partial"
        partial.mkdir(parents=True, exist_ok=True)
        record = {
            "experiment": self.experiment,
            "question": self.question,
            "verdict": self.verdict,
            "outcomes": [asdict(o) | {"status": o.status, "rank": o.rank} for o in self.outcomes],
            "settings": self.settings,
            "notes": self.notes,
            "tables": sorted(self.tables),
        } | ({"words": self.words} if self.words else {})
        try:
            for name, table in {"table": self.table, **self.tables}.items():
                table.to_csv(partial / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
            (partial / "result.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            for file in partial.iterdir():
                file.replace(folder / file.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def open_result(folder: str | Path) -> Result:
    """A result from `Result.save`.

    Raises:
        FileNotFoundError: no result there, or one of its tables is missing, named.
    """
    folder = Path(folder)
    file = folder / "result.json"
    if not file.is_file():
        raise FileNotFoundError(f"no result in {folder}: pass a folder that Result.save wrote, or run `make evidence`")
    record = json.loads(file.read_text(encoding="utf-8"))
    tables = {}
    for name in ("table", *record["tables"]):
        if not (folder / f"{name}.csv").is_file():
            raise FileNotFoundError(f"{folder / name}.csv is missing: the result is not whole, save it again")
        tables[name] = pd.read_csv(folder / f"{name}.csv")
    outcomes = []
    for row in record["outcomes"]:
        known = {k: v for k, v in row.items() if k in Outcome.__dataclass_fields__}
        outcomes.append(Outcome(**{**known, "null": tuple(row["null"])}))
    table = tables.pop("table")
    parts = (record["experiment"], record["question"], table, outcomes, record["settings"], tables, record["notes"])
    return Result(*parts, words=record.get("words", ""))
