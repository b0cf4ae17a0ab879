"""What acts on a transformer now: kept in one place per transformer, and read by everything that needs it.

Two pipelines, or two `DiT`s, may share a transformer; what acts on it belongs to the transformer. It is kept in a weak
dictionary and not on the module, so that a pipeline can be copied and pickled as before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from dg_tools.forward.call import Call


class Parts(NamedTuple):
    """Modules of the blocks, the blocks included; those below the blocks; those with an attention processor."""

    all: list[torch.nn.Module]
    below: list[torch.nn.Module]
    attention: list[Any]


@dataclass
class Active:
    """What acts on one transformer.

    Attributes:
        lock: held by every run; a second thread waits.
        runs: how many contexts of the thread that holds the lock are open, one in another.
        guidance: the guidance that is on, or None.
        trace: the nnsight trace that reads it, or None.
        rerun: the call that a forward of our own is (a disrupted pass, a single step), while it runs.
        stated: step and number of steps, where your own loop states them.
        parts: modules of its blocks, listed once per run.
        told_uncompiled: whether the log has said that compiled blocks run uncompiled.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    runs: int = 0
    guidance: Any = None
    trace: Any = None
    rerun: Call | None = None
    stated: tuple[int, int] | None = None
    parts: Parts | None = None
    told_uncompiled: bool = False

    @contextmanager
    def repeating(self, call: Call) -> Iterator[None]:
        """A forward inside is read as this call, and not as one of the pipeline's own."""
        before, self.rerun = self.rerun, call
        try:
            yield
        finally:
            self.rerun = before


_ACTIVE: WeakKeyDictionary[torch.nn.Module, Active] = WeakKeyDictionary()
_MAKING = threading.Lock()


def active(transformer: torch.nn.Module) -> Active:
    """What acts on a transformer: one object per transformer, for every pipeline and `DiT`."""
    with _MAKING:
        return _ACTIVE.setdefault(transformer, Active())
