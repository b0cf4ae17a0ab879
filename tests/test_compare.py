"""`dg.compare`: one noise, honest costs, the metrics of the pictures that it shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.metrics import describe, low_correlation
from dg_tools.metrics.cell_bands import named_bands

CALL = {"steps": 2, "max_sequence_length": 8, "progress": False}


def pairs(size=(32, 48)):
    chance = torch.Generator().manual_seed(1)
    return [(word, torch.rand(3, *size, generator=chance) * 2 - 1) for word in ("apple", "tree")]


@pytest.fixture(scope="module")
def made(dits):
    guidances = {
        "plain": None, "CFG": dg.CFG(3.0), "PAG": dg.baselines.PAG(3.0, 0.5, blocks=2),
        "APG": dg.baselines.APG(3.0, eta=0.2), "DG": dg.DetailGuidance(3.0, 0.5, dg.Disrupt([3], 1)),
    }  # fmt: skip
    return dg.compare(dits("sd3"), pairs(), guidances, seeds=[0, 5], **CALL)


def test_pictures_costs_and_metrics_are_those_of_generate(made, dits):
    frame = made.to_frame()
    assert len(frame) == len(made.images) == 2 * 2 * 5
    costs = frame.groupby("guidance")["block_calls"].first()
    assert costs.to_dict() == {"plain": 8, "CFG": 16, "PAG": 20, "APG": 16, "DG": 20}
    at = frame.index[(frame["guidance"] == "PAG") & (frame["prompt"] == "tree") & (frame["seed"] == 5)][0]
    alone = dg.generate(dits("sd3"), "tree", seed=5, guidance=dg.baselines.PAG(3.0, 0.5, blocks=2), **tiny.SIZE, **CALL)
    assert np.array_equal(np.asarray(alone.images[0]), np.asarray(made.images[at]))
    pixels = torch.tensor(np.asarray(alone.images[0])).permute(2, 0, 1)[None] / 127.5 - 1
    for name, value in describe(pixels, pairs()[1][1][None], named_bands(2)).items():
        assert frame.loc[at, name] == pytest.approx(value.item(), rel=1e-4, nan_ok=True), name
    low = low_correlation(pixels, pairs()[1][1][None].double(), cell=2).item()
    assert frame.loc[at, "low_correlation"] == pytest.approx(low, rel=1e-3)
    assert (frame["seconds"] > 0).all() and frame["forwards"].min() == 2


def test_without_pictures_metrics_need_none(dits):
    made = dg.compare(dits("flux"), "an apple", [None, dg.baselines.Blurred(1.0, 0.5)], **tiny.SIZE, **CALL)
    assert list(made.table["guidance"]) == ["cond", "blur 0.5"] and made.references is None
    assert "contrast" in made.table and "high_correlation" not in made.table
    assert len(made.grid().axes) == 2


def test_the_grid_has_a_column_each_and_says_what_they_cost(made):
    figure = made.grid(metric="high_correlation", title="five")
    assert len(figure.axes) == 4 * 6
    titles = [a.get_title() for a in figure.axes[:6]]
    assert titles[0] == "reference" and titles[3].startswith("PAG\n20 block calls")
    shown = figure.axes[3].get_xlabel()
    assert float(shown) == pytest.approx(made.table["high_correlation"][2], rel=0.01)
    with pytest.raises(ValueError, match="no metric 'beauty'"):
        made.grid(metric="beauty")


def test_bad_input_is_refused(dits):
    dit = dits("sd3")
    for message, given in (
        ("nothing to compare", ([], [None])),
        ("nothing to compare", (["apple"], [])),
        ("are called 'CFG 3'", (["apple"], [dg.CFG(3.0), dg.CFG(3.0)])),
        ("has no picture", (["apple", pairs()[0]], [None])),
    ):
        with pytest.raises(ValueError, match=message):
            dg.compare(dit, *given, **CALL)
    with pytest.raises(ValueError, match="pictures are 32 x 48"):
        dg.compare(dit, pairs(), [None], height=64, **CALL)
    with pytest.raises(ValueError, match="16 x 16 are 8 x 8 latent cells: too small for a band below 1/8"):
        dg.compare(dit, "apple", [None], height=16, width=16, **CALL)
    with pytest.raises(TypeError, match=r"dg\.baselines"):
        dg.compare(dit, "apple", {"text": "CFG"}, **CALL)


def test_to_json_is_plain_and_whole(made):
    given = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert given["guidances"] == ["plain", "CFG", "PAG", "APG", "DG"] and len(given["rows"]) == len(made.table)
    for row, (_, ours) in zip(given["rows"], made.table.iterrows(), strict=True):
        for name, value in ours.items():
            assert row[name] == value or (row[name] is None and np.isnan(value)), name
    assert given["bands"]["high"] == "above 1/4 cycle per latent cell (above 1/8 per pixel)"
    assert set(given["units"]) == set(made.table) - {"guidance", "prompt", "seed", "block_calls", "forwards", "seconds"}
