"""The table of weak models: runs are kept and not made again; amounts are made equal; the page is what is kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import toy_model

import dg_tools as dg
from dg_tools.metrics import band_correlation
from dg_tools.report.splits import TOY
from evidence import weak_model_page as page
from evidence import weak_model_table as table

CHOICE = {"channels": toy_model.CHANNELS, "block": 1, "rho": 2.0, "detail_guidance_scale": 0.5}
SIZE = {"prompts": 6, "control_prompts": 6, "draws": 2, "sizes": TOY}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    dit = dg.load(toy_model.write(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "STEPS", 4)
        patch.setattr(table, "GAINS", (1.3,))
        yield dit, folder / "toy.json", table.measure(dit, CHOICE, folder / "toy.json", **SIZE)


def test_all_rows_are_run_on_the_same_noise_and_told_their_price(made):
    dit, _, values = made
    runs, captions = values["runs"], values["about"]["captions"]
    assert [len(chunks) for chunks in runs.values()] == [1] * len(runs)
    assert sum(runs["cond"][0]["held_out"]) == 2
    truth = dg.references(dit).picture(table.captions(dg.references(dit), TOY, ())[1][4])
    for name, settings in {"cond": {}, "CFG 2": {"guidance": dg.CFG(2.0)}}.items():
        seed = table.FIRST_SEED + 4
        own = dg.generate(dit, captions[4], seed=seed, steps=4, height=32, width=32, **settings)
        right = band_correlation(own.pictures, truth[None])["high"].item()
        assert runs[name][0]["right"][4] == pytest.approx(right, abs=1e-3)  # one picture at a time
    assert {n: runs[n][0]["forwards"] for n in ("cond", "gain 1.3", "DG, auto", "CFG 2")} == {
        "cond": 4,
        "gain 1.3": 4,
        "DG, auto": 8,
        "CFG 2": 8,
    }
    assert runs["DG, auto"][0]["passes"] < 8 and any(name.startswith("control") for name in runs)


def test_what_is_kept_is_not_computed_again(made, monkeypatch):
    dit, file, values = made
    before = file.read_text(encoding="utf-8")
    monkeypatch.setattr(table, "run", None)
    assert table.measure(dit, CHOICE, file, **SIZE) == values
    assert file.read_text(encoding="utf-8") == before
    with pytest.raises(ValueError, match="other weights or settings"):
        table.measure(dit, CHOICE | {"rho": 1.5}, file, **SIZE)
    with pytest.raises(ValueError, match="a multiple of 6"):
        table.measure(dit, CHOICE, file, **SIZE | {"prompts": 7})


def test_the_page_has_a_row_for_each_run_and_no_other(made):
    _, file, values = made
    page.write(file.parent)
    rows = pd.read_csv(file.with_suffix(".csv"))
    runs = [name for name in values["runs"] if not name.startswith("control ")]
    assert list(rows["run"][: len(runs)]) == runs and rows["run"].iloc[-1].startswith("DG, other channels")
    assert f"| {runs[1]} | 6 |" in (file.parent / page.PAGE).read_text(encoding="utf-8")


def numbers(amount, right, noise):
    columns = dict.fromkeys(page.OUTCOMES, np.zeros(len(noise)))
    columns |= {"amt_c": amount + noise, "right": right + noise / 10, "held_out": np.arange(len(noise)) % 3 == 0}
    return pd.DataFrame(columns)


@pytest.mark.parametrize(("beyond", "words"), [(0.02, "more than gain"), (0.0, "equal"), (-0.03, "undecided")])
def test_gain_is_brought_to_the_amount_of_guidance(beyond, words):
    noise = np.random.default_rng(0).normal(0, 0.1, 12)
    base = numbers(0.0, 0.5, noise)
    gains = {1.0: base, 1.2: numbers(0.4, 0.54, noise), 1.4: numbers(0.6, 0.50, noise)}
    (gained, less), sentence = page.at_equal("DG", "amt_c", numbers(0.5, 0.52 + beyond, noise), gains, base)
    assert gained["amt_c_change"] == pytest.approx(0.5) and gained["right_change"] == pytest.approx(0.02)
    assert less["right_change"] == pytest.approx(beyond, abs=1e-9) and f"**{words}**" in sentence
    assert page.at_equal("DG", "amt_c", numbers(0.9, 0.5, noise), gains, base)[0] == []


def test_the_stored_page_is_what_the_stored_numbers_say():
    assert page.page_text(table.FOLDER) == (table.FOLDER / page.PAGE).read_text(encoding="utf-8")
