"""What a section of a report is made of: tables and figures, checked when they are made, and as plain JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from dg_tools.kinds import kind_of

Value = str | int | float | None
NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")  # of a figure: it names a file and an anchor of the page
ACTIVE = ("script", "foreignObject", "iframe")  # elements of an SVG that run something
AWAY = re.compile(r"@import|url\(\s*['\"]?(?!#|data:image/)")  # in a style: what loads something


@dataclass(frozen=True)
class Table:
    """Rows of plain values.

    Attributes:
        title: over it.
        columns: their names.
        rows: as long as `columns` each; str, int, float or None (shown as a dash). A number that is not finite is None.

    Raises:
        ValueError: a row that is longer or shorter than `columns`, or no column.
        TypeError: a value of another kind.

    Example:
        >>> Table("Blocks", ["block", "ratio"], [[0, 9.7], [1, float("nan")]]).rows
        ((0, 9.7), (1, None))
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]

    def __post_init__(self) -> None:
        columns, rows = tuple(map(str, self.columns)), tuple(map(tuple, self.rows))
        if not columns:
            raise ValueError(f"table {self.title!r} has no columns")
        for i, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(
                    f"table {self.title!r}: row {i} has {len(row)} values, and there are {len(columns)} columns "
                    f"({', '.join(columns)})"
                )
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", tuple(tuple(value(x, self.title) for x in row) for row in rows))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: small letters, digits, `-` and `_`; unique in a report. It names the SVG file and an anchor of the page.
        title: under it.
        svg: its text, which loads and runs nothing: `dg_tools.report.figures.svg_text` writes such.
        numbers: what is drawn, as plain JSON, for `report.json`.
        words: what the figure shows, for readers who cannot see it.

    Raises:
        ValueError: another name; no SVG; an SVG that loads or runs something.
        TypeError: numbers that JSON cannot hold.
    """

    name: str
    title: str
    svg: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"figure name {self.name!r}: small letters and digits, joined by - or _, are allowed")
        check_svg(self.svg, self.name)
        object.__setattr__(self, "numbers", jsonable(self.numbers, f"numbers of figure {self.name!r}"))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the file of the SVG in place of its text."""
        file = f"figures/{self.name}.svg"
        return {"name": self.name, "title": self.title, "file": file, "words": self.words, "numbers": self.numbers}


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        key: one of `KEYS` of `sections`.
        title: over it.
        words: paragraphs, separated by empty lines; `code` between backticks.
        tables, figures: in order.
        missing: the reason, one sentence, where there is nothing to show; else empty.
    """

    key: str
    title: str
    words: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    missing: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", tuple(self.tables))
        object.__setattr__(self, "figures", tuple(self.figures))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        tables, figures = [t.to_json() for t in self.tables], [f.to_json() for f in self.figures]
        text = {"key": self.key, "title": self.title, "words": self.words, "missing": self.missing}
        return {**text, "tables": tables, "figures": figures}


def value(x: Any, title: str) -> Value:
    """A cell as Python's own str, int, float or None."""
    x = x.item() if getattr(x, "ndim", None) == 0 or type(x).__module__ == "numpy" else x
    if isinstance(x, bool) or not isinstance(x, str | int | float | None):
        raise TypeError(f"table {title!r}: {x!r} is {kind_of(x)}; str, int, float and None are allowed")
    return None if isinstance(x, float) and not math.isfinite(x) else x


def jsonable(x: Any, what: str) -> Any:
    """A value as plain JSON: arrays as lists, numbers that JSON does not know, such as NaN, as None.

    Raises:
        TypeError: something else, such as a model.
    """
    if isinstance(x, Mapping):
        return {str(key): jsonable(inner, what) for key, inner in x.items()}
    if isinstance(x, list | tuple):
        return [jsonable(inner, what) for inner in x]
    if hasattr(x, "tolist"):  # arrays and numbers of numpy and torch
        return jsonable(x.tolist(), what)
    if isinstance(x, float) and not math.isfinite(x):
        return None
    if x is None or isinstance(x, str | bool | int | float):
        return x
    raise TypeError(f"{what}: {x!r} is {kind_of(x)}; numbers, strings, lists and dictionaries are allowed")


def check_svg(text: str, name: str) -> None:
    """Raise ValueError unless a text is an SVG that opens alone: it runs nothing and loads nothing."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"figure {name!r}: this is not an SVG ({error})") from None
    if root.tag.rpartition("}")[2] != "svg":
        raise ValueError(f"figure {name!r}: an SVG is needed, and this begins with <{root.tag}>")
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        targets = [v for k, v in element.attrib.items() if k.rpartition("}")[2] in ("href", "src")]
        loads = any(not t.startswith(("#", "data:image/")) for t in targets)
        loads = loads or any(AWAY.search(v) for v in (*element.attrib.values(), element.text or ""))
        if loads or tag in ACTIVE or any(k.startswith("on") for k in element.attrib):
            raise ValueError(f"figure {name!r}: <{tag}> runs or loads something; the SVG of a report does neither")
