"""The scripts and the style that run in the browser, as text; an anywidget takes one script."""

from __future__ import annotations

from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def text(name: str) -> str:
    """A file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def module(name: str, function: str) -> str:
    """The script of one kind of view, such as `chart.js`, as a module that an anywidget renders."""
    return f"{text('scales.js')}\n{text(name)}\nexport default {{ render: {function} }};\n"


STYLE = text("style.css")
