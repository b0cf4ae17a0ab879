"""How is a row written in a cell? Verdict, number, interval, and why, from the row alone; and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dg_tools.metrics import bootstrap_interval
from dg_tools.report.verdict import NOT_TESTED, REPORTED, Interval, Row


def number(value: float, signed: bool = False) -> str:
    """Three digits, none of them below a thousandth."""
    if not np.isfinite(value):
        return "-"
    value = round(value, 3) or 0.0  # no minus zero
    text = f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}".rstrip("0").rstrip(".")
    return f"+{text}" if signed and value > 0 else text


def interval(values: Interval, signed: bool = False) -> str:
    """`0.99 (0.98, 1)`."""
    middle, low, high = (number(x, signed) for x in values)
    return f"{middle} ({low}, {high})"


def cell(row: Row | None, *, long: bool = False) -> str:
    """A column's entry; `long` with the parts and what was asked."""
    if row is None:
        return ""
    if row.status == NOT_TESTED:
        said = f"{number(row.number[0])} {row.unit}" if row.number else ""
        reason = row.why if long or not said else row.why.split(";")[0].split(":")[0]
        return f"not tested ({'; '.join(x for x in (reason, said) if x)})"
    assert row.number is not None
    words = [] if row.status == REPORTED else [f"**{row.status}**" + (" (exploratory)" if row.exploratory else "")]
    words.append(interval(row.number, signed=row.section in ("3", "4")))
    if row.why and (long or row.section != "2"):
        words.append(row.why)
    elif row.why:
        words.append(row.why.split(":")[0])
    if row.draws:
        words.append(f"{row.extreme} of {row.draws} controls as extreme")
    if long:
        words += [f"{name} {interval(value, signed=True)}" for name, value in row.parts.items()]
    return "; ".join(words)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(x.replace("|", r"\|") for x in line) + " |" for line in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def change(one: pd.DataFrame, base: pd.DataFrame, column: str) -> str:
    """A run's mean change from the base, with its interval over captions."""
    values = one[column].to_numpy() - base[column].to_numpy()[: len(one)]
    return interval(bootstrap_interval(values), signed=True)
