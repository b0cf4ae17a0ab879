"""How idle threads wait, for commands and tools; the library itself leaves the environment as it is."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Have OpenMP's idle threads sleep, unless OMP_WAIT_POLICY says otherwise; only before torch is imported.

    They spin by default, which takes the cores from other processes on a busy machine: a command then takes up to ten
    times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
