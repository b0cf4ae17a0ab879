"""What the committed notebooks promise: run in one go, whole, small, tidy, and named in the README."""

from __future__ import annotations

import ast
import importlib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import dg_tools as dg
from tools.notebook_thumbnails import thumbnail

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"nbval-ignore-output", "nbval-skip", "raises-exception", "thumbnail"}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code(notebook: dict) -> list[dict]:
    return [c for c in notebook["cells"] if c["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert [p.stem for p in NOTEBOOKS][:3] == ["00_start_here", "01_look_inside", "02_find_massive"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_kept_whole(path):
    notebook = read(path)
    cells = code(notebook)
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1)), (
        "run it from top to bottom: make notebooks"
    )
    assert len(cells) <= 25 and path.stat().st_size < 1_000_000
    assert notebook["metadata"]["kernelspec"]["name"] == "python3" and "widgets" not in notebook["metadata"]
    assert notebook["nbformat"] == 4
    tags = [t for c in cells for t in c["metadata"].get("tags", [])]
    assert set(tags) <= TAGS
    assert sum(t in ("nbval-ignore-output", "nbval-skip") for t in tags) <= 2
    for cell in cells:
        assert not [o for o in cell["outputs"] if o.get("name") == "stderr"], (
            "a warning is a defect, a bar is not an output"
        )
        errors = [o for o in cell["outputs"] if o["output_type"] == "error"]
        assert not errors or "raises-exception" in cell["metadata"].get("tags", [])
    pictures = [o for c in cells for o in c["outputs"] if "image/png" in o.get("data", {})]
    assert pictures, "a tutorial shows something"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_readable(path):
    notebook = read(path)
    cells = notebook["cells"]
    first, last = source(cells[0]), source(cells[-1])
    assert cells[0]["cell_type"] == "markdown" and first.startswith("# ")
    assert "You will see" in first and "Time" in first
    for word in ("Summary", "Exercises", "Next"):
        assert f"**{word}" in last or f"## {word}" in last, word
    for cell in code(notebook):
        text = source(cell)
        assert not re.search(r"^\s*[!%]|google\.colab|os\.environ|/home/|/root/", text, re.M), text
        assert len(text.splitlines()) <= 14, "long code belongs into the package"
    everything = json.dumps(notebook)
    assert not re.search(r"/(home|root|tmp|work)/", everything), "a path of the machine that ran it"


def after(text: str, word: str) -> str:
    """What a head or a last cell says under one of its words, up to the next one."""
    return re.split(rf"(?:\*\*|## ){word}\b", text)[-1].split("\n## ")[0]


@pytest.mark.parametrize("path, following", list(pairwise(NOTEBOOKS)), ids=lambda p: p.stem)
def test_next_leads_to_the_next_one(path, following):
    links = re.findall(r"\]\(([^)]*)\)", after(source(read(path)["cells"][-1]), "Next"))
    assert links[:1] == [following.name]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_needs_is_true(path):
    """What a notebook reads besides the package without extras, it names in its head, and nothing else."""
    notebook = read(path)
    needs, text = after(source(notebook["cells"][0]), "Needs"), "\n".join(source(c) for c in code(notebook))
    wanted = {
        "repository": '"../' in text,
        "[lab]": "dg.widgets" in text or "_plotly(" in text,
        "peft": "from peft" in text,
        "torchao": "from torchao" in text,
    }
    assert {word: word in needs for word in wanted} == wanted


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_imports_are_public_and_exist(path):
    """Every name of the package that a notebook's code imports, or takes from `dg`."""
    text = "\n".join(source(c) for c in code(read(path)))
    for line in re.findall(r"^ *(?:from|import) dg_tools.*", text, re.M):
        assert not re.search(r"[. ]_", line), f"an underscore module is not for readers: {line}"
        for node in ast.parse(line.strip()).body:
            if isinstance(node, ast.ImportFrom):
                home = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(home, alias.name), line
    for name in set(re.findall(r"\bdg\.(\w+)", text)):
        assert hasattr(dg, name), f"dg.{name}"


def test_readme_shows_every_notebook():
    """With its thumbnail, drawn from the picture that it keeps now."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        small = f"docs/thumbnails/{path.stem}.png"
        assert f"[![]({small})](notebooks/{path.name}) | [{path.stem}](notebooks/{path.name})" in readme, path.name
        assert Image.open(ROOT / small).tobytes() == thumbnail(path).tobytes(), "make notebooks"


def test_every_sanitizing_rule_is_read():
    """nbval reads the file with one pattern and drops in silence what does not match."""
    text = (ROOT / "tests" / "notebooks_sanitize.cfg").read_text(encoding="utf-8")
    rules = re.findall(r"^regex: (.*)$[\n\r]^replace: (.+)$", text, re.M)
    assert len(rules) == text.count("regex:") == text.count("replace:")
