"""The number of threads that compute, and how idle threads wait. The library itself leaves the environment as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SMALL = 50_000_000  # parameters of a transformer that runs faster on one thread


@contextmanager
def one_thread_if_small(transformer: torch.nn.Module) -> Iterator[None]:
    """A small transformer on a CPU computes on one thread inside; the number of threads is put back.

    Its tensors are so small that threads wait for each other longer than they compute: the embedded models take 1.5
        times as long on two threads as on one. Results of one thread and of several may differ by rounding, so use it
        around everything that is compared.
    """
    import torch

    before = torch.get_num_threads()
    small = next(transformer.parameters()).device.type == "cpu" and size_of(transformer) < SMALL
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def size_of(transformer: torch.nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in transformer.parameters())


def wait_passively() -> None:
    """Have OpenMP's idle threads sleep, unless OMP_WAIT_POLICY says otherwise; only before torch is imported.

    By default they spin, and so take the cores from other processes: on a busy machine a command then takes up to ten
        times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
