"""Keep: checkpoints without pickle, a stop that is requested politely, and the time that a process took.

A checkpoint is one safetensors file: tensors by name, and a record in its header. It is written beside the old one and
renamed, so a full disk or a kill leaves the old one whole.
"""

from __future__ import annotations

import functools
import json
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from training.recipe import write_safely

P = ParamSpec("P")
T = TypeVar("T")
STOPS = (signal.SIGINT, signal.SIGTERM)


def save(path: Path, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Write tensors and a JSON record as one safetensors file.

    Raises:
        SystemExit: the file could not be written; the old one is intact.
    """
    plain = {k: t.detach().to("cpu", copy=False).contiguous() for k, t in tensors.items()}
    write_safely(path, lambda p: save_file(plain, p, metadata={"record": json.dumps(record)}))


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `save` wrote: tensors by name, and the record."""
    with safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["record"])


def moments(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adam's two moments and step of each parameter, as tensors by name."""
    tensors = {}
    for i, p in enumerate(parameters):
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"adam.{i}.{key}"] = value
    return tensors


def restore(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor], saved: dict[str, torch.Tensor]
) -> None:
    """Put back what `moments` gave; a parameter without saved moments starts anew."""
    for i, p in enumerate(parameters):
        prefix = f"adam.{i}."
        state = {k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}
        if state:
            optimizer.state[p] = {k: v.to(p.device) if k != "step" else v for k, v in state.items()}


def signals_put_back(main: Callable[P, T]) -> Callable[P, T]:
    """A function after which SIGINT and SIGTERM do what they did before, whatever `Stop` made of them."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        before = {name: signal.getsignal(name) for name in STOPS}
        try:
            return main(*args, **kwargs)
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    return run


class Stop:
    """Turns SIGINT and SIGTERM into a flag that a loop reads between two steps.

    Example:
        >>> stop = Stop()
        >>> stop.asked
        False
    """

    def __init__(self) -> None:
        self.asked = False
        for name in STOPS:
            signal.signal(name, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class Clock:
    """Wall-clock seconds and the process's own CPU seconds since it was made, added to those of earlier runs."""

    def __init__(self, history: list[dict[str, Any]]) -> None:
        self.history = history
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def now(self) -> dict[str, float]:
        """`seconds` of this run, `cpu_seconds` of this run, `cpu_hours` of all runs."""
        cpu = time.process_time() - self.cpu
        earlier = sum(r["cpu_seconds"] for r in self.history)
        return {
            "seconds": round(time.perf_counter() - self.wall, 1),
            "cpu_seconds": round(cpu, 1),
            "cpu_hours": round((earlier + cpu) / 3600, 3),
        }
