"""Heads of a grid of pictures: over its columns, beside its rows, and a title for what all pictures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PARTS = ("prompt", "seed", "guidance", "edit")
NONE = {"guidance": "no guidance", "edit": "clean"}  # where all pictures have none, nothing is said


class Heads(NamedTuple):
    """Heads of a grid: `rows`, `columns` and `title`; `captions` if rows and columns do not say all."""

    rows: list[str]
    columns: list[str]
    title: str
    captions: list[str] | None = None


def heads(settings: Sequence[Mapping[str, Any]], columns: int) -> Heads:
    """Heads for pictures in rows of `columns`, from the settings of each: prompt, seed, edit, guidance.

    What all pictures share stands in the title; that none has an edit, or none a guidance, is not said.

    Example:
        >>> one = {"prompt": "owl", "edit": "clean", "guidance": "cond"}
        >>> heads([{**one, "seed": 0}, {**one, "seed": 1}], 2)
        Heads(rows=[''], columns=['seed 0', 'seed 1'], title='owl', captions=None)
    """
    words = [parts(s) for s in settings]
    lines = [words[i : i + columns] for i in range(0, len(words), columns)]
    over = [words[i::columns] for i in range(min(columns, len(words)))]
    shared = [k for k in PARTS if same(words, k)]
    down = [k for k in PARTS if k not in shared and all(same(line, k) for line in lines)]
    across = [k for k in PARTS if k not in (*shared, *down)]
    title = joined(words[0], [k for k in shared if words[0][k] != NONE.get(k)]) if words else ""
    if not all(same(column, k) for column in over for k in across):
        return Heads([], [], title, [joined(w, [*down, *across]) for w in words])
    return Heads([joined(line[0], down) for line in lines], [joined(column[0], across) for column in over], title)


def same(words: Sequence[Mapping[str, str]], part: str) -> bool:
    """Whether all of them say the same of one part."""
    return len({w[part] for w in words}) <= 1


def joined(words: Mapping[str, str], chosen: Sequence[str]) -> str:
    """Some parts, one after the other."""
    return ", ".join(words[k] for k in chosen)


def parts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Each part of a picture's settings in words."""
    words = {k: f"seed {settings[k]}" if k == "seed" else str(settings.get(k, NONE["edit"])) for k in PARTS}
    return words if words["guidance"] != "cond" else {**words, "guidance": NONE["guidance"]}
