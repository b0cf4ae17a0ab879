"""What developers run: files made smaller without a visible change, and the size of the whole tree."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from tools import compare_evidence, notebook_thumbnails, regenerate_notebooks, shrink, wheel_check
from tools.compare_evidence import differences

ROOT = Path(__file__).parents[1]
MEGABYTES = 60  # what travels to another machine must stay below 64 MiB
IGNORED = {".git", ".venv", "build", "dist", "runs", "__pycache__"}


def tracked() -> dict[str, int]:
    """Sizes of the files that git tracks; in a copy without git, of all but what it would ignore."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True) if (ROOT / ".git").exists() else None
    if listed and listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        inside = {p: p.relative_to(ROOT).parts for p in ROOT.rglob("*") if "_cache" not in str(p)}
        files = [p for p, parts in inside.items() if not IGNORED & set(p.parts) and parts[0] != "demo"]
    return {str(p.relative_to(ROOT)): p.stat().st_size for p in files if p.is_file()}


def test_the_tracked_tree_stays_small():
    sizes = tracked()
    total = sum(sizes.values()) / 1e6
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:20]
    report = "\n".join([f"{len(sizes)} files, {total:.1f} MB", *(f"{sizes[n]:>12,} {n}" for n in largest)])
    print(report)
    assert len(sizes) > 100 and total < MEGABYTES, report


def png(pixels: np.ndarray) -> bytes:
    into = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(into, "png")
    return into.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def chart() -> np.ndarray:
    """White with two lines in two colours."""
    page = np.full((80, 120, 3), 255)
    page[20:22], page[:, 50:52] = (31, 119, 180), (255, 127, 14)
    return page


def photograph() -> np.ndarray:
    """Smooth colours with noise: more than any palette holds."""
    y, x = np.mgrid[:120, :160]
    smooth = np.stack([x, y, 200 - x], -1) + np.random.default_rng(0).normal(0, 6, (120, 160, 3))
    return np.clip(smooth, 0, 255)


@pytest.mark.parametrize("picture, exact", [(chart(), True), (photograph(), False)], ids=["chart", "photograph"])
def test_a_smaller_picture_looks_the_same(picture, exact):
    before = png(picture)
    after = shrink.smaller(before)
    assert len(after) < len(before)
    assert shrink.ratio(pixels(before), pixels(after)) > shrink.FAITHFUL
    assert np.array_equal(pixels(before), pixels(after)) == exact
    again = shrink.smaller(after)
    assert len(again) <= len(after)


def test_the_ratio_of_pictures():
    black = np.zeros((2, 2, 3), np.uint8)
    assert shrink.ratio(black, black) == float("inf") and shrink.ratio(black, black + 255) == 0


def test_webp_and_json_hold_the_same(tmp_path, monkeypatch, capsys):
    hidden = np.zeros((16, 16, 4), np.uint8)
    hidden[..., 0] = 90  # red below transparent pixels
    hidden[4:8, :, 3] = 255
    Image.fromarray(hidden).save(tmp_path / "a.webp", lossless=True, quality=0, method=0, exact=True)
    (tmp_path / "b.json").write_text(json.dumps({"é": [1, 2.5]}, indent=4, ensure_ascii=False), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["shrink", str(tmp_path / "a.webp"), str(tmp_path / "b.json")])
    shrink.main()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.webp")), hidden)
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == '{"é":[1,2.5]}\n'
    lossy = io.BytesIO()
    Image.fromarray(hidden).save(lossy, "webp", quality=50)
    assert shrink.shrink_webp(lossy.getvalue()) == lossy.getvalue()
    assert capsys.readouterr().out.count("kB, now") == 2
    monkeypatch.setattr(sys, "argv", ["shrink", __file__])
    with pytest.raises(SystemExit):
        shrink.main()
    assert "only .ipynb" in capsys.readouterr().err


def test_only_pictures_of_a_notebook_change(tmp_path, monkeypatch):
    data = {"image/png": base64.b64encode(png(chart())).decode(), "text/plain": "<Figure>"}
    output = nbformat.v4.new_output("display_data", data=data)
    cell = nbformat.v4.new_code_cell("1", outputs=[output], execution_count=1)
    file = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), file)
    before = json.loads(file.read_text())
    monkeypatch.setattr(sys, "argv", ["shrink", str(file)])
    shrink.main()
    after = json.loads(file.read_text())
    old, new = (n["cells"][0]["outputs"][0]["data"].pop("image/png") for n in (before, after))
    assert len(new) < len(old) and before == after


@pytest.mark.parametrize("tool", [compare_evidence, notebook_thumbnails, regenerate_notebooks, shrink, wheel_check])
def test_help(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [tool.__name__, "--help"])
    with pytest.raises(SystemExit) as stopped:
        tool.main()
    assert stopped.value.code == 0 and tool.__doc__.split(":")[0].split()[0] in capsys.readouterr().out


def test_what_a_wheel_must_hold_is_there():
    assert not [name for name in wheel_check.SHIPPED if not (ROOT / "dg_tools" / name).is_file()]


def test_groups_of_tests_are_files(pytestconfig):
    """`make check` and the order of the groups name files that are there."""
    plugin = next(p for p in pytestconfig.pluginmanager.get_plugins() if hasattr(p, "LONGEST") and hasattr(p, "CORE"))
    names = {*plugin.CORE, *plugin.LONGEST} - {"pages"}
    assert not [name for name in names if not (ROOT / "tests" / f"{name}.py").is_file()]
    assert {plugin.group(ROOT / "tests" / n) for n in ("test_docs.py", "browser/test_pages.py")} == {"pages"}


def test_evidence_is_compared_but_for_its_times(tmp_path):
    for name, seconds, value in (("a", 1.0, 0.5), ("b", 2.0, 0.5), ("c", 1.0, 0.6)):
        folder = tmp_path / name / "model" / "tokens"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"estimate": value, "settings": [{"seconds": seconds}]}))
        (folder / "table.csv").write_text("x\n1\n")
    assert differences(tmp_path / "a", tmp_path / "b") == []
    assert differences(tmp_path / "a", tmp_path / "c", "model") == ["differs: model/tokens/result.json"]
    (tmp_path / "b" / "model" / "tokens" / "table.csv").write_text("x\n2\n")
    (tmp_path / "a" / "model" / "more.csv").write_text("x\n")
    assert len(differences(tmp_path / "a", tmp_path / "b")) == 2
    with pytest.raises(FileNotFoundError, match="no results"):
        differences(tmp_path / "d", tmp_path / "a")
