"""Fifty draws of the random walk with a fixed seed; `make full` draws hundreds with a seed of the day.

Compiled blocks run as torch runs them where it is told not to compile: through the compiled call, hooks and all. In
`make full` they are compiled.
"""

from __future__ import annotations

import random

import pytest
import torch
from draws import LATER, NAMES, draw
from walk import walk

rng = random.Random(0)
DRAWS = [draw(rng, [name for name in NAMES if name not in LATER]) for _ in range(50)]
DRAWS += [draw(rng, [name]) for name in LATER for _ in range(4 if name == "qwen21" else 2)]


def named(way):
    return "-".join((way.family, way.kind, way.call, way.dtype, way.scheduler, way.callback, way.weights))


@pytest.mark.parametrize("way", DRAWS, ids=named)
def test_a_guided_run_is_the_loop_by_hand(way):
    with torch.compiler.set_stance("force_eager"):
        refused, error = walk(way)
    assert refused or error < 1, way
