"""Detail Guidance from a profile, whoever wrote it: a sweep, GuidanceExplorer, or a reader by hand."""

from __future__ import annotations

import json

import pytest

import dg_tools as dg

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
    with pytest.raises(ValueError, match="says no detail_guidance_scale"):
        dg.DetailGuidance.from_profile(FOUND)
    with pytest.raises(ValueError, match="and no block"):
        dg.DetailGuidance.from_profile({**FOUND, **CHOSEN, "block": None})
    with pytest.raises(ValueError, match="no profile"):
        dg.DetailGuidance.from_profile(tmp_path / "none.json")
