"""Replace attributes of a module, a scheduler or a pipeline: they are put back, after an exception too, and never
copied.

A deep copy or a pickle of a model that is guided, edited or read holds the model's own state only: nothing acts on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

_ABSENT = object()
_STATE = "__getstate__"  # what copy and pickle ask an object for
_HOOKS = {  # torch's tables of hooks, and those that say more about the same hooks
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
}


@dataclass
class _Stack:
    """One replaced attribute: its own value, and the replacements, the last one on top."""

    owner: Any  # held, so that its id is not given to another object
    own: Any
    values: list[Any] = field(default_factory=list)


_STACKS: dict[tuple[int, str], _Stack] = {}


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` inside; afterwards it is what it was, or comes from the class again.

    The instance's own dictionary is changed. So torch modules accept a function in place of a method, and an attribute
    that only the class had is removed again and not copied onto the instance.

    Args:
        owner: any object with a `__dict__`.
        name: the attribute.
        value: what stands there inside.

    Raises:
        RuntimeError: on a normal exit, where a replacement that was opened later is still open; once both are closed,
        nothing is left behind.

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
    key = (id(owner), name)
    stack = _STACKS.setdefault(key, _Stack(owner, owner.__dict__.get(name, _ABSENT)))
    entry = [value]  # compared by identity: one value may stand there twice
    stack.values.append(entry)
    owner.__dict__[name] = value
    failed = True
    try:
        with _copied_plain([owner]):
            yield
        failed = False
    finally:
        last = stack.values[-1] is entry
        stack.values[:] = [other for other in stack.values if other is not entry]
        if last and stack.values:
            owner.__dict__[name] = stack.values[-1][0]
        elif not stack.values:
            del _STACKS[key]
            if stack.own is _ABSENT:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = stack.own
        if not last and not failed:
            raise RuntimeError(
                f"two contexts that replace .{name} of a {type(owner).__name__} were closed in another order than they "
                "were opened: close the inner one first"
            )


@contextmanager
def copied_plain(module: torch.nn.Module) -> Iterator[None]:
    """Inside, a deep copy or a pickle of the module has none of this package's hooks and replacements."""
    with _copied_plain(list(module.modules())):
        yield


@contextmanager
def _copied_plain(owners: list[Any]) -> Iterator[None]:
    new = [owner for owner in owners if _STATE not in owner.__dict__]
    for owner in new:
        owner.__dict__[_STATE] = partial(_own_state, owner)
    try:
        yield
    finally:
        for owner in new:
            owner.__dict__.pop(_STATE, None)


def _own_state(owner: Any) -> dict[str, Any]:
    """The attributes of an object, without what this package put on it."""
    state = dict(getattr(type(owner), _STATE)(owner))
    state.pop(_STATE, None)
    for (number, name), stack in _STACKS.items():
        if number == id(owner) and name in state:  # not what the object itself leaves out: a module's compiled call
            state.pop(name)
            state |= {} if stack.own is _ABSENT else {name: stack.own}
    for name, more in _HOOKS.items() if isinstance(owner, torch.nn.Module) else ():
        ours = {key for key, hook in state[name].items() if is_ours(hook)}
        for table in (name, *more):
            state[table] = type(state[table])((k, value) for k, value in state[table].items() if k not in ours)
    return state


def is_replaced(owner: Any, name: str) -> bool:
    """Whether `owner.name` is a replacement now."""
    return (id(owner), name) in _STACKS


def is_ours(hook: Any, *others: str) -> bool:
    """Whether this package registered a hook, or one of some other packages."""
    module = getattr(getattr(hook, "func", hook), "__module__", None) or ""
    return module.split(".")[0] in ("dg_tools", *others)
