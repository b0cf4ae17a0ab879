"""On which tokens: planted channels whose answer is known, the statistic written out, and verdicts that come out no."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments import open_result, tokens
from dg_tools.experiments._tokens import over_tokens
from dg_tools.experiments.channel_sets import draws, jaccard, largest_others
from dg_tools.experiments.trajectories import evenly, trajectories

PROMPTS = ["apple", "tree", "house", "fish", "sun"]
CALL = {**tiny.CALL, "measured": 2, "progress": False}


@pytest.fixture(scope="module")
def planted():
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [3, 7], 500.0)
    return dg.load(pipeline)


@pytest.fixture(scope="module")
def result(planted):
    return tokens(planted, PROMPTS, [0, 1], **CALL)


def test_planted_channels_are_on_every_token_from_the_block_that_writes_them(result):
    assert set(result.settings["channels"]) == {3, 7} and result.settings["onset"] == [1, 1]
    assert not set(result.settings["test"]) & set(result.settings["detection"])
    assert result.primary.status == "holds" and result.primary.estimate == 1 and result.primary.rank == 20
    assert result.outcome("one sign").estimate == 1 and result.outcome("constant").estimate < 0.1
    assert result.outcome("all layers").estimate == pytest.approx(0.75, abs=0.05)  # not yet after block 0
    assert result.outcome("image over text").estimate > 0.5
    for factor in ("prompt", "seed", "step", "block"):
        stable = result.outcome(f"same over {factor}s")
        assert stable.estimate > 0.7 and stable.rank == 20
    image = result.table[result.table["stream"] == "image"]
    assert len(image) == 4 * 2 * 2 * 4 * 2 and (image[image["block"] >= 1]["sign"] == 1).all()
    assert len(result.tables["controls"]) == 1 + 2 * 20


def test_without_massive_channels_the_verdict_is_no(dits):
    result = tokens(dits("sd3"), PROMPTS, [0, 1], channels=[3, 7], **CALL)
    assert result.primary.status == "fails" and result.verdict.startswith("Does not hold")


def test_every_family_and_guidance(dit):
    result = tokens(dit, PROMPTS[:2], [0], channels=[5], guidance_scale=2.0, controls=2, **CALL)
    assert sorted(result.table["block"].unique()) == list(range(len(dit.blocks)))
    assert not result.table.isna().any().any() and any("over seeds" in note for note in result.notes)
    last = result.table.query("stream == 'text'")["block"].max()
    assert last == len(dit.blocks) - (2 if dit.family.name == "sd3" else 1)  # SD3's last block has no text


def test_statistics_equal_the_ones_written_out(planted, result):
    prompts = result.settings["test"]
    model, hidden = planted.transformer, {}

    def keep(module, inputs, output):
        hidden["x"] = output[1][0].numpy().copy()

    latents = []

    def before(module, args, kwargs):
        latents.append(kwargs["hidden_states"].clone())

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    generator = [torch.Generator().manual_seed(1)]
    planted.pipeline(
        prompts[:1],
        generator=generator,
        num_inference_steps=3,
        guidance_scale=1.0,
        max_sequence_length=8,
        **tiny.SIZE,
        output_type="latent",
    )
    handle.remove()
    embeds, _, pooled, _ = planted.pipeline.encode_prompt(
        prompts[:1], None, None, do_classifier_free_guidance=False, max_sequence_length=8
    )
    handle = model.transformer_blocks[2].register_forward_hook(keep)
    with torch.no_grad():
        model(latents[2], embeds, pooled, planted.pipeline.scheduler.timesteps[2:3], return_dict=False)
    handle.remove()
    x = hidden["x"]
    median = np.median(np.abs(x).mean(0))
    row = result.table.query(
        "prompt == @prompts[0] and seed == 1 and block == 2 and stream == 'image' and channel == 3"
    )
    row = row[row["sigma"] == row["sigma"].min()].iloc[0]
    assert row["share"] == (np.abs(x[:, 3]) >= 5 * median).mean()
    assert row["ratio"] == pytest.approx(np.abs(x[:, 3]).mean() / median, rel=1e-3)
    assert row["variation"] == pytest.approx(x[:, 3].std() / abs(x[:, 3].mean()), rel=1e-3, abs=1e-5)


def test_share_sign_and_variation_on_known_numbers():
    x = torch.ones(1, 4, 3)
    x[0, :, 0] = torch.tensor([7.0, 7.0, 7.0, 2.0])
    x[0, :, 1] = torch.tensor([1.0, -1.0, 1.0, 1.0])
    statistics = over_tokens(x, 5.0)
    assert statistics["share"][0].tolist() == [0.75, 0, 0] and statistics["one_sign"][0].tolist() == [1, 0.75, 1]
    assert statistics["variation"][0, 0] == pytest.approx(np.std([7, 7, 7, 2]) / 5.75)


def test_jaccard_and_draws_on_known_sets():
    sets = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
    index, pairs = jaccard(sets)
    assert dict(zip(map(tuple, pairs.T.tolist()), index.tolist(), strict=True))[(0, 1)] == pytest.approx(1 / 3)
    assert index[1] == 0 and np.isnan(index[-1])
    assert largest_others(np.array([9.0, 1, 5, 7]), [0], 2) == [3, 2]
    controls = draws([4, 5, 6, 7, 8], 2, 10, 0)
    assert len(set(controls)) == 10 and controls == draws([4, 5, 6, 7, 8], 2, 10, 0)


def test_same_call_same_bytes_saved_and_drawn(planted, result, tmp_path):
    again = tokens(planted, PROMPTS, [0, 1], **CALL)
    assert again.table.equals(result.table) and again.outcomes == result.outcomes
    result.save(tmp_path)
    figure = open_result(tmp_path).plot()
    shown = {axis.get_title(): axis for axis in figure.axes}
    matrix = shown["Same channels at two blocks?"].images[0].get_array()
    assert matrix.shape == (3, 3) and np.allclose(np.diag(matrix), 1)  # blocks 1 to 3
    assert next(a for t, a in shown.items() if "by token" in t).images[0].get_array().shape == (8, 12)


def test_bad_input_is_refused_before_any_forward(planted):
    for arguments, error, words in (
        ({"measured": 4}, ValueError, "this run has 3 steps: pass 1 to 3"),
        ({"steps": 0}, ValueError, "steps=0"),
        ({"ratio": 0}, ValueError, "ratio=0"),
        ({"controls": 0}, ValueError, "controls=0"),
        ({"channels": list(range(20))}, ValueError, "too few others"),
        ({"channels": [32]}, IndexError, r"channels \[32\] requested"),
        ({"prompts": []}, ValueError, "empty list of prompts"),
        ({"prompts": ["apple"], "channels": [3]}, ValueError, "needs at least 2"),
        ({"seeds": []}, ValueError, "empty list of seeds"),
        ({"block": 4}, IndexError, "block 4 requested"),
    ):
        with pytest.raises(error, match=words):
            tokens(planted, **{"prompts": PROMPTS, "seeds": [0], **CALL, **arguments})


def test_hooks_are_taken_off_after_an_exception(planted):
    count = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in planted.transformer.modules())  # noqa: E731
    before = count()
    runs = trajectories(planted, ["apple"], [0], steps=3, keep=[7], progress=False, **tiny.SIZE, max_sequence_length=8)
    with pytest.raises(RuntimeError, match="ended early"):
        next(runs)
    assert count() == before and evenly(20, 3) == [0, 10, 19]
