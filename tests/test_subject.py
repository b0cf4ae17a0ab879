"""Prompts are split once: channels are detected on one part, the experiment sees the other."""

from __future__ import annotations

import sys
from functools import cache

import pytest
import tiny

import dg_tools as dg
from dg_tools import experiments
from dg_tools.experiments.subject import choose


@cache
def planted() -> dg.DiT:
    """SD3 with two massive channels."""
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [3, 7], 500.0)
    return dg.load(pipeline)


def test_prompts_are_split_before_anything_is_measured():
    dit, prompts = planted(), ["apple", "tree", "house", "fish", "sun"]
    made = choose(dit, prompts, [0], **tiny.CALL, progress=False)
    assert set(made.channels) == {3, 7} and made.block == 2 and "middle" in made.how
    assert len(made.detection) == 1 and set(made.detection) | set(made.test) == set(prompts)
    assert not set(made.detection) & set(made.test)
    again = choose(dit, prompts, [0], split_seed=5, **tiny.CALL, progress=False)
    assert again.detection != made.detection
    given = choose(dit, prompts, [0], channels=[5], block=0)
    assert given.channels == (5,) and given.test == tuple(prompts) and not given.detection
    assert given.settings(steps=3)["steps"] == 3 and len(given.settings()["provenance"]["weights"]) == 16


def test_items_that_share_a_prompt_are_on_one_side_and_count_once(dits, caplog):
    prompts = ["apple", "tree", "apple", "fish"]
    for seed in range(6):
        made = choose(planted(), prompts, [0], block=2, split_seed=seed, **tiny.CALL, progress=False)
        assert not set(made.detection) & set(made.test) and len(made.detection + made.test) == 4
    assert "prompts given more than once (1, first 'apple')" in caplog.text
    with pytest.raises(ValueError, match=r"1 prompt.s. are left for the test \(1 given, 0 to detect on\)"):
        choose(dits("sd3"), ["apple", "apple"], channels=[3])


def test_bad_input_is_refused_before_the_detection_run(dits):
    dit = dits("sd3")
    for arguments, error, words in (
        ({"prompts": []}, ValueError, "empty list of prompts"),
        ({"prompts": ["apple", "tree"]}, ValueError, "1 prompt.s. are left for the test"),
        ({"seeds": []}, ValueError, "empty list of seeds"),
        ({"channels": [32]}, IndexError, r"channels \[32\] requested; there are 0 to 31"),
        ({"channels": []}, ValueError, "channels is empty"),
        ({"block": 4}, IndexError, "block 4 requested; there are 0 to 3"),
    ):
        with pytest.raises(error, match=words):
            choose(dit, **{"prompts": ["apple", "tree", "sun"], "seeds": [0], **arguments})
    with pytest.raises(ValueError, match="no massive channel on 1 prompt "):
        choose(dit, ["apple", "tree", "sun"], [0], **tiny.CALL, progress=False)


def test_the_disruption_is_the_profiles_or_of_channels_that_are_massive_there(monkeypatch):
    """A channel counts at a block only where it is massive: 3 is planted after block 1, 9 after block 2."""
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [3], 500.0)
    tiny.plant(pipeline, 2, [9], 500.0)
    dit, prompts = dg.load(pipeline), ["apple", "tree", "house", "fish"]
    quick = {**tiny.CALL, "progress": False}
    for block, here in ((1, {3}), (2, {3, 9})):
        made = choose(dit, prompts, [0], block=block, **quick)
        assert set(made.channels) == {3, 9} and set(made.disruption.channels) == here
        assert made.disruption == made.zeroed and made.zeroed.block == block and made.zeroed.mode == "zero"
    with pytest.raises(ValueError, match="no channel is massive at block 0 .massive: .*3 from block 1 on"):
        choose(dit, prompts, [0], block=0, **quick)
    profile = {
        "channels": [9],
        "block": 2,
        "mode": "scale",
        "rho": 2.0,
        "source": "a test",
        "detail_guidance_scale": 0.7,
    }
    monkeypatch.setattr(dit, "profile", profile)
    made = choose(dit, prompts, [0], **quick)
    assert made.disruption == dg.Disrupt([9], 2, "scale", rho=2.0) and made.zeroed == dg.Disrupt([9], 2)
    assert made.block == 2 and "channels 9 x 2 after block 2, w 0.7; from a test" in made.how
    assert choose(dit, prompts, [0], channels=[5]).disruption == dg.Disrupt([5], 2)


@pytest.mark.parametrize(
    ("given", "weight", "scales"),
    [({}, 0.7, (0.35, 1.4)), ({"block": 1}, 0.5, (0.25, 1.0)), ({"weight": 2.0}, 2.0, (1.0, 4.0))],
)
def test_the_weight_of_the_guidance_experiment_is_the_profiles(monkeypatch, given, weight, scales):
    dit = dg.load(tiny.sd3())
    dit.profile = {"channels": [9], "block": 2, "source": "a test", "detail_guidance_scale": 0.7}

    class Reached(Exception):
        pass

    def seen(dit, own, window, blur, steps, *others):
        raise Reached(own, steps)

    monkeypatch.setattr(sys.modules["dg_tools.experiments._guidance"], "check_sweep", seen)
    with pytest.raises(Reached) as caught:
        experiments.guidance(dit, ["apple", "tree"], **given)
    assert caught.value.args == (pytest.approx(weight), pytest.approx(scales))
