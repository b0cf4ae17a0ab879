"""What is kept of one model, as pages and figures read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dg_tools.report.samples import Kept
from dg_tools.report.verdict import Row


@dataclass(frozen=True)
class Column:
    """One model's numbers: a column of a table of claims.

    Attributes:
        name: of the model. record: of `column.json`.
        rows: by key, in order. tables: numbers of each run, by name, one row per caption.
        price: forwards and passes of one picture, by run.
    """

    name: str
    record: dict[str, Any]
    rows: dict[str, Row]
    tables: dict[str, pd.DataFrame]
    price: dict[str, dict[str, float]]


def load(place: Path) -> Column:
    """The column that `column.measure` kept in a folder."""
    record = json.loads((place / "column.json").read_text(encoding="utf-8"))
    rows = {row.key: row for row in map(Row.from_json, record["rows"])}
    kept = Kept(place / "samples.json", record["about"])
    runs = list(kept.values["runs"])
    tables = {name: kept.table(name) for name in runs}
    return Column(place.name, record, rows, tables, {name: kept.price(name) for name in runs})
