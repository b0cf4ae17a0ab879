"""`dg-tools compare`: the library's call, kept whole: pictures that can be made again, a grid, a table."""

from __future__ import annotations

import json
import signal

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image
from test_cli import called

import dg_tools as dg
from dg_tools.generation.recipes import again, read_picture, recipe
from dg_tools.guidance.baselines.registry import BASELINES

QUICK = ["--steps", "3"]
EVERY = ["PAG", "SLG", "SEG", "AutoGuidance", "Blurred", "APG", "CFGZeroStar", "Gain", "DetailDaemon"]
EVERY += ["SoftPAG", "S2Guidance", "SLGUncond", "FreSca", "FDG", "NAG"]


@pytest.fixture(scope="module")
def emoji():
    return dg.load()


@pytest.fixture
def loaded(emoji, monkeypatch):
    """The embedded model, loaded once for this file."""
    monkeypatch.setattr(dg, "load", lambda *a, **k: emoji)
    return emoji


def test_what_is_kept_is_what_the_library_gives(tmp_path, loaded, monkeypatch, capsys):
    prompts, out = ["red apple, flat on blue", "owl, shaded on teal"], tmp_path / "o"
    ask = ["compare", *prompts, "--cfg", "3", "--dg", "0.5", "--with", "pag", "--with", "APG", "--seeds", "2"]
    code, printed, error = called(monkeypatch, capsys, *ask, *QUICK, "-o", out, "--json")
    report = json.loads(printed)
    assert code == 0 and "against the reference picture" in error and report["warnings"] == []
    names = ["cond", "CFG 3", "CFG 3 + DG 0.5", "CFG 3 + PAG 0.5", "APG 3", "CFG 3 + gain 1.1", "CFG 3 + daemon 0.5"]
    assert report["guidances"] == names and len(report["rows"]) == 2 * 2 * 7
    off, middle = dg.Disrupt.from_profile(loaded.profile), len(loaded.blocks) // 2
    guidances = [
        None, dg.CFG(3.0), dg.DetailGuidance(3.0, 0.5, off), dg.baselines.PAG(3.0, 0.5, blocks=middle),
        dg.baselines.APG(3.0), dg.baselines.Gain(3.0, gain=1.1), dg.baselines.DetailDaemon(3.0, amount=0.5),
    ]  # fmt: skip
    pictures = dg.references(loaded)
    pairs = [(p, pictures.picture(pictures.reference(*word))) for p, word in zip(
        prompts, [("red apple", "flat", "blue"), ("owl", "shaded", "teal")], strict=True)]  # fmt: skip
    made = dg.compare(loaded, pairs, guidances, [0, 1], steps=3, progress=False)
    for row, ours, image in zip(report["rows"], made.to_json()["rows"], made.images, strict=True):
        assert {**row, "seconds": 0} == {**ours, "seconds": 0, "file": row["file"]}
        assert np.array_equal(np.asarray(Image.open(out / row["file"]).convert("RGB")), np.asarray(image))
    stored = pd.read_csv(report["table"])
    assert list(stored["file"]) == [row["file"] for row in report["rows"]]
    assert np.allclose(stored["high_correlation"], made.table["high_correlation"], equal_nan=True)
    assert Image.open(report["grid"]).width > 600 and len(list(out.iterdir())) == 28 + 2
    for name in ("cfg-3-pag-0.5", "apg-3"):
        file = out / f"owl-shaded-on-teal-seed-1-{name}.png"
        code, printed, _ = called(monkeypatch, capsys, "generate", "--from", file, "-o", tmp_path / "again", "--json")
        assert code == 0 and json.loads(printed)["same"], name


def test_the_table_has_a_column_a_guidance(tmp_path, loaded, monkeypatch, capsys):
    ask = ["compare", "owl", "owl, flat on teal", "--dg", "1", "--channel", "3", "--block", "1", *QUICK]
    code, printed, error = called(monkeypatch, capsys, *ask, "--with", "SEG", "--at", "2", "-o", tmp_path)
    assert code == 0 and "cond" in printed and "SEG 0.5" in printed and "DG 1" in printed
    assert "mean over 2 pictures each" in printed and "block calls" in printed and "contrast" in printed
    assert "high correlation" not in printed and "no one picture is the truth for 'owl', since" in error
    by = read_picture(tmp_path / "owl-seed-0-seg-0.5.png")[1]["guidance"]
    assert by["name"] == "SEG" and by["blocks"] == [2] and by["weight"] == 0.5


@pytest.mark.parametrize("name", EVERY)
def test_every_baseline_is_made_again_by_its_recipe(name, dits):
    dit = dits("sd3")
    guidance = BASELINES[name].guider(2.0, 0.3, blocks=[2])
    made = dg.generate(dit, "owl", seed=1, steps=2, guidance=guidance, progress=False, **tiny.SIZE)
    by = json.loads(json.dumps(recipe(dit, made.settings[0], guidance)))
    once = again(dit, by)
    assert np.array_equal(np.asarray(once.images[0]), np.asarray(made.images[0]))
    assert once.block_calls == made.block_calls


def test_a_dose_beside_what_costs_no_pass(tmp_path, dits, monkeypatch, capsys):
    dit = dits("sd3")
    monkeypatch.setattr(dg, "load", lambda *a, **k: dit)
    ask = ["compare", "owl", "--channel", "3", "--block", "1", *QUICK, "--height", "32", "--width", "48", "--json"]
    code, printed, error = called(monkeypatch, capsys, *ask, "--rho", "1.5", "-o", tmp_path)
    names = ["cond", "knob 1.5", "gain 1.1", "daemon 0.5"]
    assert code == 0 and json.loads(printed)["guidances"] == names
    assert len({row["block_calls"] for row in json.loads(printed)["rows"]}) == 1
    code, printed, error = called(monkeypatch, capsys, *ask[:-1], "--rho", "1.5", "-o", tmp_path)
    words = " ".join(printed.split())
    assert "knob 1.5: guided 3 of 3 steps, the edited block's output changed by 0." in words
    assert (
        "gain 1.1: guided 3 of 3 steps, push 0.1 " in words and "daemon 0.5: guided 1 of 1 steps; told sigma" in words
    )
    ask += ["--cfg", "3", "--dg-rows", "uncond", "--rho", "1.5"]
    code, printed, error = called(monkeypatch, capsys, *ask, "--with", "Gain", "-o", tmp_path)
    names = ["cond", "CFG 3", "CFG 3 + DG uncond rho 1.5", "CFG 3 + gain 1.1"]
    assert code == 0 and json.loads(printed)["guidances"] == [*names, "CFG 3 + daemon 0.5"]
    code, printed, error = called(monkeypatch, capsys, *ask, "--steps", "1", "-o", tmp_path)
    assert code == 0 and json.loads(printed)["guidances"] == names and "without DetailDaemon: no step of 1" in error


def test_a_weak_model_is_not_kept(dits):
    dit = dits("sd3")
    guidance = dg.baselines.AutoGuidance(2.0, 0.3, weak_model=tiny.sd3(seed=1).transformer)
    made = dg.generate(dit, "owl", steps=2, guidance=guidance, progress=False, **tiny.SIZE)
    with pytest.raises(ValueError, match="keeps no weak model"):
        recipe(dit, made.settings[0], guidance)


def test_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    tiny.sd3().save_pretrained(tmp_path / "mine")
    ask = ["compare", "owl", "-m", tmp_path / "mine", *QUICK, "--height", "32", "--width", "48", "-o", tmp_path / "o"]
    code, printed, error = called(monkeypatch, capsys, *ask, "--with", "SLG")
    assert code == 0 and "SLG 0.5" in printed and "has no reference pictures" in error
    code, _, error = called(monkeypatch, capsys, *ask, "--dg", "1")
    assert code == 1 and "pass --channel" in error


def test_captions_that_name_one_picture():
    known = dg.references()
    for reference in known.sample(40, seed=3):
        assert known.named(reference.prompt) == reference
    for caption in ("red apple", "red apple, flat", "red apple on blue", "red aple, flat on blue", "owl, round on red"):
        assert known.named(caption) is None, caption


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        ([" ", "--cfg", "3"], 2, "the prompt is empty"),
        (["owl", "--cfg", "3", "--seed", "x1"], 2, "'x1' is not a whole number"),
        (["owl", "--cfg", "3", "--seed", "1", "--seeds", "2"], 2, "pass one of the two"),
        (["owl"], 2, "nothing to compare"),
        (["owl", "--with", "PAGG"], 2, "--with PAGG is unknown; there are PAG, SLG, SEG"),
        (["owl", "--with", "PAG", "--with", "pag"], 2, "each baseline once"),
        (["owl", "--with", "APG"], 1, "a scale above 1 is needed"),
        (["owl", "--with", "PAG", "--at", "99"], 1, "block 99"),
        (["owl", "--cfg", "3", "-m", "nothing"], 1, "not an embedded model"),
        (["owl", "--cfg", "3", "--steps", "0"], 2, "--steps"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, monkeypatch, capsys, arguments, code, words):
    found, printed, error = called(monkeypatch, capsys, "compare", *arguments, "-o", tmp_path / "o")
    assert found == code and words in error and not printed and not (tmp_path / "o").exists()


def test_strange_words_folders_and_files(tmp_path, monkeypatch, capsys, loaded):
    ask = ["compare", "red aple", "--cfg", "3", "--steps", "1"]
    code, printed, error = called(monkeypatch, capsys, *ask, "-o", tmp_path / "o", "--json")
    assert code == 0 and "never saw 'aple'" in json.loads(printed)["warnings"][0] and "warning: This model" in error
    (tmp_path / "file").touch()
    code, _, error = called(monkeypatch, capsys, *ask, "-o", tmp_path / "file")
    assert code == 1 and "is a file" in error


def test_a_folder_that_is_no_pipeline(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").touch()
    code, _, error = called(monkeypatch, capsys, "compare", "owl", "--cfg", "3", "-m", tmp_path)
    assert code == 1 and "is not a diffusers pipeline folder" in error


def test_stopped_pictures_that_were_finished_are_there(tmp_path, loaded, monkeypatch, capsys):
    """Ctrl-C in the third of four pictures."""
    calls = 0

    def count(module, inputs, output):
        nonlocal calls
        calls += 1
        if calls == 2 * 3 + 1:
            signal.raise_signal(signal.SIGINT)

    handle = loaded.transformer.register_forward_hook(count)
    try:
        ask = ["compare", "owl", "fish", "--with", "Blurred", "-o", tmp_path, *QUICK]
        code, printed, error = called(monkeypatch, capsys, *ask)
    finally:
        handle.remove()
    assert code == 130 and "kept 2 of 8 pictures" in error and "owl-seed-0-blur-0.5.png" in error and not printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["owl-seed-0-blur-0.5.png", "owl-seed-0-cond.png"]
