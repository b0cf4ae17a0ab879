"""How is a row written in a cell? As verdict, number, interval and reason, from the row alone. And Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dg_tools.metrics import bootstrap_interval
from dg_tools.report.verdict import NOT_TESTED, REPORTED, Interval, Row

MEASURES = {  # as rows name them, in plain words
    "amt_c, against clean": "detail against clean",
    "amt_c": "detail",
    "low with clean": "low band kept (correlation with clean)",
    "low": "low band (correlation)",
    "right": "right detail (correlation)",
    "margin": "what is drawn (margin)",
}
MEASURE = re.compile(rf"\b(?:{'|'.join(MEASURES)})(?=:| [<>]|$)")  # before a verdict or a bound, or alone


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


def in_words(text: str) -> str:
    """A bound or a reason with the names of measures in plain words.

    Example:
        >>> in_words("> 0.1; right > -0.02, low > -0.01")
        '> 0.1; right detail (correlation) > -0.02, low band (correlation) > -0.01'
    """
    return MEASURE.sub(lambda name: MEASURES[name[0]], text)


def cell(row: Row | None, *, long: bool = False) -> str:
    """A column's entry; with `long` also its parts and the bound."""
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
