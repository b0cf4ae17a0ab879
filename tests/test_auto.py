"""`auto`: planted channels are found, the choice is kept by the weights' hash, and nothing is guessed."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.guidance import auto

CALL = {**tiny.SIZE, "max_sequence_length": 8, "steps": 3}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(auto, "cache_folder", lambda: tmp_path / "profiles")


@pytest.fixture
def planted():
    pipeline = tiny.sd3(seed=0)
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    return dg.load(pipeline)


def test_finds_what_is_planted_and_keeps_the_choice(planted, tmp_path, capsys, monkeypatch):
    profile = auto.auto_profile(planted, progress=False, **CALL)
    assert sorted(profile["channels"]) == [5, 20] and 0 <= profile["block"] < 4
    assert len(profile["by_block"]) == 4 and "controls" in profile["objective"]
    assert f"channels {profile['channels']}, block {profile['block']}" in capsys.readouterr().out
    best = max(profile["by_block"], key=lambda r: r["objective"])
    assert best["block"] == profile["block"]
    monkeypatch.setattr(auto, "sweep", lambda *a: pytest.fail("swept again"))
    assert auto.auto_profile(planted, progress=False, **CALL) == profile
    before = auto.weights_hash(planted)
    with torch.no_grad():
        planted.transformer.proj_out.bias[0] += 1
    assert auto.weights_hash(planted) != before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in planted.transformer.modules())


def test_guidance_with_auto_equals_guidance_with_its_choice(planted):
    made = dg.generate(planted, "apple", guidance=dg.DetailGuidance(2.0, 0.8, "auto"), progress=False, **CALL).latents
    profile = auto.auto_profile(planted, progress=False, **CALL)
    off = dg.Disrupt(profile["channels"], profile["block"])
    same = dg.generate(planted, "apple", guidance=dg.DetailGuidance(2.0, 0.8, off), progress=False, **CALL).latents
    assert torch.equal(made, same)
    again = dg.DetailGuidance.from_config(dg.DetailGuidance(2.0, 0.8, "auto").config)
    assert again.auto and again.disrupt is None


def test_nothing_massive_is_said(dits):
    with pytest.raises(RuntimeError, match="no massive channel"):
        auto.auto_profile(dg.load(tiny.sd3(seed=0)), progress=False, **CALL)


def test_names_of_profiles():
    with pytest.raises(ValueError, match="names channels .154, 1446. and no block, since none is published"):
        dg.DetailGuidance(1.0, 0.5, "black-forest-labs/FLUX.1-dev")
    with pytest.raises(ValueError, match="no profile 'owner/name'"):
        dg.DetailGuidance(1.0, 0.5, "owner/name")
    profile = dg.load().profile
    assert dg.DetailGuidance(1.0, 0.5, "emoji-sd3").disrupt == dg.Disrupt(profile["channels"], profile["block"])
    with pytest.raises(ValueError, match="needs a model"):
        dg.DetailGuidance(1.0, 0.5, "auto").passes(0, 1)


@pytest.mark.parametrize(
    "content", [b"", b'{"channels": [3], "blo', b"[]", b"3", b'{"channels": [3]}', b"\xff\x00",
                b'{"channels": "37", "block": 1}', b'{"channels": [3], "block": 99}'],
)  # fmt: skip
def test_a_damaged_choice_is_made_again(planted, tmp_path, caplog, content):
    file = tmp_path / "profiles" / f"{auto.weights_hash(planted)}.json"
    file.parent.mkdir()
    file.write_bytes(content)
    profile = auto.auto_profile(planted, progress=False, **CALL)
    assert sorted(profile["channels"]) == [5, 20]
    assert f"the choice kept in {file} is damaged" in caplog.text and "chosen again" in caplog.text
    caplog.clear()
    assert auto.auto_profile(planted, progress=False, **CALL) == profile and not caplog.text


def test_a_choice_that_cannot_be_kept_is_used(planted, tmp_path, caplog):
    (tmp_path / "profiles").write_text("a file where the folder should be")
    profile = auto.auto_profile(planted, progress=False, **CALL)
    assert sorted(profile["channels"]) == [5, 20] and "could not be kept in" in caplog.text


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(ValueError, match="p.json is no profile: it holds no JSON"):
        dg.DetailGuidance(1.0, 0.5, str(tmp_path / "p.json"))
