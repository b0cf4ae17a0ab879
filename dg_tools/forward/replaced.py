"""What is replaced on a module, a scheduler or a pipeline is put back, after an exception too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` inside; afterwards it is what it was, or comes from the class again.

    The instance's own dictionary is changed, so that torch modules take a function in the place of a method, and an
    attribute that only the class had is taken off again instead of being copied onto the instance.

    Args:
        owner: any object with a `__dict__`.
        name: the attribute.
        value: what stands there inside.

    Example:
        >>> class Scheduler:
        ...     def step(self):
        ...         return 1
        >>> scheduler = Scheduler()
        >>> with replaced(scheduler, "step", lambda: 2):
        ...     scheduler.step()
        2
        >>> scheduler.step(), vars(scheduler)
        (1, {})
    """
    own = owner.__dict__.get(name, _ABSENT)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        if own is _ABSENT:
            owner.__dict__.pop(name, None)
        else:
            owner.__dict__[name] = own
