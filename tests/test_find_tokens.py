"""Outlier tokens: planted ones are found, and none where tokens only vary; pads are named."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import xarray as xr

import dg_tools as dg
from dg_tools.activations import find_tokens

CALL = {**tiny.SIZE, "steps": 2, "max_sequence_length": 8, "progress": False}


def norms(runs: int = 6, sites: int = 3, tokens: int = 80, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    """Norms that vary as a picture's do: log-normal over tokens."""
    return np.exp(spread * np.random.default_rng(seed).standard_normal((runs, sites, tokens))) * 20


def as_data(image: np.ndarray, text: np.ndarray | None = None) -> xr.Dataset:
    runs, sites, tokens = image.shape
    both = np.full((runs, 1, 1, sites, 2, tokens), np.nan)
    both[:, 0, 0, :, 0] = image
    if text is not None:
        both[:, 0, 0, :, 1, : text.shape[-1]] = text
    dims = ("prompt", "seed", "step", "site", "stream", "token")
    coords = {
        "site": [str(i) for i in range(sites)],
        "stream": ["image", "text"],
        "prompt": [f"p{i}" for i in range(runs)],
    }
    return xr.Dataset({"token_norm": (dims, both)}, coords)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.05, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_none_where_there_are_none(spread, seed):
    """Equal norms, rounding, pictures of little and of much contrast."""
    found = find_tokens(as_data(norms(spread=spread, seed=seed), norms(tokens=20, spread=spread, seed=seed + 9)))
    assert found.tokens == {"image": [], "text": []} and found.table.empty
    assert (found.any_token["share"] == 0).all() and "no fixed outlier token" in repr(found)


def test_planted_ones_are_found_where_they_are():
    image, text = norms(), norms(tokens=20, seed=1)
    image[:, 1:, 7] *= 60  # a fixed one from block 1 on
    image[:, 2, 30] *= 90
    text[:4, 0, 3] *= 50  # in four runs of six
    text[:1, 1, 5] *= 50  # in one
    found = find_tokens(as_data(image, text))
    assert found.tokens == {"image": [30, 7], "text": [3]}
    table = found.to_frame().set_index(["stream", "block", "token"])
    assert set(table.index) == {("image", 1, 7), ("image", 2, 7), ("image", 2, 30), ("text", 0, 3), ("text", 1, 5)}
    one = image[:, 1]
    ratio = np.median(one[:, 7] / np.median(one, -1))
    assert table.loc[("image", 1, 7), "ratio"] == pytest.approx(ratio, rel=0.05)
    assert table.loc[("text", 0, 3), "stability"] == pytest.approx(4 / 6) and table.loc[("text", 0, 3), "fixed"]
    assert not table.loc[("text", 1, 5), "fixed"]
    shares = found.any_token.set_index(["stream", "block"])["share"]
    assert shares["image", 0] == 0 and shares["image", 1] == 1 and shares["text", 1] == pytest.approx(1 / 6)


def test_one_that_wanders_is_no_fixed_token():
    image = norms()
    for run in range(6):
        image[run, 1, 11 * run] *= 60
    found = find_tokens(as_data(image))
    assert found.tokens["image"] == [] and set(found.table["token"]) == {11 * run for run in range(6)}
    assert found.any_token.query("block == 1")["share"].item() == 1


def test_in_a_run_of_a_model_and_pads_are_named(dits):
    """A hook of the test's own makes one image token and one pad large; massive channels hide neither."""
    dit = dg.load(tiny.sd3())
    tiny.plant(dit.pipeline, 0, [3], 500.0)
    clean = find_tokens(dg.capture(dit, ["ab", "cd"], **CALL), dit, streams=["image"])
    assert clean.tokens == {"image": []}

    def large(module, args, output):
        text, image = (x.clone() for x in output)
        image[:, 17] *= 40
        text[:, 12] *= 400
        return text, image

    handle = dit.blocks[1].module.register_forward_hook(large)
    try:
        acts = dg.capture(dit, ["ab", "cd"], **CALL)
    finally:
        handle.remove()
    found = find_tokens(acts, dit)
    table = found.table.set_index(["stream", "block", "token"])
    assert 17 in found.tokens["image"] and 12 in found.tokens["text"]
    known = acts.data["token_norm"].sel(stream="image").isel(site=1)
    ratio = (known.isel(token=17) / known.isel(token=slice(0, 96)).median("token")).median().item()
    assert table.loc[("image", 1, 17), "ratio"] == pytest.approx(ratio, rel=1e-4)
    ids = dit.pipeline.tokenizer("ab", padding="max_length", max_length=16)
    assert not ids["attention_mask"][12] and table.loc[("text", 1, 12), "pad"]
    assert not table.loc[("image", 1, 17), "pad"] and table.loc[("image", 1, 17), "piece"] == ""


@pytest.mark.parametrize(
    "data, settings, words",
    [
        (as_data(norms()).rename(token_norm="mean"), {}, "needs token_norm"),
        (as_data(norms()), {"streams": ["reference"]}, "there are image, text"),
        (as_data(norms()), {"ratio": 1.0}, "ratio must be more than 1"),
        (as_data(norms()), {"spread": 0}, "spread more than 0"),
    ],
)
def test_refused(data, settings, words):
    with pytest.raises(ValueError, match=words):
        find_tokens(data, **settings)


def test_words_need_tokenizers():
    dit = dg.load(tiny.families()["auraflow"].pipeline())
    text = norms(tokens=20)
    text[:, 0, 3] *= 50
    assert find_tokens(as_data(norms(), text)).tokens["text"] == [3]
    with pytest.raises(ValueError, match="does not say which text token is which word"):
        find_tokens(as_data(norms(), text), dit)
