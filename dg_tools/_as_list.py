"""Arguments that may be one value or several: prompts, seeds, edits, guidances."""

from __future__ import annotations

from typing import Any


def as_list(value: Any) -> list[Any]:
    """A list of the values: one value becomes a list of one."""
    return list(value) if isinstance(value, list | tuple | range) else [value]
