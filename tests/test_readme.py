"""The code of the README and of its pages runs as it stands, on the embedded model."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import DiffusionPipeline

import dg_tools as dg
from dg_tools.guidance.auto import samples, scan, store
from dg_tools.metrics import WeakModelRule

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in (
    "guidance", "baselines", "families", "sweeps", "commands", "claims", "layout"
)}  # fmt: skip


def blocks() -> tuple[list[str], list[str]]:
    """Python blocks: those on the embedded model, and those that load published weights."""
    text = "\n".join((README, PAGES["guidance"], PAGES["baselines"], PAGES["claims"]))
    found = re.findall(r"```python\n(.*?)```", text, re.S)
    real = [block for block in found if "from_pretrained(" in block]
    return [block for block in found if block not in real], real


@pytest.mark.parametrize("name", ["guidance", "baselines", "claims"])
def test_the_code_of_a_page_stands_alone(name):
    """A reader copies the page's code alone: every name is defined on the page before it is used."""
    known = set(dir(builtins))
    for block in re.findall(r"```python\n(.*?)```", PAGES[name], re.S):
        nodes = [n for n in ast.walk(ast.parse(block)) if isinstance(n, ast.Name | ast.alias)]
        known |= {(n.asname or n.name).split(".")[0] for n in nodes if isinstance(n, ast.alias)}
        known |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        assert used <= known, block


def execute(code: str, name: str, **given: object) -> dict[str, object]:
    """Run code from a file: nnsight reads the source of a trace's body."""
    script = ROOT / "build" / f"{name}.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code, encoding="utf-8")
    scope = {"__name__": name, **given}
    exec(compile(code, str(script), "exec"), scope)
    return scope


FEWER = (("steps=20", "steps=2"), ("pictures=8", "pictures=2"), ("(20)", "(2)"))
FEWER += (("sample(6, seed=3", "sample(4, seed=3"), ('"steps": 4', '"steps": 2'))
FEWER += (('"controls": 5', '"controls": 2'), ("steps=4)", "steps=2)"))


def test_the_code_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    code, _ = blocks()
    assert len(code) == 6 and len(code[0].strip().splitlines()) <= 12
    assert len(README.split()) <= 1400, "the rest has pages of its own"
    text = "\n".join(code)  # the same calls on fewer steps, pictures and controls
    for old, new in FEWER:
        assert old in text
        text = text.replace(old, new)
    execute(text, "readme")


def test_the_code_for_real_models_runs_on_folders_of_their_classes(monkeypatch, tmp_path):
    """As it stands but for the names of the weights, the device, the size and the number of steps."""
    _, code = blocks()
    medium = tiny.PIPELINES["sd35-medium"]()
    tiny.plant(medium, 1, [5, 20], 400.0)
    medium.save_pretrained(tmp_path / "sd35")
    tiny.flux(guidance_embeds=True, single=19).save_pretrained(tmp_path / "flux")
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "profiles")
    # random weights lack detail by chance only: here every weak model counts
    monkeypatch.setattr(scan, "RULE", WeakModelRule(-99.0, 99.0, -1.0, 0.0, -99.0, -99.0))
    monkeypatch.setattr(samples, "LOW_KEPT", -1.0)
    changes = {
        "stabilityai/stable-diffusion-3.5-medium": str(tmp_path / "sd35"),
        "black-forest-labs/FLUX.1-dev": str(tmp_path / "flux"),
        '.to("cuda")': "",
        "enable_model_cpu_offload()": 'enable_model_cpu_offload(device="cpu")',
        "bfloat16": "float32",
        "[154, 1446]": "[3, 7]",
        "num_inference_steps=28": "num_inference_steps=2, height=32, width=48",
    }
    assert len(code) == 3
    for i, block in enumerate(code):
        for old, new in changes.items():
            block = block.replace(old, new)
        made = execute(block, f"readme_real_{i}", dg=dg, torch=torch, DiffusionPipeline=DiffusionPipeline)
        assert made["image"].size == (48, 32)
    assert str(made["run"].report).startswith("guided 2 of 2 steps, push 0.")
    assert list((tmp_path / "profiles").glob("*.json")), "auto kept what it chose"


def test_the_sweep_runs(monkeypatch, tmp_path):
    """As it stands but for fewer blocks, weights, references and steps; and the two lines after it."""
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGES["sweeps"], re.S)
    changes = {"[0, 4, 8]": "[0]", "[0.25, 0.5]": "[0.5]", "references: 32 ": "references: 8 "}
    for old, new in {**changes, "folder:": "steps: 2\nfolder:"}.items():
        assert old in block
        block = block.replace(old, new)
    Path("sweep.yaml").write_text(block, encoding="utf-8")
    made = dg.sweep("sweep.yaml", progress=False)
    again = dg.sweeps.open_sweep("sweeps/emoji")
    assert {s.guidance for s in again.plan.settings} == {"cond", "DG", "CFG", "control"} and again.plot().axes
    if made.profile:  # no setting of DG may hold the objective's guard
        assert dg.DetailGuidance.from_profile("sweeps/emoji/profile.json").disrupt.block == 0


def test_the_short_table_is_that_of_the_page():
    """Its rows are rows of docs/baselines.md, which `evidence.rivals_table` writes, without the planted model."""
    rows = [
        line.split("|")[1:-1]
        for line in README.splitlines()
        if line.startswith(("| guidance |", "| DG", "| CFG", "| PAG", "| Gain"))
    ]
    long = [line.split("|")[1:-1] for line in PAGES["baselines"].splitlines()]
    assert len(rows) == 6 and rows[0] == long[[r[:1] for r in long].index([" guidance "])][:4]
    assert all(row in [r[:4] for r in long] for row in rows)


def test_the_wheel_has_the_name_that_is_installed():
    assert f'"dg_tools-{dg.__version__}-py3-none-any.whl[lab]"' in README


def test_links_and_pictures_exist():
    for folder, text in ((ROOT, README), *((ROOT / "docs", text) for text in PAGES.values())):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (folder / target).exists(), target


def test_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = "\n".join((README, *PAGES.values())) + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"`?make ([a-z]+)(?: [A-Z]+=[^`\n]*)?(?:`|  )", pages))
    assert commands >= {"check", "demo", "docs", "evidence", "lab", "test"}
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.M), command


def test_the_map_names_what_is_there():
    """Every file and folder of the package has its place in the map, and every place exists."""
    section = PAGES["layout"]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    places = [place for row in rows for place in re.findall(r"`([^`]+)`", row)]
    assert 8 <= len(rows) <= 14 and len(set(places)) == len(places)
    for place in places:
        assert (ROOT / "dg_tools" / place).exists(), place
    package = ROOT / "dg_tools"
    folders = {f"{p.name}/" for p in package.iterdir() if p.is_dir() and not p.name.startswith("_")}
    assert folders <= set(places)
    for place in re.findall(r"`([a-z]+/)`", section.split("Beside it:")[1]):
        assert (ROOT / place).is_dir(), place
