"""Warped pictures whose map is known, PCK counted by hand, and the experiment on a toy model with planted channels."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import tiny
import torch
import toy_model

import dg_tools as dg
from dg_tools import experiments, plots
from dg_tools.experiments.picture_warps import TASKS, Map, applied, mirror, warp, warped_pictures
from dg_tools.metrics.keypoints import chance_level, correct_keypoints, match_distance, nearest_tokens, token_centres

GIVEN = {"channels": toy_model.CHANNELS, "block": [1, 2, 3], "sigmas": (0.1, 0.4), "progress": False}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return dg.load(toy_model.write(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="module")
def result(toy):
    pictures = dg.references(toy).sample(8, seed=2)
    return experiments.correspondence(toy, pictures, [0, 1], controls=3, batch=4, **GIVEN)


# -- maps -----------------------------------------------------------------------------------------------------------


def test_a_mirror_and_whole_steps_are_exact():
    picture = torch.rand(3, 32, 48)
    seen, truth = applied(mirror(), picture, (8, 12))
    assert torch.allclose(seen, picture.flip(-1), atol=1e-5)
    assert torch.allclose(truth.view(8, 12, 2)[2, 3], torch.tensor([2.0, 8.0]))
    nothing = torch.zeros(2)
    step = Map(torch.eye(2), torch.tensor([1 / 8, 2 / 12]), nothing, nothing)  # one token down, two to the right
    seen, truth = applied(step, picture, (8, 12))
    assert torch.allclose(seen[:, :28, :40], picture[:, 4:, 8:], atol=1e-5)
    assert torch.allclose(truth, token_centres(8, 12) + torch.tensor([1.0, 2.0]))


def test_a_warp_shows_at_each_token_what_the_original_has_at_the_true_place():
    """On a picture whose colours are its coordinates: its colours are then the true places."""
    height, width, grid = 64, 96, (16, 24)
    places = (token_centres(height, width) + 0.5) / 4 - 0.5  # in tokens
    picture = torch.cat([places.T.view(2, height, width), torch.zeros(1, height, width)])
    g = warp(np.random.default_rng(5))
    assert g.wave.abs().min() > 0 and (g.matrix - torch.eye(2)).abs().max() > 0.05
    seen, truth = applied(g, picture, grid)
    told = torch.nn.functional.avg_pool2d(seen[None, :2], 4)[0].flatten(1).T
    inside = ((truth > 1) & (truth < torch.tensor(grid) - 2)).all(-1)
    assert inside.sum() > 50
    assert (told - truth)[inside].abs().max() < 0.1, "in tokens"


def test_warped_pictures_of_ones_own_not_square(dits):
    dit = dits("sd3")
    pictures = torch.rand(3, 3, 32, 48) * 2 - 1
    masks = torch.zeros(3, 32, 48)
    masks[:, 8:24, 12:36] = 1
    items = [("a", p, m) for p, m in zip(pictures, masks, strict=True)]
    originals, made = warped_pictures(dit, items, ["flipped", "recoloured"])
    assert torch.equal(originals, pictures) and [t.task for t in made] == ["flipped", "recoloured"]
    assert made[0].keypoints.view(3, 8, 12)[0].nonzero().min(0).values.tolist() == [2, 3]
    assert made[0].keypoints.sum() == 3 * 4 * 6
    again = warped_pictures(dit, items[:2], ["recoloured"])[1][0]
    assert torch.equal(again.pictures, made[1].pictures[:2]), "a picture's warp does not depend on the others"
    assert not torch.allclose(made[1].truth[0], made[1].truth[1])
    whole = warped_pictures(dit, [x[:2] for x in items], ["flipped"])[1][0]
    assert whole.keypoints.all()
    with pytest.raises(ValueError, match="needs references"):
        warped_pictures(dit, items, ["flat"])
    with pytest.raises(ValueError, match=r"pictures \[0\].*nothing to match"):
        warped_pictures(dit, [("a", pictures[0], torch.zeros(32, 48))], ["flipped"])


# -- PCK ------------------------------------------------------------------------------------------------------------


def test_matching_and_counting_by_hand():
    chance = np.random.default_rng(0)
    query, target = chance.normal(size=(2, 6, 5)), chance.normal(size=(2, 6, 5))
    found = nearest_tokens(torch.from_numpy(query), torch.from_numpy(target)).numpy()
    for i in range(2):
        for j in range(6):
            cosines = [q @ query[i, j] / np.linalg.norm(q) for q in target[i]]
            assert found[i, j] == int(np.argmax(cosines))
    truth = token_centres(2, 3)[None].float()
    away = match_distance(torch.tensor([[0, 2, 5, 3, 4, 0]]), truth, 3)[0]
    assert torch.allclose(away, torch.tensor([0, 1, 1, 0, 0, math.sqrt(5)]))
    keypoints = torch.tensor([[True, True, False, False, True, True]])
    assert correct_keypoints(away[None], keypoints, 0.5).item() == 50 and correct_keypoints(away, keypoints, 1) == 75
    level = chance_level(truth, keypoints, 2, 3, 1.0)  # corners have 3 tokens within 1, the middle ones 4
    assert torch.allclose(level, torch.tensor([100 * (3 + 4 + 4 + 3) / 4 / 6]))


# -- the experiment -------------------------------------------------------------------------------------------------


def test_each_variant_is_scored_where_it_did_best_on_other_pictures(result):
    development, chosen = result.tables["development"], result.tables["chosen"].set_index("variant")
    assert set(chosen.index) == {"raw", "discard", "adaln", "ditf", "mrep"} | {
        f"{r}, control {i}" for r in ("discard", "ditf", "adaln", "mrep") for i in range(3)
    }
    for name, rows in development.groupby("variant"):
        assert len(rows) == 6 and chosen.loc[name, "pck"] == rows["pck"].max()
        there = result.table[result.table["variant"] == name][["block", "sigma"]].drop_duplicates()
        assert there.values.tolist() == [[chosen.loc[name, "block"], chosen.loc[name, "sigma"]]]
    settings = result.settings
    assert len(settings["detection"]) == 2 and len(settings["test"]) == 6
    assert result.table["picture"].nunique() == 6 and set(result.table["task"]) == set(TASKS)
    assert set(result.table["threshold"]) == {1.0, 2.0} and result.table["pck"].between(0, 100).all()


def test_pck_equals_features_matched_by_hand(toy, result):
    """One row of the table anew: from `dg.features`, the warped picture, and a loop over tokens."""
    items = dg.references(toy).sample(8, seed=2)
    row = result.table[(result.table["variant"] == "ditf") & (result.table["task"] == "flat")].iloc[-1]
    originals, made = warped_pictures(toy, items, list(TASKS))
    kind, i = made[TASKS.index("flat")], int(row["picture"])
    assert items[i].prompt == row["prompt"]
    settings = {"block": int(row["block"]), "sigma": float(row["sigma"]), "channels": toy_model.CHANNELS}
    target = dg.features(toy, originals[i], seed=int(row["seed"]), **settings)[0].flatten(0, 1).numpy()
    stack = 1 + TASKS.index("flat")
    query = dg.features(toy, kind.pictures[i], seed=int(row["seed"]) + 1_000_003 * stack, **settings)[0].flatten(0, 1)
    right = []
    for token in np.flatnonzero(kind.keypoints[i]):
        cosines = target @ query[token].numpy() / np.linalg.norm(target, axis=1)
        y, x = divmod(int(cosines.argmax()), 8)
        right.append(math.hypot(y - kind.truth[i, token, 0], x - kind.truth[i, token, 1]) <= row["threshold"])
    assert row["pck"] == pytest.approx(100 * np.mean(right), abs=1e-3)


def test_outcomes_follow_from_the_table(result):
    shown = result.table[result.table["threshold"] == 1]
    pck = shown.groupby(["variant", "picture"])["pck"].mean()
    gain = result.outcome("recipe")
    assert gain.primary and gain.margin == 5 and len(gain.null) == 3
    assert gain.estimate == pytest.approx((pck["ditf"] - pck["raw"]).mean(), abs=1e-3)
    assert gain.null[1] == pytest.approx((pck["ditf, control 1"] - pck["raw"]).mean(), abs=1e-3)
    alone = result.outcome("adaln alone")
    assert alone.null[2] == pytest.approx((pck["adaln, control 2"] - pck["raw"]).mean(), abs=1e-3)
    levels = result.tables["levels"]
    levels = levels[levels["threshold"] == 1].groupby("picture")[["chance", "position"]].mean()
    best = levels[levels.mean().idxmax()]
    assert result.outcome("raw over no model").estimate == pytest.approx((pck["raw"] - best).mean(), abs=1e-3)


def test_same_call_same_bytes_saved_and_drawn(toy, result, tmp_path):
    again = experiments.correspondence(toy, dg.references(toy).sample(8, seed=2), [0, 1], controls=3, batch=4, **GIVEN)
    assert again.table.equals(result.table) and again.outcomes == result.outcomes
    result.save(tmp_path)
    figure = experiments.open_result(tmp_path).plot()
    figure.savefig(io.BytesIO())
    shown = {axis.get_title(): axis for axis in figure.axes}
    bars = shown["PCK within 1 token, test pictures"].patches
    shown_pck = result.table[result.table["threshold"] == 1].groupby(["task", "variant"])["pck"].mean()
    assert bars[0].get_height() == pytest.approx(shown_pck["warped", "raw"], abs=1e-2)
    query = np.zeros((32, 48, 3))
    truth = token_centres(8, 12).numpy()
    found = np.roll(np.arange(96), 12)  # every token one row off
    lines = plots.token_matches(query, query, found, truth, np.arange(96) == 13, grid=(8, 12)).axes[0].lines
    assert len(lines) == 1 and lines[0].get_xdata().tolist() == [6, 54 + 6] and lines[0].get_ydata().tolist() == [6, 2]


def test_pictures_of_ones_own_detected_channels_and_flux(dits, toy):
    pictures = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    items = [(f"picture {i}", p) for i, p in enumerate(pictures)]
    made = experiments.correspondence(
        dits("flux"), items, channels=[3], block=[1, 3], sigmas=[0.2], controls=2, progress=False, max_sequence_length=8
    )
    assert set(made.table["task"]) == {"warped", "flipped", "recoloured"} and "no flat twins" in made.notes[0]
    assert set(made.table["block"]) <= {1, 3}
    found = experiments.correspondence(
        toy, dg.references(toy).sample(4, seed=2), block=2, sigmas=[0.2], tasks=["flipped"], controls=2, progress=False
    )
    assert set(found.settings["channels"]) >= set(toy_model.CHANNELS) and "detected on 1 other" in found.settings["how"]


REFUSED = {
    "no prompts": ({"prompts": []}, ValueError, "empty list of prompts"),
    "one prompt": ({"prompts": 1}, ValueError, "at least"),
    "no seeds": ({"seeds": []}, ValueError, "seed"),
    "strings": ({"prompts": ["owl"] * 3}, ValueError, "has no picture"),
    "channel beyond the width": ({"channels": [tiny.WIDTH]}, IndexError, f"0 to {tiny.WIDTH - 1}"),
    "no channels": ({"channels": []}, ValueError, "channels is empty"),
    "block beyond the last": ({"block": [0, 99]}, IndexError, "99.*0 to 3"),
    "sigma": ({"sigmas": [0.5, 2]}, ValueError, "above 0 and up to 1"),
    "task": ({"tasks": ["turned"]}, ValueError, "warped, flipped, recoloured, flat"),
    "share": ({"develop": 1.0}, ValueError, "develop=1.0"),
    "too few controls": ({"controls": 0}, ValueError, "controls=0"),
    "batch": ({"batch": 0}, ValueError, "batch=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_forward(case, toy):
    changed, error, words = REFUSED[case]
    arguments = {**GIVEN, "prompts": 4, "seeds": [0], **changed}
    prompts, seeds = arguments.pop("prompts"), arguments.pop("seeds")
    if isinstance(prompts, int):
        prompts = dg.references(toy).sample(prompts, seed=0)
    counted: list[int] = []
    handle = toy.transformer.register_forward_pre_hook(lambda *_: counted.append(1))
    with pytest.raises(error, match=words):
        experiments.correspondence(toy, prompts, seeds, **arguments)
    handle.remove()
    assert not counted


def test_the_control_of_adaln_permutes_shift_and_scale_together():
    from dg_tools.activations._features import Entry
    from dg_tools.experiments.pck import Variant

    entry = Entry(torch.randn(2, 5, 8), torch.arange(8.0).expand(2, 8), torch.arange(8.0).expand(2, 8) / 100)
    made = Variant("adaln, control 0", "adaln", (), 0).of(entry)
    normed = torch.nn.functional.layer_norm(entry.hidden, (8,), eps=1e-6)
    shift = (made - normed).div(1 + normed / 100)  # made = normed + c (1 + normed / 100), c a channel's
    order = shift[0, 0].round().long()
    assert torch.allclose(shift, order.float().expand_as(shift), atol=1e-3), "the same channel gives shift and scale"
    assert sorted(order.tolist()) == list(range(8)) and order.tolist() != list(range(8))
