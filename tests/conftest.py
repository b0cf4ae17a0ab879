"""Fixtures: tiny DiTs, built once per worker. Read-only: a test that changes one builds its own. And how tests run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

import dg_tools as dg

ROOT = Path(__file__).parents[1]
PAGES = ("browser", "test_docs")  # these share JupyterLab, the browser and the rendered pages
LONGEST = (  # groups of tests that take longest, so that no worker begins with one of them at the end
    "pages",
    "test_training",
    "test_compiled_inductor",
    "test_families",
    "test_sweeps",
    "test_evidence",
    "test_compiled",
    "test_baselines",
    "test_cli",
    "test_widgets_run",
    "test_readme",
    "test_seeds",
    "test_embedded",
    "test_embedded_tools",
)
CORE = (  # what `make check` runs: fast, and something of every room
    "test_capture",
    "test_capture_steps",
    "test_disrupt",
    "test_edits",
    "test_guidance_calls",
    "test_massive",
    "test_metrics",
    "test_notebooks_kept",
    "test_package",
    "test_plots",
    "test_profiles",
    "test_result",
    "test_structure",
    "test_tools",
)
LEFT_OUT = pytest.StashKey[set[int]]()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without job control started this in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C is tested: it must reach what it interrupts


def group(path: Path) -> str:
    """Tests of one group run on one worker: those of a file, and those that need the browser or the pages."""
    return "pages" if path.stem in PAGES or path.parent.name in PAGES else path.stem


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker takes whole groups, in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(Path(nodeid.split("::")[0]))

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_addoption(parser):
    parser.addoption("--core", action="store_true", help="only the files that `make check` runs")
    parser.addoption("--order", default="longest", help="longest (first), reversed, or a seed for a random order")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group(item.path), []).append(item)
    names, order = sorted(groups, key=lambda n: LONGEST.index(n) if n in LONGEST else len(LONGEST)), config.option.order
    if order == "reversed":
        items.reverse()
    elif order != "longest":
        draw = random.Random(int(order))
        draw.shuffle(names)
        for name in names:
            draw.shuffle(groups[name])
    if order != "reversed":
        items[:] = [item for name in names for item in groups[name]]
    if config.option.core:
        left = [item for item in items if group(item.path) not in CORE]
        items[:] = [item for item in items if group(item.path) in CORE]
        config.hook.pytest_deselected(items=left)
        config.stash[LEFT_OUT] = {len(left)}


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = list(session.config.stash.get(LEFT_OUT, ()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash.setdefault(LEFT_OUT, set()).update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter, config):
    if left := config.stash.get(LEFT_OUT, None):
        notebooks = len(list((ROOT / "notebooks").glob("*.ipynb")))
        terminalreporter.write_line(f"Left out: {max(left)} tests and {notebooks} notebooks (make test); make full.")


@pytest.fixture(autouse=True)
def same_threads():
    """A test that sets the number of threads changes no other test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dits():
    """Tiny DiTs by name, built on first use."""
    loaded: dict[str, dg.DiT] = {}

    def get(name: str) -> dg.DiT:
        if name not in loaded:
            loaded[name] = dg.load(tiny.PIPELINES[name]())
        return loaded[name]

    return get


@pytest.fixture(params=list(tiny.PIPELINES))
def dit(request, dits):
    return dits(request.param)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the rendered documentation, built once as `make docs` does: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", "docs", "-d", str(folder / "doctrees"), "-W"]
    command += ["--keep-going", "-q", ".", str(folder / "html")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return folder / "html"
