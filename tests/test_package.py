"""The package's own promises: one list of dependencies, light and stable public names, a small tree."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
import yaml

import dg_tools

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0].lower()


def test_environment_and_pyproject_hold_the_same_list():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    listed = {line.strip()[2:] for line in lines if line.strip().startswith("- ")}
    conda = {name_of(x) for x in listed} - {"conda-forge", "pip", "pip:", "-e .", "python", "-e"}
    assert conda == {name_of(x) for x in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]}


def test_constraints_hold_a_version_of_every_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    pinned = {k.lower().replace("_", "-"): v for k, v in pinned.items()}
    assert pinned["torch"].startswith("2.13.0")
    wanted = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    assert {name_of(x) for x in wanted} - {"dg-tools"} <= set(pinned)  # an extra may hold another


@pytest.mark.parametrize("order", ["names", "reversed(names)"])
def test_public_names_stay_what_they_are(order):
    """No submodule takes a public name's place, whatever was imported first."""
    code = f"""
import dg_tools
names = sorted(dg_tools.__all__)
for _ in range(2):
    for name in {order}:
        assert callable(getattr(dg_tools, name)), name
import importlib, pkgutil
for module in pkgutil.iter_modules(dg_tools.__path__):
    assert module.name not in names or module.name == "cli", module.name
    importlib.import_module("dg_tools." + module.name)
for name in names:
    assert callable(getattr(dg_tools, name)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_first_use_says_nothing():
    """diffusers imports torchao where that is installed, and it logs of kernels that a CPU does not have."""
    code = """
import logging, dg_tools as dg
dg.CFG
try:
    dg.load(3)
except TypeError:
    assert not logging.getLogger("torchao").filters
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_import_is_light():
    code = "import sys, dg_tools; assert not {'torch', 'diffusers', 'nnsight', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_names_and_errors_of_the_package():
    assert 10 <= len(dg_tools.__all__) <= 17 and set(dg_tools.__all__) <= set(dir(dg_tools))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dg_tools.nothing
    assert (ROOT / "dg_tools" / "py.typed").is_file()


def test_dir_shows_the_api_and_nothing_else():
    shown = dir(dg_tools)
    assert shown == sorted({*dg_tools.__all__, *dg_tools._MODULES, "__version__"})
    assert all(hasattr(dg_tools, name) for name in shown)
    assert dg_tools.__version__ == importlib.metadata.version("dg-tools")


def test_the_core_does_without_the_extra(tmp_path):
    """Explorers and the turning surface say how to get what they need; nothing else misses it."""
    code = """
import sys
for name in ("ipywidgets", "anywidget", "plotly", "traitlets", "jupyterlab", "IPython"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import numpy as np
import dg_tools as dg
from dg_tools import cli, demo, plots, report
dit = dg.load()
acts = dg.capture(dit, "owl", steps=1, progress=False)
assert "svg" in acts._repr_html_() and "svg" in dit._repr_html_()
dg.generate(dit, "owl", steps=1, guidance=dg.CFG(2.0), progress=True).grid()
asked = [lambda: dg.widgets.ActivationExplorer(acts), lambda: plots.token_channel_surface_plotly(np.ones((4, 3)))]
for ask in asked:
    try:
        ask()
    except ImportError as error:
        assert "pip install 'dg-tools[lab]'" in str(error), error
    else:
        raise AssertionError("it needs what is not there")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"] and cited["authors"] == PROJECT["authors"]
    (paper,) = cited["references"]
    words = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert paper["title"] in words and paper["identifiers"][0]["value"] == "arXiv:2510.11538"


def test_the_page_of_refusals_holds_the_table():
    from dg_tools.forward.refusals import REFUSALS, page

    text = (Path(__file__).parents[1] / "docs" / "refusals.md").read_text(encoding="utf-8")
    assert text == page(), "docs/refusals.md is `dg_tools.forward.refusals.page()`: write it again"
    for refusal in REFUSALS.values():
        assert refusal.sentence in text and refusal.instead in text and "|" not in refusal.sentence + refusal.instead


def test_no_shipped_file_names_a_folder_of_the_machine_that_made_it():
    shipped = [*(ROOT / "dg_tools" / "zoo").rglob("*.json"), *(ROOT / "evidence").rglob("*.json")]
    shipped += (ROOT / "docs").rglob("*.json")
    assert len(shipped) > 20
    found = {str(file): re.findall(r'"/\w[^"]*"', file.read_text(encoding="utf-8")) for file in shipped}
    assert not {name: paths for name, paths in found.items() if paths}


def test_every_name_of_the_tiny_model_files_is_described():
    """Those that tests read of a family's file, and no others, in CONTRIBUTING."""
    files = [*(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    pattern = r'\b(?:about|ABOUT)\.(\w+)|\b(?:about|ABOUT|FAMILIES\.get\([\w.]+\)), "(\w+)"|module, "(published)"'
    defined = {name for file in tiny.families().values() for name in vars(file)}
    read = {"".join(names) for names in re.findall(pattern, code)} & defined - {"pipeline"}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    always = set(re.findall(r"`(\w+)`", text[text.index("`PROMPTS`") : text.index("(an edit by a plain hook)")]))
    rows = re.findall(r"^  \| (`.+?) \|", text, re.MULTILINE)
    assert read == always | set(re.findall(r"`(\w+)[(`]", " ".join(rows)))
