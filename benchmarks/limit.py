"""How near does the fork come to the least that Detail Guidance can cost? One ratio for a layout, in one run.

With classifier-free guidance a step has two rows. The disrupted row is needed in the blocks after block m only, so that
of K equal blocks the least cost is (2 + (K - m - 1) / K) / 2 of the plain step's. Blocks are not equal: each counts by
its own time, which is measured in the plain run of the same round. Times are those inside the transformer's calls, in
CPU seconds of one thread, so that other processes disturb them less.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

import dg_tools as dg
from benchmarks.layouts import BLOCK, BLOCKS, CALL, OFF, PROMPT, model
from dg_tools.generation.sampling import run

REPEATS = 15  # rounds at least; a plain and a guided run take turns
GOAL = 0.03  # above the limit


class Stopwatch:
    """Seconds between a module's pre-hook and its hook, summed over its calls."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.total = 0.0
        self.began = 0.0
        self.handles = [module.register_forward_pre_hook(self.start), module.register_forward_hook(self.stop)]

    def start(self, *_: Any) -> None:
        self.began = time.process_time()

    def stop(self, *_: Any) -> None:
        self.total += time.process_time() - self.began


@contextmanager
def watched(modules: list[torch.nn.Module]) -> Iterator[list[Stopwatch]]:
    """A stopwatch on each module inside."""
    with ExitStack() as stack:
        watches = [Stopwatch(module) for module in modules]
        for watch in watches:
            for handle in watch.handles:
                stack.callback(handle.remove)
        yield watches


def plain(dit: dg.DiT) -> tuple[float, float]:
    """Seconds of a run with classifier-free guidance, and the share of its blocks' time that comes after block m."""
    with watched([dit.transformer, *(block.module for block in dit.blocks)]) as (whole, *watches):
        run(dit, PROMPT, guidance=dg.CFG(3.0), **CALL)
    times = [watch.total for watch in watches]
    return whole.total, sum(times[BLOCK + 1 :]) / sum(times)


def guided(dit: dg.DiT) -> float:
    """Seconds of the same run with Detail Guidance by the fork."""
    with watched([dit.transformer]) as (whole,):
        run(dit, PROMPT, guidance=dg.DetailGuidance(3.0, 0.5, OFF), **CALL)
    return whole.total


def measure(layout: str, rounds: int) -> dict[str, Any]:
    """The fork's cost over the limit, median of the rounds; printed."""
    dit, threads = model(layout), torch.get_num_threads()
    costs, limits = [], []
    torch.set_num_threads(1)
    try:
        for round_ in range(max(rounds, REPEATS) + 1):
            seconds, share = plain(dit)
            cost = guided(dit) / seconds
            if round_:  # the first warms up
                costs.append(cost)
                limits.append((2 + share) / 2)
    finally:
        torch.set_num_threads(threads)
    over = np.array(costs) / np.array(limits) - 1
    low, middle, high = np.quantile(over, [0.25, 0.5, 0.75])
    equal = (2 + (BLOCKS - BLOCK - 1) / BLOCKS) / 2
    print(
        f"{layout}: CFG + DG by the fork costs {np.median(costs):.3f} x CFG; the limit is {np.median(limits):.3f} "
        f"({equal:.3f} for equal blocks); {middle:+.1%} of it ({low:+.1%} to {high:+.1%}; goal: within {GOAL:.0%})"
    )
    return {
        "cost": round(float(np.median(costs)), 4),
        "limit": round(float(np.median(limits)), 4),
        "over": round(float(middle), 4),
        "quartiles": [round(float(low), 4), round(float(high), 4)],
        "goal": GOAL,
    }
