"""`dg-tools generate` with a dose: the knob, DG in CFG's unconditional pass, and what stands beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_cli import called

import dg_tools as dg
from dg_tools.onestep import conditions, gain_of, velocity

ASK = ["generate", "owl", "--height", "32", "--width", "48", "--steps", "3", "--channel", "3", "--block", "1", "--json"]


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.sd3())


@pytest.fixture
def loaded(dit, monkeypatch):
    monkeypatch.setattr(dg, "load", lambda *a, **k: dit)
    return dit


def same(file, image) -> bool:
    return np.array_equal(np.asarray(Image.open(file).convert("RGB")), np.asarray(image.convert("RGB")))


def test_the_knob_with_the_clean_picture_and_velocity_gain(tmp_path, loaded, monkeypatch, capsys):
    ask = [*ASK, "--rho", "1.5", "--compare", "clean,gain,daemon", "-o", tmp_path]
    code, printed, _ = called(monkeypatch, capsys, *ask)
    rows = json.loads(printed)["pictures"]
    call = {"steps": 3, **tiny.SIZE}
    clean = dg.generate(loaded, "owl", progress=False, **call)
    gain = gain_of(loaded, dg.Disrupt([3], 1, "scale", rho=1.5), clean.latents, ["owl"])
    guidances = [
        None, dg.baselines.Gain(gain=round(gain, 4)), dg.baselines.DetailDaemon(amount=0.5), dg.DetailKnob([3], 1, 1.5),
    ]  # fmt: skip
    made = dg.generate(loaded, "owl", guidance=guidances, progress=False, **call)
    assert code == 0 and [row["in words"] for row in rows] == [s["guidance"] for s in made.settings]
    assert all(same(row["file"], image) for row, image in zip(rows, made.images, strict=True))
    amounts = dg.metrics.amount_change(made.latents, made.latents[:1].expand_as(made.latents))
    assert [row["amt_c"] for row in rows] == pytest.approx(amounts.tolist(), abs=1e-3) and rows[0]["low band"] == 1
    assert (tmp_path / "grid.png").is_file() and rows[3]["guided"]["at_block"] > 0.01
    code, printed, _ = called(monkeypatch, capsys, "generate", "--from", rows[3]["file"], "-o", tmp_path, "--json")
    assert code == 0 and json.loads(printed)["same"]


def test_the_gain_that_a_guidance_contains(dit):
    """By hand: <c, d> / <c, c> at three noise levels."""
    latents = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    edit, shares = dg.Disrupt([3], 1, "scale", rho=1.5), []
    inputs = conditions(dit, ["a", "b"], 32, 48)

    def scaled(module, args, output):
        image = output[1].clone()
        image[..., 3] *= 1.5
        return output[0], image

    noise = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    for sigma in (0.3, 0.5, 0.7):
        z = (1 - sigma) * latents + sigma * noise
        c = velocity(dit, z, sigma, inputs).flatten(1)
        handle = dit.blocks[1].module.register_forward_hook(scaled)
        d = velocity(dit, z, sigma, inputs).flatten(1)
        handle.remove()
        shares += ((c * d).sum(1) / (c * c).sum(1)).tolist()
    assert gain_of(dit, edit, latents, ["a", "b"]) == pytest.approx(sum(shares) / 6, rel=1e-5)
    assert max(abs(share - 1) for share in shares) > 1e-3


@pytest.mark.parametrize(
    ("options", "guider"),
    [
        (["--rho", "0"], dg.DetailKnob([3], 1, 0.0, 3.0)),
        (["--dg-rows", "uncond"], dg.DetailGuidance(3.0, disrupt=dg.Disrupt([3], 1), rows="uncond")),
        (
            ["--dg-rows", "uncond", "--rho", "1.5"],
            dg.DetailGuidance(3.0, disrupt=dg.Disrupt([3], 1, "scale", rho=1.5), rows="uncond"),
        ),
        (["--dg", "0.5", "--rho", "1.5"], dg.DetailGuidance(3.0, 0.5, dg.Disrupt([3], 1, "scale", rho=1.5))),
    ],
)
def test_is_what_the_library_gives(tmp_path, loaded, monkeypatch, capsys, options, guider):
    code, printed, _ = called(monkeypatch, capsys, *ASK, "--cfg", "3", *options, "-o", tmp_path)
    rows = json.loads(printed)["pictures"]
    call = {"guidance": [dg.CFG(3.0), guider], "steps": 3, **tiny.SIZE}
    made = dg.generate(loaded, "owl", progress=False, **call)
    assert code == 0 and all(same(row["file"], image) for row, image in zip(rows, made.images, strict=True))
    assert ("amt_c" in rows[0]) == ("--rho" in options)
    ask = [*ASK, "--cfg", "3", *options, "--compare", "gain", "--gain", "1.2", "-o", tmp_path]
    code, printed, _ = called(monkeypatch, capsys, *ask)
    words = [row["in words"] for row in json.loads(printed)["pictures"]]
    assert code == 0 and words == ["CFG 3 + gain 1.2", made.settings[1]["guidance"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dg-rows", "both"], "--dg-rows both: cond or uncond"),
        (["--dg-rows", "uncond"], "needs --cfg above 1"),
        (["--dg-rows", "uncond", "--cfg", "3", "--dg", "1"], "leave --dg out"),
        (["--dg", "1", "--auto", "--rho", "2"], "--auto chooses the dose too"),
        (
            ["--dg", "--rho", "2"],
            "--dg alone takes the profile's w, which was chosen with its channels, block and",
        ),
        (["--dg", "--channel", "3", "--block", "1"], "--block or --rho pass --dg W"),
        (["--dg", "0,5"], "'0,5' is not a number: --dg W, or --dg alone"),
        (
            ["--rho", "2", "--compare", "clean,nothing"],
            "--compare clean,nothing: name some of clean, gain, daemon, separated by commas",
        ),
        (["--rho", "2", "--compare", "clean,clean"], "each once"),
        (["--rho", "2", "--compare", "clean", "--alone"], "one of them"),
        (["--compare", "gain"], "--compare needs a guidance to compare with"),
        (["--rho", "2", "--gain", "1.1"], "--gain is of --compare gain"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.setattr(dg, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    code, printed, error = called(monkeypatch, capsys, "generate", "owl", *options, "-o", tmp_path / "o")
    assert code == 2 and words in " ".join(error.replace("│", " ").split()) and not printed
    assert not (tmp_path / "o").exists()


PROFILE = {"channels": [5], "block": 2, "mode": "scale", "rho": 1.5, "detail_guidance_scale": 0.7}


@pytest.mark.parametrize(
    ("options", "guider"),
    [
        (["--dg"], dg.DetailGuidance(3.0, 0.7, dg.Disrupt([5], 2, "scale", rho=1.5), 0.0, 0.8)),
        (["--dg", "0.4"], dg.DetailGuidance(3.0, 0.4, dg.Disrupt([5], 2, "scale", rho=1.5))),
        (["--dg", "0.4", "--rho", "0"], dg.DetailGuidance(3.0, 0.4, dg.Disrupt([5], 2))),
        (["--dg", "0.4", "--block", "1"], dg.DetailGuidance(3.0, 0.4, dg.Disrupt([5], 1))),
        (["--dg", "0.4", "--channel", "3"], dg.DetailGuidance(3.0, 0.4, dg.Disrupt([3], 2))),
    ],
)
def test_what_is_left_out_is_the_profiles_and_it_is_said(tmp_path, loaded, monkeypatch, capsys, options, guider):
    """A block or channels of the caller's own are zeroed: the profile's dose was chosen for its own."""
    monkeypatch.setattr(loaded, "profile", {**PROFILE, "window": [0.0, 0.8], "source": "a test"})
    ask = ["generate", *options, *ASK[1:8], "--json", "--alone"]
    code, printed, error = called(monkeypatch, capsys, *ask, "--cfg", "3", "-o", tmp_path)
    made = dg.generate(loaded, "owl", progress=False, guidance=guider, steps=3, **tiny.SIZE)
    (row,) = json.loads(printed)["pictures"]
    assert code == 0 and same(row["file"], made.images[0])
    assert "the profile: channels 5 x 1.5 after block 2, w 0.7; from a test" in error


def test_without_a_profile_dg_says_what_is_missing(tmp_path, loaded, monkeypatch, capsys):
    assert loaded.profile is None
    code, _, error = called(monkeypatch, capsys, "generate", "owl", "--dg", "-o", tmp_path)
    assert code == 1 and "no profile with channels and a block: pass --channel" in error and "--auto" in error
    monkeypatch.setattr(loaded, "profile", {"channels": [5], "block": 2, "source": "a test"})
    code, _, error = called(monkeypatch, capsys, "generate", "owl", "--dg", "-o", tmp_path)
    assert code == 1 and "has no detail_guidance_scale" in error


def test_a_dose_of_one_is_the_clean_picture_and_its_gain_is_one(tmp_path, loaded, monkeypatch, capsys):
    monkeypatch.setattr(loaded, "profile", {"channels": [3], "block": 1})
    ask = [*ASK[:8], "--rho", "1", "--compare", "clean,gain", "--json", "-o", tmp_path]
    code, printed, _ = called(monkeypatch, capsys, *ask)
    rows = json.loads(printed)["pictures"]
    assert code == 0 and [row["in words"] for row in rows] == ["cond"] * 3
    assert all(same(row["file"], Image.open(rows[0]["file"])) for row in rows)


def test_channels_without_a_guidance_are_said_to_do_nothing(tmp_path, loaded, monkeypatch, capsys):
    code, _, error = called(monkeypatch, capsys, *ASK, "-o", tmp_path)
    assert code == 0 and "--channel, --block and --auto do nothing here" in error


@pytest.mark.parametrize("options", [["--rho", "0.5"], ["--seed", "1"], ["--steps", "4"], ["--cfg", "3"]])
def test_a_picture_made_again_takes_no_other_settings(tmp_path, monkeypatch, capsys, options):
    code, _, error = called(monkeypatch, capsys, "generate", "--from", "x.png", *options, "-o", tmp_path / "o")
    assert code == 2 and "--from makes the picture by the settings in it" in " ".join(error.split())


def test_without_a_profile_channels_are_asked_for(tmp_path, loaded, monkeypatch, capsys):
    code, _, error = called(monkeypatch, capsys, "generate", "owl", "--rho", "0.5", "-o", tmp_path / "o")
    assert code == 1 and "names no channels with a block" in error
