"""The page of a report: one file that opens offline. Text in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dg_tools.report.parts import Section
from dg_tools.report.verdict import Row


def html(
    model: str, settings: Mapping[str, Any], sections: Sequence[Section], claims: Sequence[tuple[str, Row]]
) -> str:
    """The page of a report: its sections in order, and its claims by id in the section `claims`."""
    parts = [f"<h2 id='{s.key}'>{escape(s.title)}</h2><p>{escape(s.words or s.missing)}</p>" for s in sections]
    return f"<!doctype html><title>{escape(model)}</title>{''.join(parts)}\n"
