"""Fixtures: tiny DiTs, built once a session. Read-only: a test that changes one builds its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import dg_tools as dg

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without job control started this in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C is tested: it must reach what it interrupts


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


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the rendered documentation, built once as `make docs` does: a warning is an error."""
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", "docs", "-d", str(built / "doctrees"), "-W"]
    made = subprocess.run(
        [*command, "--keep-going", "-q", ".", str(built / "html")],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return built / "html"
