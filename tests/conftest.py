"""Fixtures: tiny DiTs, built once a session. Read-only: a test that changes one builds its own."""

from __future__ import annotations

import pytest
import tiny

import dg_tools as dg


@pytest.fixture(scope="session")
def dits():
    """Tiny DiTs by name, built on first use."""
    made: dict[str, object] = {}

    def get(name: str):
        if name not in made:
            made[name] = dg.load(tiny.PIPELINES[name]())
        return made[name]

    return get


@pytest.fixture(params=list(tiny.PIPELINES))
def dit(request, dits):
    return dits(request.param)
