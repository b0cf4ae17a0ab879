"""One or several: what a public function takes as prompts, seeds, edits or guidances."""

from __future__ import annotations

from typing import Any


def as_list(value: Any) -> list[Any]:
    """One or several, as several."""
    return list(value) if isinstance(value, list | tuple | range) else [value]
