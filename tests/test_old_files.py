"""Files that an earlier version wrote still open, and mean the same: see tests/files/README.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import called

import dg_tools as dg
from dg_tools.generation.recipes import again, read_picture, recipe, write_picture
from dg_tools.interventions.settings import MODES
from dg_tools.models.profiles import read_profile
from dg_tools.sweeps import open_sweep

FILES = Path(__file__).parent / "files"
RECIPES = json.loads((FILES / "recipes.json").read_text(encoding="utf-8"))
EDITS = json.loads((FILES / "edits.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def emoji():
    return dg.load()


def test_they_are_small():
    assert sum(f.stat().st_size for f in FILES.rglob("*") if f.is_file()) < 150_000


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_under_each_guidance(name, emoji):
    """The same guidance, cost and recipe."""
    old = RECIPES[name]
    made = again(emoji, old["recipe"])
    assert made.settings[0]["guidance"] == old["words"] and made.block_calls == [old["block_calls"]]
    guidance = None
    if name != "cond":
        kind = getattr(dg, name, None) or getattr(dg.baselines, name)
        guidance = kind(**{k: v for k, v in old["recipe"]["guidance"].items() if k != "name"})
    new = json.loads(json.dumps(recipe(emoji, made.settings[0], guidance)))
    del new["versions"], old["recipe"]["versions"]
    assert new == old["recipe"]


def test_a_picture_is_made_again(emoji):
    image, by = read_picture(FILES / "red-apple.png")
    assert by == json.loads(Image.open(FILES / "red-apple.png").info["dg_tools"])
    made = again(emoji, by).images[0]
    assert np.abs(np.asarray(made.convert("RGB"), float) - np.asarray(image, float)).mean() < 0.5


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_each_mode(name, monkeypatch):
    monkeypatch.chdir(FILES)  # the donor's file is named relative to it
    edit = dg.Disrupt.from_json(EDITS[name]["edit"])
    assert edit.sentence() == EDITS[name]["sentence"] and json.loads(json.dumps(edit.to_json())) == EDITS[name]["edit"]


def test_every_mode_is_among_them():
    since = {"steer"}  # came after these files were written
    assert {e["edit"]["mode"] for e in EDITS.values()} == set(MODES) - since


def test_guiders_as_json():
    guider = dg.DetailGuidance.from_pretrained(FILES / "guider")
    assert (guider.guidance_scale, guider.detail_guidance_scale, guider.detail_guidance_stop) == (3.0, 0.5, 0.8)
    assert guider.disrupt == dg.Disrupt([55, 58], 0)
    pag = dg.baselines.PAG.from_pretrained(FILES / "guider-pag")
    assert (pag.guidance_scale, pag.weight, pag.blocks) == (3.0, 0.5, [5, 6])


def test_a_capture(tmp_path):
    shutil.unpack_archive(FILES / "acts.zarr.zip", tmp_path / "acts.zarr")
    acts = dg.open_activations(tmp_path / "acts.zarr")
    assert float(acts.data["mean"].isel(site=-1).sum()) == pytest.approx(787.86218)
    assert float(acts.data["hidden_states"].sum()) == pytest.approx(2252.33033)
    assert acts.data.sizes["raw_token"] == 3 and acts.data.attrs["family"] == "sd3"
    channels = dg.find_massive(acts)
    assert channels.channels == [5] and channels.onset == {5: 1}


def test_a_sweep_and_its_profile(tmp_path, emoji, caplog):
    """Opened, continued without a new cell, and its choice used."""
    folder = tmp_path / "sweep"
    shutil.copytree(FILES / "sweep", folder)
    old = open_sweep(folder)
    assert not old.missing and len(old.table) == 35 and old.recommended == "DG 0.5 at block 5, channels [55, 58]"
    chosen = json.loads((folder / "chosen.json").read_text(encoding="utf-8"))
    assert old.verdict == chosen["verdict"] and old.report["cost"].tolist() == [row["cost"] for row in chosen["test"]]
    names = {f.name for f in (folder / "cells").iterdir()}
    profile = (folder / "profile.json").read_text(encoding="utf-8")
    new = dg.sweep({**old.plan.config, "folder": str(folder)}, emoji, progress=False)
    assert "was started with bands per pixel, and continues with them" in caplog.text and new.plan.cell is None
    assert {f.name for f in (folder / "cells").iterdir()} == names and new.chosen == old.chosen
    assert json.loads((folder / "profile.json").read_text(encoding="utf-8")) == json.loads(profile)
    assert read_profile(folder)["block"] == 5
    guider = dg.DetailGuidance.from_profile(folder / "profile.json")
    assert guider.disrupt == dg.Disrupt([55, 58], 5) and guider.detail_guidance_scale == 0.5


def test_a_profile_of_the_explorer():
    """Its scales stand under `guidance`."""
    file = FILES / "explorer" / "profile.json"
    assert read_profile(file)["channels"] == [55, 58]
    new = dg.DetailGuidance.from_profile(file)
    assert new.config == dg.DetailGuidance(3.0, 0.5, dg.Disrupt([55, 58], 0), 0.0, 0.8).config


@pytest.mark.parametrize("name, words", [("cfg", "CFG 3"), ("dg", "DG 0.5"), ("dg_cfg", "CFG 3 + DG 0.5")])
def test_a_picture_of_the_explorer_is_made_again(name, words, emoji):
    """It says neither the weights nor the precision; the model that it names makes the same picture."""
    image, by = read_picture(FILES / "explorer" / f"{name}.png")
    made = again(emoji, by)
    assert made.settings[0]["guidance"] == words
    assert np.abs(np.asarray(made.images[0].convert("RGB"), float) - np.asarray(image, float)).mean() < 0.5


def test_the_command_line_completes_the_recipe_of_such_a_picture(tmp_path, monkeypatch, capsys):
    file = FILES / "explorer" / "dg_cfg.png"
    code, _, error = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path, "--json")
    assert code in (0, 3), "the same, or other bits on another machine"
    assert "without weights, precision and versions" in error
    made_by = read_picture(tmp_path / "dg_cfg.png")[1]
    assert made_by["weights"] == RECIPES["cond"]["recipe"]["weights"] and made_by["dtype"] == "float32"


def test_a_picture_of_the_explorer_that_says_too_little(tmp_path):
    settings = {"prompt": "owl", "seed": 0, "guidance": "CFG"}
    file = write_picture(Image.new("RGB", (8, 8)), tmp_path / "x.png", settings)
    with pytest.raises(ValueError, match="holds settings without model, weights"):
        read_picture(file)
