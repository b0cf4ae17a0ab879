"""Fifty draws of the random walk with a fixed seed; `make full` draws hundreds with a seed of the day."""

from __future__ import annotations

import random

import pytest
from draws import draw
from walk import TOLERANCE, walk

rng = random.Random(0)
DRAWS = [draw(rng) for _ in range(50)]


def named(way):
    return "-".join((way.family, way.kind, way.call, way.dtype, way.scheduler, way.callback, way.weights))


@pytest.mark.parametrize("way", DRAWS, ids=named)
def test_a_guided_run_is_the_loop_by_hand(way):
    refused, error = walk(way)
    assert refused or error < TOLERANCE[way.dtype], way
