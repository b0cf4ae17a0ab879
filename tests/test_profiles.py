"""Profiles: read, refused where they are another model's, and never guessed."""

from __future__ import annotations

import json

import pytest
import tiny

import dg_tools as dg
from dg_tools.models.profiles import PUBLISHED, agreement, read_profile, write_profile


def test_published_ones_name_their_source_and_no_block():
    assert PUBLISHED["stabilityai/stable-diffusion-3-medium-diffusers"]["channels"] == [810]
    assert PUBLISHED["black-forest-labs/FLUX.1-dev"]["channels"] == [154, 1446]
    for profile in PUBLISHED.values():
        assert profile["block"] is None and "2510.11538" in profile["source"]
    assert read_profile("stabilityai/stable-diffusion-3.5-large-turbo") is None  # by repository id only


def test_a_folder_with_a_profile(tmp_path):
    tiny.sd3().save_pretrained(tmp_path)
    assert dg.load(tmp_path).profile is None
    profile = {"channels": [3], "block": 2, "source": "a test"}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    assert dg.load(tmp_path).profile == profile
    (tmp_path / "profile.json").write_text(json.dumps({**profile, "channels": [810]}))
    with pytest.raises(ValueError, match="channels 0 to 31 and blocks 0 to 3: it is another model's profile"):
        dg.load(tmp_path)
    (tmp_path / "profile.json").write_text(json.dumps({"channels": [3]}))
    with pytest.raises(ValueError, match="is not a profile: it has no block, source"):
        dg.load(tmp_path)


def test_one_writer(tmp_path):
    """What is written is read again; what JSON does not know is null; an invalid one leaves the file as it was."""
    file = tmp_path / "new" / "profile.json"
    profile = {"channels": [3], "block": 2, "source": "a test", "window": (0.2, 0.8), "test": {"gain": float("nan")}}
    assert write_profile(file, profile) == file
    assert read_profile(file) == {**profile, "window": [0.2, 0.8], "test": {"gain": None}}
    text = file.read_text()
    assert text == json.dumps(read_profile(file), indent=1) + "\n"
    with pytest.raises(ValueError, match="this profile has no block, source"):
        write_profile(file, {"channels": [3]})
    with pytest.raises(TypeError):
        write_profile(file, {**profile, "block": object()})
    assert file.read_text() == text and list(file.parent.iterdir()) == [file]


def test_a_choice_beside_the_models_profile():
    known = {"channels": [55, 3], "block": 3, "mode": "scale", "rho": 2.0}
    same = "channels 3, 55 x 2 after block 3; the model's profile: channels 55, 3 x 2 after block 3: they agree"
    assert agreement({**known, "channels": [3, 55]}, known) == f"chosen: {same}"
    other = agreement({"channels": [55], "block": 4}, known)
    assert other.endswith(": the channels differ and the blocks differ and the doses differ")
    assert agreement({**known, "block": 4}, {**known, "block": None}).endswith("no block: the channels agree")
    assert agreement(None, known).startswith("chosen: no weak model; the model's profile: ")
    assert agreement(known, None).endswith("; this model has no profile to compare with")
