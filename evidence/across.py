"""Small models of other seeds and a variant: what is kept of each, and what they may say.

`NAME.json` is a digest: training, channels, and the rows about channels. They do not draw what they are asked, so
they have no rows about samples. Beside it lies `NAME.csv`, the outlier channels that the training logged (see
`evidence.growth`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dg_tools.report.cells import cell, number, table
from dg_tools.report.verdict import Row

SECTIONS = ("1", "2")  # of the rows that a digest keeps


@dataclass(frozen=True)
class Small:
    """A small model's digest.

    Attributes:
        name: such as `small-1`.
        recipe, seed, steps, seconds: of its training; `dual`: with SD3.5-medium's second attention.
        validation: last loss on trained and held-out pairs.
        found: share of clean samples whose nearest reference is their own.
        channels: massive ones; empty where there are none.
        rows: about channels.
    """

    name: str
    recipe: str
    seed: int
    steps: int
    seconds: float
    dual: bool
    validation: dict[str, float]
    found: float
    channels: list[int]
    rows: dict[str, Row]


def digest(name: str, record: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a column, as plain JSON; `training` has `Small`'s fields of that kind."""
    found = next(row["number"][0] for row in record["rows"] if row["key"] == "capable")
    rows = [row for row in record["rows"] if row["section"] in SECTIONS]
    return {"name": name, **training, "found": found, "channels": record["facts"]["channels"], "rows": rows}


def load(folder: Path) -> list[Small]:
    """Digests, recipe by recipe and seed by seed; empty where nothing is stored."""
    digests = []
    for file in folder.glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        rows = {row.key: row for row in map(Row.from_json, record.pop("rows"))}
        digests.append(Small(**record, rows=rows))
    return sorted(digests, key=lambda s: (s.recipe, s.seed))


def section(small: Sequence[Small]) -> str:
    """The section's text."""
    if not small:
        return "No small model was trained here: `make seeds` does it."
    body = [
        [
            f"`{s.name}`",
            f"`{s.recipe}`, seed {s.seed}" + (", dual attention" if s.dual else ""),
            f"{s.steps} in {s.seconds / 60:.0f} min",
            f"{number(s.validation['trained'])} / {number(s.validation['held_out'])}",
            f"{s.found:.0%}",
            f"{s.channels or 'none'}",
        ]
        for s in small
    ]
    header = ["model", "recipe", "steps", "loss, trained / held-out pairs", "found", "massive channels"]
    most = max(s.found for s in small)
    keys = dict.fromkeys(key for s in small for key in s.rows)
    rows = [[f"`{key}`", *(cell(s.rows.get(key)) for s in small)] for key in keys]
    return "\n".join(
        [
            "Intervals over captions say nothing about models. `make seeds` trains a small model from different first "
            "weights, batches and noise on the same pictures, and a variant of it. *Found*: the nearest reference of a "
            f"clean sample is its own. The best finds {most:.0%}: **none of them draws what it is asked, so there is "
            "no row about samples.** Rows that are not here are measured by the next `make seeds`; the weights are "
            "not kept.",
            "",
            table(header, body),
            "",
            table(["row", *(f"`{s.name}`" for s in small)], rows),
        ]
    )
