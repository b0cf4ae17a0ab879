"""Values in words: what kind one is, the first of several, and how many."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def kind_of(value: Any) -> str:
    """A value's class with its article; a class is named as one, and None as itself.

    Example:
        >>> kind_of(3), kind_of(2.5), kind_of(float), kind_of(None)
        ('an int', 'a float', 'the class float', 'None')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one is closest to, also in other letter cases; None where none is close.

    Example:
        >>> nearest("Capture", ["capture", "generate"])
        'capture'
    """
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), names, 1, 0.7)
    return names[near[0]] if near else None


def some(items: Iterable[Any], most: int = 5) -> str:
    """The first of several, and how many more there are.

    Example:
        >>> some(range(8), 3)
        '0, 1, 2 and 5 more'
    """
    words = [str(item) for item in items]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def counted(count: int, noun: str, plural: str = "") -> str:
    """How many of a thing: the noun is singular where the count is one.

    Args:
        count: how many.
        noun: one of them.
        plural: several of them; by default the noun with an s.

    Example:
        >>> counted(1, "channel"), counted(3, "massive channel"), counted(0, "pass", "passes")
        ('1 channel', '3 massive channels', '0 passes')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
