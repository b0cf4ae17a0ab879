"""What is kept of all columns, as the pages and the figure read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evidence.columns import NULL, PLANTED, names
from evidence.samples import Kept
from evidence.verdict import Row


@dataclass(frozen=True)
class Column:
    """One column.

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

    @property
    def is_control(self) -> bool:
        """The planted model and the null test the instrument, not the claims."""
        return self.name in (PLANTED, NULL)


Columns = dict[str, Column]


def load_all(folder: Path) -> Columns:
    """All kept columns, the models first, the controls last.

    Raises:
        FileNotFoundError: nothing is kept there.
    """
    order = names()
    found = [file.parent for file in folder.glob("*/column.json")]
    found.sort(key=lambda p: (order.index(p.name) if p.name in order else -1, p.name))
    columns = {}
    for place in found:
        record = json.loads((place / "column.json").read_text(encoding="utf-8"))
        rows = {row.key: row for row in map(Row.from_json, record["rows"])}
        kept = Kept(place / "samples.json", record["about"])
        runs = list(kept.values["runs"])
        tables = {name: kept.table(name) for name in runs}
        columns[place.name] = Column(place.name, record, rows, tables, {name: kept.price(name) for name in runs})
    if not columns:
        raise FileNotFoundError(f"no evidence in {folder}: run `make evidence`")
    return columns


def models(columns: Columns) -> Columns:
    """The columns that the claims are about."""
    return {name: column for name, column in columns.items() if not column.is_control}
