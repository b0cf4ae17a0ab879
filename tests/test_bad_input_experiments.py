"""Bad input to every experiment: a clear error before the first forward of the transformer, and nothing left behind."""

from __future__ import annotations

import errno

import pandas as pd
import pytest
import tiny
import toy_model

import dg_tools as dg
from dg_tools import experiments
from dg_tools.experiments.result import Outcome, Result

NAMES = ("denoise", "tokens", "timestep", "origin", "detail", "guidance")
GIVEN = {"channels": toy_model.CHANNELS, "block": toy_model.BLOCK, "progress": False}

CASES = {
    "no prompts": ({"prompts": []}, ValueError, "prompt|reference"),
    "one prompt": ({"prompts": 1}, ValueError, "at least|needs"),
    "no seeds": ({"seeds": []}, ValueError, "seed"),
    "channel beyond the width": ({"channels": [3, tiny.WIDTH]}, IndexError, f"{tiny.WIDTH}.*0 to {tiny.WIDTH - 1}"),
    "no channels": ({"channels": []}, ValueError, "channels"),
    "block beyond the last": ({"block": 99}, IndexError, "99.*0 to 3"),
    "too few controls": ({"controls": 0}, ValueError, "controls=0"),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return dg.load(toy_model.write(tmp_path_factory.mktemp("toy")))


@pytest.fixture
def forwards(toy):
    """Counts forwards of the transformer; afterwards no hook but this one may be there."""
    counted = []
    handle = toy.transformer.register_forward_pre_hook(lambda *_: counted.append(1))
    yield counted
    left = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in toy.transformer.modules())
    handle.remove()
    assert left == 1, "a hook was left behind"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_refused_before_any_forward(name, case, toy, forwards):
    changed, error, words = CASES[case]
    arguments = {**GIVEN, "prompts": 3, "seeds": [0, 1], **changed}
    prompts, seeds = arguments.pop("prompts"), arguments.pop("seeds")
    if isinstance(prompts, int):
        prompts = dg.references(toy).sample(prompts, seed=0)
    with pytest.raises(error, match=words):
        getattr(experiments, name)(toy, prompts, seeds, **arguments)
    assert not forwards


@pytest.mark.parametrize("case", ["no prompts", "one prompt", "no seeds"])
@pytest.mark.parametrize("name", NAMES)
def test_refused_before_any_forward_where_channels_are_to_be_found(name, case, toy, forwards):
    changed, error, words = CASES[case]
    arguments = {"prompts": 3, "seeds": [0, 1], **changed}
    prompts = arguments["prompts"]
    if isinstance(prompts, int):
        prompts = dg.references(toy).sample(prompts, seed=0)
    with pytest.raises(error, match=words):
        getattr(experiments, name)(toy, prompts, arguments["seeds"], progress=False)
    assert not forwards


def test_tokens_beyond_the_grid(toy, forwards):
    edit = dg.Disrupt([3], 1, tokens=[0, 64])  # 32 x 32 pixels are 8 x 8 tokens
    pairs = dg.references(toy).sample(2, seed=0)
    with pytest.raises(IndexError, match="token 64 requested; there are 0 to 63"):
        dg.denoise_error(toy, pairs, [edit])
    with pytest.raises(IndexError, match="token 64 requested; there are 0 to 63"):
        dg.capture(toy, "red apple", edits=edit, steps=2)
    with pytest.raises(IndexError, match="token 64 requested; there are 0 to 63"):
        dg.generate(toy, "red apple", edits=edit, steps=2)
    with pytest.raises(ValueError, match=r"box .* must lie within"):
        toy.tokens([(0, 0, 64, 64)])
    assert not forwards


def test_strings_where_a_truth_is_needed(toy, forwards):
    with pytest.raises(ValueError, match="picture"):  # `detail` and `guidance` compare with the clean sample
        experiments.denoise(toy, ["red apple", "owl", "fish"], [0], **GIVEN)
    with pytest.raises(ValueError, match="picture"):  # which methods are searched for by what is right
        experiments.guidance(toy, ["red apple", "owl", "fish"], [0], baselines=["PAG"], **GIVEN)
    assert not forwards


def test_a_full_disk_while_a_result_is_saved_loses_nothing(tmp_path, monkeypatch):
    outcome = Outcome("x", "x grows", 1.0, 0.5, 1.5, "1", "above", 0.0, primary=True)
    result = Result("x", "Does x grow?", pd.DataFrame({"x": [1.0]}), [outcome], {}, {"more": pd.DataFrame({"y": [2]})})
    result.save(tmp_path / "old")
    whole, count = pd.DataFrame.to_csv, []

    def full(self, *args, **kwargs):
        count.append(1)
        if len(count) % 2 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    for folder in ("old", "new"):
        with pytest.raises(OSError, match="No space left"):
            Result("y", "Another?", pd.DataFrame({"x": [9.0]}), [outcome], {}, result.tables).save(tmp_path / folder)
    assert experiments.open_result(tmp_path / "old").experiment == "x"
    assert experiments.open_result(tmp_path / "old").table["x"].tolist() == [1.0]
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == ["more.csv", "result.json", "table.csv"]
    with pytest.raises(FileNotFoundError, match="no result in"):
        experiments.open_result(tmp_path / "new")
