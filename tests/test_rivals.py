"""`rivals`: the same budget for each guidance, numbers written out, a choice and a verdict that follow from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments import open_result, rivals
from dg_tools.experiments import rivals_outcomes as judged
from dg_tools.experiments.rivals_plan import NAMES, Method, methods
from dg_tools.experiments.rivals_runs import Bench
from dg_tools.guidance.baselines.registry import BASELINES
from dg_tools.metrics import amount_change, band_correlation
from dg_tools.metrics.cell_bands import named_bands
from dg_tools.models.pictures import pictures as decoded
from dg_tools.report import rules

WEAK = dg.Disrupt([3, 7], 1)
ASK = {"steps": 2, "max_sequence_length": 8, "progress": False, "disrupt": WEAK, "controls": 2, "control_prompts": 2}
ASK |= {"weights": (0.5, 1.0), "scales": (3.0, 1.5), "search": 0.4}
SOME = ("DG", "DG uncond", "CFG", "PAG", "SLGUncond", "FreSca", "Gain", "NAG")


def pictures(n: int) -> list[tuple[str, torch.Tensor]]:
    chance = torch.Generator().manual_seed(0)
    return [(f"thing {i}", torch.rand(3, 32, 48, generator=chance) * 2 - 1) for i in range(n)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals")
    dit = dg.load(tiny.sd3())
    return dit, folder, rivals(dit, pictures(5), [4], names=SOME, kept=folder / "kept", **ASK)


def test_every_guidance_has_as_many_values_on_prompts_that_are_not_reported_on(made):
    _, _, result = made
    search, table = result.tables["search"], result.tables["rivals"]
    assert search.groupby("method")["value"].count().to_dict() == dict.fromkeys(SOME, 2)
    assert search.groupby("method")["chosen"].sum().to_dict() == dict.fromkeys(SOME, 1)
    assert list(table["method"]) == list(SOME) and set(table["tried"]) == {2}
    assert len(result.settings["search"]) == 2 and len(result.settings["test"]) == 3
    assert not set(result.settings["search"]) & set(result.settings["test"]) and set(result.table["prompt"]) == set(
        result.settings["test"]
    )
    values = {m: sorted(search.query("method == @m")["value"]) for m in SOME}
    assert values["DG"] == values["PAG"] == values["Gain"] == [0.5, 1.0] and values["CFG"] == [1.5, 3.0]
    prices = table.set_index("method")["forwards"].to_dict()
    assert prices == {m: 2.0 if m == "Gain" else 4.0 for m in SOME} and result.settings["base"]["forwards"] == 2.0
    assert [o.name for o in result.outcomes if o.primary] == ["DG: amt_c"] and len(result.outcomes) == 4 * len(SOME)


def test_the_numbers_are_those_of_the_guidance_written_out(made):
    dit, _, result = made
    cell = dit.vae_scale_factor
    chosen = result.tables["search"].query("chosen").set_index("method")["value"]
    prompt = result.settings["test"][1]
    truth = dict(pictures(5))[prompt][None]
    call = {"steps": 2, "max_sequence_length": 8, "height": 32, "width": 48, "progress": False}
    seed = 4 + 1000 * (2 + 1)  # noise of its own: two search prompts and a test prompt come before it
    for name, guidance in (
        ("none", None),
        ("DG", dg.DetailGuidance(1.0, chosen["DG"], WEAK)),
        ("CFG", dg.CFG(chosen["CFG"])),
        ("PAG", dg.baselines.PAG(1.0, chosen["PAG"], blocks=[2])),
    ):
        own = dg.generate(dit, prompt, seed=seed, guidance=guidance, **call).latents
        own = decoded(dit, own)
        row = result.table.query("rule == @name and prompt == @prompt").iloc[0]
        assert row["seed"] == seed and row["amt_c"] == pytest.approx(amount_change(own, truth, cell).item(), abs=1e-4)
        right = band_correlation(own, truth, named_bands(cell))["high"].item()
        assert row["right"] == pytest.approx(right, abs=1e-4)
    means = result.table.groupby("rule")["amt_c"].mean()
    line = result.tables["rivals"].set_index("method").loc["CFG"]
    assert line["amt_c"] == pytest.approx(means["CFG"] - means["none"]) and line["amt_c_from"] <= line["amt_c"]


def test_what_is_kept_is_not_run_again_and_a_result_is_kept_whole(made, monkeypatch):
    dit, folder, result = made
    monkeypatch.setattr(Bench, "measured", lambda *a, **k: pytest.fail("run again"))
    again = rivals(dit, pictures(5), [4], names=SOME, kept=folder / "kept", **ASK)
    pd.testing.assert_frame_equal(again.table, result.table)
    result.save(folder / "result")
    assert open_result(folder / "result").verdict == result.verdict
    assert len(result.plot().axes) == 5 and "prompts that chose nothing" in result.plot().get_suptitle()


def test_stopped_it_goes_on(tmp_path, monkeypatch, caplog):
    dit, count, own = dg.load(tiny.flux()), [0], Bench.measured
    ask = {**ASK, "names": ["CFG", "Gain", "SoftPAG"], "kept": tmp_path / "kept"}

    def stops(self, *args):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return own(self, *args)

    monkeypatch.setattr(Bench, "measured", stops)
    with pytest.raises(KeyboardInterrupt):
        rivals(dit, pictures(5), **ask)
    assert "the same call goes on from there" in caplog.text
    result = rivals(dit, pictures(5), **ask)
    assert count[0] == 1 + 6 + 1 + 3 + 1, "every run once, and the one that was stopped again"
    whole = rivals(dit, pictures(5), **{**ask, "kept": None})
    pd.testing.assert_frame_equal(result.table, whole.table)


def test_controls_are_run_where_detail_is_past_its_bound(made, monkeypatch):
    dit, folder, _ = made
    monkeypatch.setitem(judged.PARTS, "amt_c", -100.0)
    again = rivals(dit, pictures(5), [4], names=["DG", "Gain"], kept=folder / "kept", **{**ASK, "controls": 3})
    drawn = again.table.query("rule == 'control'")
    primary = again.primary
    assert len(primary.null) == drawn["draw"].nunique() >= 1 and drawn.groupby("draw").size().eq(2).all()
    base = again.table.query("rule == 'none'")["amt_c"].to_numpy()[:2]
    own = drawn[drawn["draw"] == drawn["draw"].iloc[0]]["amt_c"].to_numpy()
    assert primary.null[0] == pytest.approx((own - base).mean())
    assert not (again.table["rule"] == "control").any() or not again.outcome("Gain: amt_c").null


def row(amount, loses="", value=0.0):
    return {"amount": amount, "loses": loses, "value": value}


def test_the_amount_nearest_to_the_references_is_chosen_of_what_loses_nothing():
    tried = [row(-0.4, value=1), row(-0.1, value=2), row(0.3, value=3), row(0.0, "low", value=4)]
    assert judged.choose(tried)["value"] == 2
    assert judged.choose([row(0.5, "right", 1), row(0.1, "low", 2)])["value"] == 1, "the weakest, where all lose"


def table(amount, right=0.0, low=0.0, margin=0.0, amt=-0.5, n=24):
    noise = np.random.default_rng(0).normal(0, 0.02, n)
    columns = {"amt_c": amount + noise, "right": right + 0.5 + noise / 10, "low": low + 0.9, "margin": margin + 0.4}
    return pd.DataFrame({**columns, "amt": amt, "prompt": [f"p{i}" for i in range(n)]})


@pytest.mark.parametrize(
    ("changes", "null", "said"),
    [
        ({"amount": 0.3}, [], "holds"),
        ({"amount": 0.3}, [0.0] * 20, "holds"),
        ({"amount": 0.3}, [0.5] * 20, "controls do the same"),
        ({"amount": 0.3}, [0.0] * 5, "undecided"),
        ({"amount": 0.02}, [], "does not hold"),
        ({"amount": 0.3, "right": -0.1}, [], "does not hold"),
        ({"amount": 0.3, "low": -0.05}, [], "does not hold"),
        ({"amount": 0.3, "margin": -0.1}, [], "does not hold"),
        ({"amount": 0.3, "margin": -0.01}, [], "holds"),
    ],
)
def test_verdicts_of_made_up_numbers(changes, null, said):
    weak = Method("DG", "w", (1.0,), lambda w: None, True, 2.0)
    base = table(0.0)
    parts = judged.outcomes_of("DG", table(**changes), base, null, True)
    assert judged.verdict(parts, weak, 0.3, -0.5)[0] == said
    assert judged.verdict(parts, weak, 0.05, -0.5)[0] == "not tested"
    assert judged.verdict(parts, weak, 0.3, 0.0)[0] == "not tested"


def test_the_bounds_are_those_of_the_evidence():
    ours = (judged.DETAIL, judged.RIGHT, judged.LOW, judged.MARGIN, judged.LACKS, judged.ACTS)
    assert ours == (rules.DETAIL, rules.RIGHT, rules.LOW, rules.MARGIN, rules.LACKS, rules.ACTS)
    from dg_tools.plots.rivals import BOUNDS

    assert BOUNDS == judged.PARTS


def test_all_guidances_of_the_registry_take_part(dits):
    assert set(NAMES) == {"DG", "DG uncond", *BASELINES}
    found, notes = methods(dits("sd3"), WEAK, None, [2], (1.0,), (2.0,), 3, (32, 48))
    assert [m.name for m in found] == list(NAMES) and not notes
    wan = dg.load(tiny.families()["wan"].pipeline())
    found, notes = methods(wan, None, None, [0], (1.0,), (2.0,), 3, (32, 64))
    assert {"CFG", "FreSca", "FDG", "SLGUncond", "S2Guidance", "Gain"} <= {m.name for m in found}
    assert any(note.startswith("without PAG: PAG supports the families") for note in notes)
    assert any(note.startswith("without DG: this model has no profile") for note in notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ["CADS"]}, "some of DG, DG uncond, CFG"),
        ({"names": ["CFG", "CFG"]}, "each once"),
        ({"weights": (1.0,)}, "the same number of both"),
        ({"weights": (0.0, 1.0)}, "w must be above 0"),
        ({"search": [("thing 1", torch.zeros(3, 32, 48))] * 2}, "used both to search and to report: .'thing 1'"),
        ({"search": [("a", torch.zeros(3, 32, 48))]}, "1 prompt to search on and 5 to report on"),
        ({"controls": 0}, "controls=0"),
        ({"names": ["PAG"], "blocks": [9]}, "there are 0 to 3"),
    ],
)
def test_bad_input_is_refused_before_any_run(dits, changes, words):
    dit = dits("sd3")
    handle = dit.blocks[0].module.register_forward_pre_hook(lambda *_: pytest.fail("a block ran before the error"))
    try:
        with pytest.raises((ValueError, IndexError), match=words):
            rivals(dit, pictures(5), **{**ASK, **changes})
        with pytest.raises(ValueError, match="every prompt needs a picture"):
            rivals(dit, ["a", "b", "c", "d"], **ASK)
    finally:
        handle.remove()
