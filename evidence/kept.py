"""What is kept of all columns, as the pages and the figure read it."""

from __future__ import annotations

from pathlib import Path

from dg_tools.report.kept import Column, load
from evidence.columns import NULL, PLANTED, names

Columns = dict[str, Column]


def load_all(folder: Path) -> Columns:
    """All kept columns, the models first, the controls last.

    Raises:
        FileNotFoundError: nothing is kept there.
    """
    order = names()
    found = [file.parent for file in folder.glob("*/column.json")]
    found.sort(key=lambda p: (order.index(p.name) if p.name in order else -1, p.name))
    if not found:
        raise FileNotFoundError(f"no evidence in {folder}: run `make evidence`")
    return {place.name: load(place) for place in found}


def models(columns: Columns) -> Columns:
    """The columns that the claims are about; the planted model and the null test the instrument, not the claims."""
    return {name: column for name, column in columns.items() if name not in (PLANTED, NULL)}
