"""`dg-tools generate`: pictures that carry their settings, the same again, and what is kept when it is stopped."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import tiny
import torch
from diffusers.guiders import SkipLayerGuidance
from PIL import Image
from test_cli import called
from typer.testing import CliRunner

import dg_tools as dg
from dg_tools.generation.recipes import KEY, again, file_name, read_picture, recipe, write_picture
from dg_tools.models.provenance import weights_hash

runner = CliRunner()
QUICK = ["--steps", "3"]


def pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_a_picture_carries_its_settings_and_is_made_again(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    code, printed, _ = called(monkeypatch, capsys, "generate", "red apple", "--dg", "2", "--cfg", "3", "-o", out,
                              "--seed", "7", *QUICK, "--json")  # fmt: skip
    made = json.loads(printed)
    assert code == 0 and [p["in words"] for p in made["pictures"]] == ["CFG 3", "CFG 3 + DG 2"]
    assert sorted(p.name for p in out.iterdir()) == [
        "grid.png", "red-apple-seed-7-cfg-3-dg-2.png", "red-apple-seed-7-cfg-3.png",
    ]  # fmt: skip
    dit = dg.load()
    off = dg.Disrupt.from_profile(dit.profile)
    guided = dg.generate(dit, "red apple", seed=7, steps=3, guidance=dg.DetailGuidance(3.0, 2.0, off), progress=False)
    file = out / "red-apple-seed-7-cfg-3-dg-2.png"
    assert (pixels(file) == np.asarray(guided.images[0].convert("RGB"))).all(), "what the library's call gives"
    by = json.loads(Image.open(file).info[KEY])
    assert (by["prompt"], by["seed"], by["steps"], by["height"], by["width"]) == ("red apple", 7, 3, 64, 64)
    assert by["guidance"]["name"] == "DetailGuidance" and by["guidance"]["disrupt"] == off.to_json()
    assert (by["guidance"]["guidance_scale"], by["guidance"]["detail_guidance_scale"]) == (3.0, 2.0)
    assert by["model"] == "emoji-sd3" and by["weights"] == weights_hash(dit) and by["dtype"] == "float32"
    done = {**guided.guided[0].summary(), "steps": 3, "planned": 3, "guided": 3}
    assert by["guided"] == done and "guided" not in json.loads(Image.open(out / "red-apple-seed-7-cfg-3.png").info[KEY])
    assert [p.get("guided") for p in made["pictures"]] == [None, done]
    assert {"torch", "diffusers", "dg_tools"} <= set(by["versions"]) and str(tmp_path) not in json.dumps(by)
    for picture in (file, out / "red-apple-seed-7-cfg-3.png"):
        code, printed, _ = called(monkeypatch, capsys, "generate", "--from", picture, "-o", out, "--json")
        repeated = json.loads(printed)
        assert code == 0 and repeated["same"] and repeated["pixels_that_differ"] == 0
        assert repeated["file"] != str(picture) and (pixels(repeated["file"]) == pixels(picture)).all()
        assert read_picture(repeated["file"])[1] == read_picture(picture)[1]
    assert (pixels(file) != pixels(out / "red-apple-seed-7-cfg-3.png")).any()


def test_what_a_guidance_did_is_said_and_not_compared(tmp_path, monkeypatch, capsys):
    code, printed, _ = called(monkeypatch, capsys, "generate", "owl", "--dg", "2", "-o", tmp_path, *QUICK)
    assert code == 0 and "DG 2, seed 0: guided 3 of 3 steps, push 0." in printed
    file = tmp_path / "owl-seed-0-dg-2.png"
    image, by = read_picture(file)
    for other in ({k: v for k, v in by.items() if k != "guided"}, {**by, "guided": "another word"}):
        changed = write_picture(image, tmp_path / "other.png", other)
        code, printed, _ = called(monkeypatch, capsys, "generate", "--from", changed, "-o", tmp_path / "o")
        assert code == 0 and "pixel by pixel" in printed and "guided 3 of 3 steps" in printed
    assert read_picture(next((tmp_path / "o").iterdir()))[1]["guided"] == by["guided"]


def test_another_picture_is_exit_code_3(tmp_path, monkeypatch, capsys):
    dit = dg.load()
    made = dg.generate(dit, "owl", seed=0, steps=2, progress=False)
    by = recipe(dit, made.settings[0], None)
    file = write_picture(made.images[0], tmp_path / "x.png", {**by, "seed": 1})  # settings of another picture
    code, printed, error = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path / "o", "--json")
    assert code == 3 and not json.loads(printed)["same"] and "the picture differs from the first one" in error
    old = {**by, "versions": {**by["versions"], "torch": "1.0"}}
    file = write_picture(made.images[0], tmp_path / "y.png", old)
    code, _, error = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path / "o")
    assert code == 0 and "(was 1.0)" in error, "other versions are said"
    file = write_picture(made.images[0], tmp_path / "w.png", {**by, "device": "nothing"})
    code, _, error = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path / "o")
    assert code == 1 and "device 'nothing' cannot be used here" in error
    file = write_picture(made.images[0], tmp_path / "z.png", {**by, "weights": "0" * 16})
    code, _, error = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path / "o")
    assert code == 1 and "made by weights 0000" in error


def test_a_folder_of_ones_own_is_asked_for(tmp_path, monkeypatch, capsys):
    tiny.sd3().save_pretrained(tmp_path / "mine")
    own = ["-m", tmp_path / "mine"]
    size = ["--height", "32", "--width", "48"]
    code, *_ = called(monkeypatch, capsys, "generate", "owl", *own, *QUICK, *size, "-o", tmp_path / "o", "--dg", "1",
                      "--channel", "3", "--block", "1", "--alone")  # fmt: skip
    (file,) = (tmp_path / "o").iterdir()  # alone: no picture without DG, no grid
    assert code == 0 and file.name == "owl-seed-0-dg-1.png" and pixels(file).shape == (32, 48, 3)
    code, _, error = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path / "o")
    assert code == 1 and "made by 'mine'" in error and "--model FOLDER" in error
    code, *_ = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path / "o", *own)
    assert code == 0
    code, _, error = called(monkeypatch, capsys, "generate", "owl", *own, "--dg", "1", "-o", tmp_path / "o")
    assert code == 1 and "pass --channel" in error and "--auto" in error


@pytest.mark.parametrize(
    "guidance", [None, dg.CFG(2.0, stop=0.6), dg.DetailGuidance(1.0, 0.5, dg.Disrupt([3], 1), 0.5)]
)
def test_a_recipe_serves_every_family(dit, guidance):
    call = {"steps": 2, **tiny.SIZE}
    made = dg.generate(dit, "apple", seed=3, guidance=guidance, progress=False, **call)
    by = json.loads(json.dumps(recipe(dit, made.settings[0], guidance)))
    assert torch.equal(again(dit, by).latents, made.latents)
    other = {**by, "guidance": {"name": "CFG", "guidance_scale": 5.0}}
    assert not torch.equal(again(dit, other).latents, made.latents)
    with pytest.raises(ValueError, match="guidance is 'eval'"):
        again(dit, {**by, "guidance": {"name": "eval"}})
    with pytest.raises(ValueError, match="keeps no edits"):
        recipe(dit, {**made.settings[0], "edit": "channel 3"}, guidance)
    with pytest.raises(ValueError, match="no guidance by SkipLayerGuidance"):
        recipe(dit, made.settings[0], SkipLayerGuidance(skip_layer_guidance_layers=[0]))


def test_stopped_pictures_that_were_finished_are_there(tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second prompt's second variant."""
    dit = dg.load()
    calls = 0

    def count(module, inputs, output):
        nonlocal calls
        calls += 1
        if calls == 3 * 3 + 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(dg, "load", lambda *a, **k: dit)
    handle = dit.transformer.register_forward_hook(count)
    try:
        code, _, error = called(monkeypatch, capsys, "generate", "owl", "fish", "-o", tmp_path, "--dg", "1", *QUICK)
    finally:
        handle.remove()
    assert code == 130 and "kept 3 of 4 pictures" in error and "fish-seed-0-cond.png" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fish-seed-0-cond.png", "owl-seed-0-cond.png", "owl-seed-0-dg-1.png",
    ]  # fmt: skip
    assert read_picture(tmp_path / "fish-seed-0-cond.png")[1]["prompt"] == "fish"


def test_files_that_hold_no_settings(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    write_picture(Image.new("RGB", (8, 8)), tmp_path / "half.png", {"prompt": "owl"})
    for name, words in (
        ("nothing.png", "nothing.png does not exist: pass a picture"),
        ("text.png", "cannot be read as a picture"),
        ("plain.png", "holds no settings of dg_tools"),
        ("half.png", "holds settings without model, weights"),
    ):
        code, _, error = called(monkeypatch, capsys, "generate", "--from", tmp_path / name)
        assert code == 1 and words in error and "Traceback" not in error, name
    before = sorted(tmp_path.iterdir())
    full = Image.new("RGB", (8, 8))
    full.save = lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        write_picture(full, tmp_path / "new.png", {})
    assert sorted(tmp_path.iterdir()) == before, "no half of a file"


def test_names_are_taken_once(tmp_path):
    files = [write_picture(Image.new("RGB", (8, 8)), tmp_path / "x.png", {"i": i}) for i in range(3)]
    assert [f.name for f in files] == ["x.png", "x-2.png", "x-3.png"]
    assert file_name({"prompt": "../a/b: Überblick?", "seed": 1, "guidance": "CFG 3"}) == ("a-b-überblick-seed-1-cfg-3")
