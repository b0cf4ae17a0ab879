"""Variants in turns, so that a machine that slows down slows all of them; and their table.

A ratio is the median over rounds of a variant's time to that of the base in the same round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def in_turns(todo: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of every variant, one for each round; `warm_up`: a round before them is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for counted in [False] * warm_up + [True] * rounds:
        for name, once in todo.items():
            began = time.perf_counter()
            once()
            if counted:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def table(
    seconds: Mapping[str, list[float]], base: str = "CFG", peaks: Mapping[str, float] | None = None, digits: int = 3
) -> dict[str, dict[str, Any]]:
    """Median seconds, the ratio to the base with its quartiles, and peak memory in MiB; printed."""
    rows: dict[str, dict[str, Any]] = {}
    width = max(map(len, seconds))
    for name, values in seconds.items():
        low, middle, high = np.quantile(np.array(values) / np.array(seconds[base]), [0.25, 0.5, 0.75])
        rows[name] = {
            "seconds": round(float(np.median(values)), digits),
            "ratio": round(float(middle), 3),
            "quartiles": [round(float(low), 3), round(float(high), 3)],
        }
        line = f"{name:{width}} {rows[name]['seconds']:8.3f} s   {middle:5.2f} x {base}   ({low:.2f} to {high:.2f})"
        if peaks:
            rows[name]["peak_MiB"] = round(peaks[name], 1)
            line += f"   {peaks[name]:7.0f} MiB above the model"
        print(line, flush=True)
    return rows
