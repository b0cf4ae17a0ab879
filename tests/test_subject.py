"""Prompts are split once: channels are detected on one part, the experiment sees the other."""

from __future__ import annotations

import pytest
import tiny

import dg_tools as dg
from dg_tools.experiments.subject import choose


def test_prompts_are_split_before_anything_is_measured():
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [3, 7], 500.0)
    dit, prompts = dg.load(pipeline), ["apple", "tree", "house", "fish", "sun"]
    made = choose(dit, prompts, [0], **tiny.CALL, progress=False)
    assert set(made.channels) == {3, 7} and made.block == 2 and "middle" in made.how
    assert len(made.detection) == 1 and set(made.detection) | set(made.test) == set(prompts)
    assert not set(made.detection) & set(made.test)
    again = choose(dit, prompts, [0], split_seed=5, **tiny.CALL, progress=False)
    assert again.detection != made.detection
    given = choose(dit, prompts, [0], channels=[5], block=0)
    assert given.channels == (5,) and given.test == tuple(prompts) and not given.detection
    assert given.settings(steps=3)["steps"] == 3 and len(given.settings()["provenance"]["weights"]) == 16


def test_bad_input_is_refused_before_the_detection_run(dits):
    dit = dits("sd3")
    for arguments, error, words in (
        ({"prompts": []}, ValueError, "empty list of prompts"),
        ({"prompts": ["apple", "tree"]}, ValueError, "1 prompt.s. are left for the test"),
        ({"seeds": []}, ValueError, "empty list of seeds"),
        ({"channels": [32]}, IndexError, r"channels \[32\] asked for; there are 0 to 31"),
        ({"channels": []}, ValueError, "channels is empty"),
        ({"block": 4}, IndexError, "block 4 asked for; there are 0 to 3"),
    ):
        with pytest.raises(error, match=words):
            choose(dit, **{"prompts": ["apple", "tree", "sun"], "seeds": [0], **arguments})
    with pytest.raises(ValueError, match="no massive channel on 1 prompts"):
        choose(dit, ["apple", "tree", "sun"], [0], **tiny.CALL, progress=False)
