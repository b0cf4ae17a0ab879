"""Detail Guidance from a profile, whoever wrote it: a sweep, GuidanceExplorer, or a reader by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dg_tools as dg
from dg_tools.models.profiles import profile_words, read_profile

FOUND = {"channels": [3, 7], "block": 1, "source": "a test"}
CHOSEN = {"guidance_scale": 3.0, "detail_guidance_scale": 0.5}


def test_what_the_guidance_explorer_exported_is_read(tmp_path):
    """It used to write the settings under `guidance`, by the names of `DetailGuidance`."""
    window = {"detail_guidance_start": 0.2, "detail_guidance_stop": 0.8}
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({**FOUND, "guidance": {**CHOSEN, **window}}))
    guider = dg.DetailGuidance.from_profile(file)
    assert guider.disrupt == dg.Disrupt([3, 7], 1)
    assert (guider.guidance_scale, guider.detail_guidance_scale) == (3.0, 0.5)
    assert (guider.detail_guidance_start, guider.detail_guidance_stop) == (0.2, 0.8)
    assert dg.DetailGuidance.from_profile(file, detail_guidance_scale=1.0).detail_guidance_scale == 1.0


def test_what_a_sweep_wrote_is_read():
    guider = dg.DetailGuidance.from_profile({**FOUND, **CHOSEN, "window": [0.2, 0.8]})
    assert guider.disrupt == dg.Disrupt([3, 7], 1)
    assert (guider.guidance_scale, guider.detail_guidance_scale) == (3.0, 0.5)
    assert (guider.detail_guidance_start, guider.detail_guidance_stop) == (0.2, 0.8)


def test_what_a_profile_does_not_say_is_not_guessed(tmp_path):
    with pytest.raises(ValueError, match="has no detail_guidance_scale"):
        dg.DetailGuidance.from_profile(FOUND)
    with pytest.raises(ValueError, match="and no block"):
        dg.DetailGuidance.from_profile({**FOUND, **CHOSEN, "block": None})
    with pytest.raises(ValueError, match="no profile"):
        dg.DetailGuidance.from_profile(tmp_path / "none.json")
    with pytest.raises(
        ValueError, match="has no detail_guidance_scale"
    ):  # null is what a number that is not known becomes
        dg.DetailGuidance.from_profile({**FOUND, "detail_guidance_scale": None})
    with pytest.raises(ValueError, match="has no block, channels"):
        dg.Disrupt.from_profile({"source": "a test"})
    assert tuple(dg.DetailGuidance.from_profile({**FOUND, **CHOSEN, "window": None}).window) == (0, 1)
    for window in ([0.2], 0.2):
        with pytest.raises(ValueError, match="has window=.*start, stop., fractions"):
            dg.DetailGuidance.from_profile({**FOUND, **CHOSEN, "window": window})


def test_the_disruption_of_a_profile_has_its_dose():
    """An old one without mode and rho zeroes, as it did; a published one needs a block."""
    assert dg.Disrupt.from_profile(FOUND) == dg.Disrupt([3, 7], 1)
    doses = (2.0, ((0.3, 1.5), (0.9, 0.5)))
    for rho in doses:
        profile = {**FOUND, "mode": "scale", "rho": rho}
        assert dg.Disrupt.from_profile(profile) == dg.Disrupt([3, 7], 1, "scale", rho=rho)
        assert dg.DetailGuidance.from_profile({**profile, **CHOSEN}).disrupt.rho == rho
    assert dg.Disrupt.from_profile({**FOUND, "mode": "mean"}) == dg.Disrupt([3, 7], 1, "mean")
    with pytest.raises(ValueError, match="profile of 'black-forest-labs/FLUX.1-dev' names channels .154, 1446. and no"):
        dg.Disrupt.from_profile("black-forest-labs/FLUX.1-dev")
    with pytest.raises(ValueError, match="names no block: nothing lacks detail"):
        dg.Disrupt.from_profile({**FOUND, "block": None, "verdict": "nothing lacks detail"})
    for wrong in (None, [3, 7]):
        with pytest.raises(TypeError, match="is not a profile: pass dit.profile"):
            dg.Disrupt.from_profile(wrong)


@pytest.mark.parametrize("name", ["emoji-sd3", "emoji-flux"])
def test_an_embedded_model_is_disrupted_as_auto_chose(name):
    """Its file says it: written out here by another reader."""
    stated = json.loads((Path(dg.__file__).parent / "zoo" / name / "profile.json").read_text())
    profile = read_profile(name)
    assert profile == stated and profile["rho"] == 2.0 and profile["objective"] and len(profile["weights"]) == 16
    guider = dg.DetailGuidance.from_profile(profile)
    weak = dg.Disrupt(stated["channels"], stated["block"], "scale", rho=2.0)
    assert guider.disrupt == weak == dg.Disrupt.from_profile(name)
    assert guider.detail_guidance_scale == stated["detail_guidance_scale"] and tuple(guider.window) == (0, 1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "channels 3, 7 zeroed after block 1; from a test"),
        ({"mode": "scale", "rho": 2.0, "detail_guidance_scale": 0.5}, "channels 3, 7 x 2 after block 1, w 0.5; from a"),
        ({"mode": "scale", "rho": [[0.3, 1.5]]}, "channels 3, 7 x a schedule over sigma after block 1"),
        ({"mode": "mean"}, "channels 3, 7 edited (mean) after block 1"),
        ({"block": None, "channels": [676]}, "channels 676, no block; from a test"),
    ],
)
def test_a_profile_in_one_sentence(more, words):
    assert profile_words({**FOUND, **more}).startswith(words)
