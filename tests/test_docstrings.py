"""Every example in a docstring is run and gives what it says; every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pydoc
import re
from pathlib import Path

import pytest
import torch

import dg_tools as dg

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PACKAGE = Path(dg.__file__).parent


def modules() -> list[str]:
    """Those with an example in them."""
    files = [f for f in sorted(PACKAGE.rglob("*.py")) if ">>> " in f.read_text(encoding="utf-8")]
    return [".".join(("dg_tools", *f.relative_to(PACKAGE).with_suffix("").parts)) for f in files]


def examples(module: str) -> list[doctest.DocTest]:
    home = importlib.import_module(module)
    return [t for t in doctest.DocTestFinder(exclude_empty=True).find(home, module) if t.examples]


@pytest.fixture(scope="module")
def shown():
    """What every example may use: the package and its default model, loaded once."""
    return {"dg": dg, "dit": dg.load()}


@pytest.mark.parametrize("name", dg.__all__)
def test_every_public_name_has_an_example_with_output(name):
    found = doctest.DocTestParser().get_examples(inspect.getdoc(getattr(dg, name)) or "")
    assert any(f"dg.{name}" in e.source for e in found) and any(e.want for e in found), name
    assert not any(doctest.SKIP in e.options for e in found)


def test_every_name_of_the_api_page_has_an_example_that_runs_or_says_that_it_takes_minutes():
    """The page names the ones that take minutes; every other example is run."""
    page = (PACKAGE.parent / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    names = re.findall(r"\{py:(?:func|class)\}`[\w.]+ <(dg_tools[\w.]+)>`", page)
    long = set(re.findall(r"`([\w.]+)`", page.split("take minutes", 1)[1].split("\n\n", 1)[0]))
    assert len(names) > 25 and long
    for name in names:
        found = doctest.DocTestParser().get_examples(inspect.getdoc(pydoc.locate(name)) or "")
        runs = [e for e in found if doctest.SKIP not in e.options]
        assert found and bool(runs) != (name.rsplit(".", 1)[1] in long), name


@pytest.mark.parametrize("module", modules())
def test_examples_give_what_they_say(module, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    torch.set_num_threads(1)
    for test in examples(module):
        test.globs = {**test.globs, **shown}
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)
