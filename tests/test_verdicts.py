"""The verdicts on hand-made numbers: a planted effect holds, a null and an inert edit are not tested."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dg_tools.report import channel_rows, rules, sample_rows
from dg_tools.report.channels import NAMES, Stream, found
from dg_tools.report.sample_rows import Measured, Weak
from dg_tools.report.verdict import (
    CONTROLS,
    FAILS,
    HOLDS,
    NOT_TESTED,
    REPORTED,
    SOME,
    UNDECIDED,
    Row,
    against,
    by_block,
)

COUNT = 16
WEAK = [Weak("zero", "channel 3 x 0 after block 1", 0.3), Weak("auto", "channel 3 x 2 after block 1", 0.3)]


def table(count: int = COUNT, seed: int = 0, spread: float = 0.02, **means: float) -> pd.DataFrame:
    """Captions with a little noise around these means."""
    plain = {"amt_c": -0.5, "amt": -0.6, "right": 0.5, "low": 0.97, "margin": 0.4, "found": 1.0}
    plain |= {"amt_c_clean": 0.0, "low_clean": 0.99}
    chance = np.random.default_rng(seed)
    noise = {k: 0.0 if k == "found" else spread * chance.standard_normal(count) for k in plain}
    return pd.DataFrame({k: v + means.get(k, 0.0) + noise[k] for k, v in plain.items()})


def planted(**changes) -> Measured:
    """Zeroing blurs, DG sharpens, other channels do nothing, a gain does nearly nothing, CFG a little."""
    tables = {"cond": table(), "weak, zero": table(amt_c_clean=-1.2, amt_c=-1.2, low_clean=-0.01, margin=0.0)}
    tables["weak, auto"] = tables["weak, zero"]
    tables |= {"DG, zero": table(amt_c=0.4), "DG, auto": table(amt_c=0.4), "CFG 1.5": table(amt_c=0.2, amt=0.8)}
    tables |= {f"gain {g:g}": table(amt_c=2 * (g - 1), right=g - 1) for g in rules.GAINS}
    tables |= {f"rho {rho:g}": table(amt_c_clean=1 - rho) for rho in rules.RHOS if rho != 1}
    draws = [table(6, seed=i) for i in range(39)]
    controls = {f"{kind}, {name}": draws for kind in ("weak", "DG") for name in ("zero", "auto")}
    return Measured({**tables, **changes}, WEAK, controls)


def judged(measured: Measured) -> dict[str, Row]:
    return {row.key: row for row in sample_rows.rows(measured)}


def test_a_planted_effect_holds():
    rows = judged(planted())
    assert [rows[k].status for k in ("capable", "zero a", "zero b", "auto a", "auto b", "curve")] == [HOLDS] * 6
    assert rows["zero a"].draws == 39 and rows["zero a"].extreme == 0 and "less detail" in rows["curve"].why
    assert rows["zero d"].status == REPORTED and rows["zero d"].number[0] == pytest.approx(0.2, abs=0.02)
    # DG has no rightness, the gain of its amount (1.2) has 0.2 of it
    assert rows["zero c"].status == FAILS and rows["zero c"].why.startswith("less")
    assert rows["zero c"].number[0] == pytest.approx(-0.2, abs=0.02)
    assert rows["zero d"].exploratory and not rows["zero b"].exploratory
    assert rows["zero b, CFG 1.5"].status == NOT_TESTED and "lacks no detail" in rows["zero b, CFG 1.5"].why


def test_a_model_that_cannot_do_the_task_is_not_tested_in_any_row_about_samples():
    noise = {name: run.assign(found=0.0) for name, run in planted().tables.items()}
    rows = judged(planted(**noise))
    assert rows.pop("capable").status == FAILS
    assert {row.status for row in rows.values()} == {NOT_TESTED}
    assert all("0.0% of its clean samples are found" in row.why and row.number[0] == 0 for row in rows.values())
    assert judged(Measured({"cond": table().assign(found=0.0)}, WEAK)).keys() == judged(planted()).keys()


def test_an_inert_edit_is_not_tested_with_its_number():
    measured = planted()
    rows = judged(Measured(measured.tables, [Weak("zero", "x", 0.04), WEAK[1]], measured.controls))
    for key in ("zero a", "zero stays", "zero b", "zero c", "zero d"):
        assert rows[key].status == NOT_TESTED and rows[key].number[0] == 0.04 and "hardly acts" in rows[key].why
    assert rows["auto a"].status == HOLDS
    rows = judged(Measured(measured.tables, [Weak("zero", why="no channel is massive")], {}))
    assert rows["zero a"].status == NOT_TESTED and rows["zero a"].why == "no channel is massive"


def test_the_other_sign_is_reported_and_what_follows_is_exploratory():
    rows = judged(planted(**{"weak, zero": table(amt_c_clean=0.6), "DG, zero": table(amt_c=-0.3)}))
    assert rows["zero a"].status == FAILS and rows["zero a"].number[0] == pytest.approx(0.6, abs=0.03)
    assert rows["zero b"].status == FAILS and rows["zero b"].exploratory and not rows["zero a"].exploratory
    assert rows["zero a"].draws == 0, "controls are not needed"


@pytest.mark.parametrize("what, amount", [("right", -0.2), ("low", -0.1), ("margin", -0.1)])
def test_detail_at_the_price_of_anything_else_does_not_hold(what, amount):
    row = judged(planted(**{"DG, zero": table(amt_c=0.4, **{what: amount})}))["zero b"]
    assert row.status == FAILS and row.why == f"{what}: {FAILS}"


def test_a_base_without_room_is_not_tested():
    rows = judged(planted(cond=table(amt=0.7)))
    assert rows["zero b"].status == rows["zero c"].status == NOT_TESTED and rows["zero a"].status == HOLDS
    assert rows["zero b"].number[0] == pytest.approx(0.1, abs=0.03) and "lacks no detail" in rows["zero b"].why


@pytest.mark.parametrize("odd, status", [(1, HOLDS), (2, CONTROLS)])
def test_one_odd_control_is_allowed(odd, status):
    draws = [table(6, seed=i, amt_c=0.9 if i < odd else 0.0) for i in range(39)]
    measured = planted()
    row = judged(Measured(measured.tables, WEAK, {**measured.controls, "DG, zero": draws}))["zero b"]
    assert row.status == status and row.extreme == odd


def test_without_controls_nothing_holds_that_needs_them():
    row = judged(Measured(planted().tables, WEAK))["zero a"]
    assert row.status == NOT_TESTED and row.why == "its controls were not run"


def test_without_references_low_band_and_margin_stay():
    bare = {name: run.drop(columns="right") for name, run in planted().tables.items()}
    measured = planted()
    rows = judged(Measured(bare, WEAK, measured.controls))
    assert rows["zero b"].status == HOLDS and "right" not in rows["zero b"].parts
    assert rows["zero c"].status == NOT_TESTED and "no references" in rows["zero c"].why


def test_a_gain_that_has_not_the_amount_is_not_compared():
    row = judged(planted(**{"DG, zero": table(amt_c=1.5)}))["zero c"]
    assert row.status == NOT_TESTED and "the most is that of gain 1.5" in row.why
    assert row.number[0] == pytest.approx(1.0, abs=0.03)
    row = judged(planted(**{"DG, zero": table(amt_c=0.4, right=0.25)}))["zero c"]
    assert row.status == HOLDS and row.why.startswith("more than gain; a gain of 1.2")


def test_a_bound_inside_the_interval_is_undecided():
    assert against((1.0, 0.5, 1.5), "above", 1.2) == UNDECIDED and against((1.0, 0.5, 1.5), "below", 2.0) == HOLDS
    assert against((1.0, float("nan"), 1.5), "above", 0.0) == UNDECIDED
    row = by_block(Row("x", "1", "x", ""), {0: (1.0, 0.9, 1.1), 3: (0.1, 0.0, 0.2)}, "above", 0.5)
    assert row.status == SOME and row.why == "holds at 1 of 2 blocks: 0" and set(row.parts) == {"block 0", "block 3"}
    assert Row.from_json(row.to_json()) == row


# -- channels ---------------------------------------------------------------------------------------------------------

SHAPE = (6, 2, 3, 3, 40)  # prompt, seed, sigma, block, channel
MASSIVE = 7


def stream(seed: int = 0, few: bool = False, size: np.ndarray | float = 20.0) -> Stream:
    """Channel 7 is massive in blocks 1 and 2: on all tokens, or, `few`, on some only."""
    chance = np.random.default_rng(seed)
    values = {name: np.abs(chance.standard_normal(SHAPE)) * 0.05 for name in NAMES}
    values["size"] += 1
    values["one_sign"] = 0.5 + values["one_sign"]
    values["variation"] += 8
    values["spread"] += 0.6
    for name, value in (("size", size), ("mean", size), ("one_sign", 1.0), ("variation", 0.1)):
        values[name][..., 1:, MASSIVE] = value
    values["spread"][..., 1:, MASSIVE] = 0.06 if few else 0.999
    gate = np.abs(chance.standard_normal(SHAPE))
    gate[..., 1, MASSIVE] = 9
    return Stream(
        [f"p{i}" for i in range(6)], (0.1, 0.5, 0.9), 64, values, {"gate_msa": gate}, np.zeros((*SHAPE[:3], 40))
    )


def channel_verdicts(one: Stream, gone: float = 0.9) -> dict[str, Row]:
    at = found(one)
    assert at.channels == [MASSIVE] and at.blocks == [1, 2] and at.writers[MASSIVE] == 1
    away = np.full((40, 6), 0.1)
    away[0] = gone
    return {row.key: row for row in channel_rows.rows(one, at, away)}


def test_a_channel_on_all_tokens_holds_and_one_on_few_does_not():
    rows = channel_verdicts(stream())
    for key in ("stands out", "every token", "one sign", "constant", "gate peaks", "gate makes it"):
        assert rows[key].status == HOLDS, key
    assert rows["every token"].draws == 39 and rows["same in every block"].status == HOLDS
    assert rows["all layers"].status == FAILS and rows["all layers"].number[0] == pytest.approx(2 / 3)
    few = channel_verdicts(stream(few=True), gone=0.3)
    assert few["every token"].status == FAILS and few["every token"].number[0] == pytest.approx(0.06)
    assert few["gate makes it"].status == FAILS


def test_the_timestep_is_judged_at_each_block():
    size = np.full((*SHAPE[:3], 2), 20.0)
    size[..., 0] += np.array([5.0, 0.0, -5.0])  # block 1: by noise level
    size[..., 1] += 5 * np.arange(6.0)[:, None, None]  # block 2: by prompt
    rows = channel_verdicts(stream(size=size))
    assert rows["timestep"].status == SOME and rows["timestep"].why == "holds at 1 of 2 blocks: 1"
    assert rows["prompt"].why == "holds at 1 of 2 blocks: 1" and rows["grows"].why == "holds at 1 of 2 blocks: 1"
    assert rows["timestep"].parts["block 2"][0] < 0.01 and rows["grows"].parts["block 1"][0] < 0


def test_without_a_massive_channel_only_the_first_row_is_tested():
    one = stream(size=1.0)
    rows = {row.key: row for row in channel_rows.rows(one, found(one), None)}
    assert rows.pop("stands out").status == FAILS
    assert {row.status for row in rows.values()} == {NOT_TESTED}
    assert all("no channel is massive" in row.why and row.number[0] < 5 for row in rows.values())
