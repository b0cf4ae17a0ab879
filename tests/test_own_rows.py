"""The verdicts of a model without references, on hand-made numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dg_tools.report import own_rows, rules
from dg_tools.report.sample_rows import Measured, Weak
from dg_tools.report.verdict import FAILS, HOLDS, NOT_TESTED, REPORTED, Row

COUNT = 12
WEAK = [Weak("zero", "channel 3 x 0 after block 1", 0.3), Weak("auto", "channel 3 x 2 after block 1", 0.3)]
CAPABLE = Row("capable", "", "draws", HOLDS, (0.1, 0.05, 0.2), "of ||noise - x||^2")


def table(count: int = COUNT, seed: int = 0, **means: float) -> pd.DataFrame:
    """Prompts with a little noise around no change, or around these means."""
    chance = np.random.default_rng(seed)
    plain = {"amt_c": 0.0, "low": 0.99, "margin": 0.7} | means
    numbers = {name: mean + 0.005 * chance.standard_normal(count) for name, mean in plain.items()}
    return pd.DataFrame({**numbers, "amt_c_clean": numbers["amt_c"], "low_clean": numbers["low"]})


def measured(weak=WEAK, draws=19, **changes: pd.DataFrame) -> Measured:
    """Zeroing blurs, DG sharpens, its own gain does little, and other channels nothing."""
    tables = {"cond": table(low=1.0, margin=1.0), own_rows.CFG: table(amt_c=0.2)}
    tables[f"{own_rows.CFG}, base"] = tables["cond"]
    for name in ("zero", "auto"):
        tables |= {f"weak, {name}": table(amt_c=-1.0), f"DG, {name}": table(amt_c=0.4)}
        tables |= {f"its gain, {name}": table(amt_c=0.1), f"{own_rows.CFG} and DG, {name}": table(amt_c=0.3)}
    tables |= {f"rho {rho:g}": table(amt_c=1 - rho) for rho in rules.RHOS if rho != 1}
    controls = {f"{kind}, {w.name}": [table(4, seed=i) for i in range(draws)] for kind in ("weak", "DG") for w in weak}
    return Measured({**tables, **changes}, weak, controls if draws else {})


def judged(of: Measured, capable: Row = CAPABLE, main: str = "auto", has_cfg: bool = True) -> dict[str, Row]:
    return {row.key: row for row in own_rows.rows(of, capable, main, has_cfg)}


def test_a_planted_effect_holds():
    rows = judged(measured())
    for key in ("a", "stays", "b", "c", f"b, {own_rows.CFG}"):
        assert rows[f"auto {key}"].status == HOLDS, key
    assert rows["auto a"].draws == rows["auto b"].draws == 19 and rows["curve"].status == HOLDS
    assert rows["auto d"].status == REPORTED and rows["auto d"].number[0] == pytest.approx(0.2, abs=0.02)
    assert rows["auto c"].number[0] == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("lost", [{"low": 0.9}, {"margin": -0.2}, {"amt_c": 0.0}])
def test_detail_at_a_price_or_none_at_all_does_not_hold(lost):
    row = judged(measured(**{"DG, auto": table(**{"amt_c": 0.4, **lost})}))["auto b"]
    assert row.status == FAILS and row.why == f"{next(iter(lost))}: {FAILS}"


def test_a_guidance_that_is_its_gain_does_not_hold():
    assert judged(measured(**{"its gain, auto": table(amt_c=0.4)}))["auto c"].status == FAILS


def test_a_claim_says_which_weak_model_it_is_about():
    texts = [row.text for row in own_rows.rows(measured(), CAPABLE, "auto", True)]
    assert len(set(texts)) == len(texts)
    assert sum("zeroed, as published" in text for text in texts) == sum("auto's profile" in text for text in texts) == 6


def test_controls_are_asked_for_where_they_can_change_a_verdict():
    bare = measured(draws=0)
    assert own_rows.needs_controls(bare, "auto") == ["weak", "DG"]
    assert own_rows.needs_controls(measured(draws=0, **{"DG, auto": table()}), "auto") == ["weak"]
    assert judged(bare)["auto a"].why == "its controls were not run"


def test_what_cannot_be_tested_says_why():
    noise = replace(CAPABLE, status=FAILS, number=(2.0, 1.8, 2.2), why="one step leaves: does not hold")
    rows = judged(measured(), noise)
    assert rows.pop("capable").status == FAILS and {row.status for row in rows.values()} == {NOT_TESTED}
    assert all("draws pictures (one step leaves" in row.why and row.number[0] == 2.0 for row in rows.values())
    inert = judged(measured([Weak("zero", "x", 0.04), WEAK[1]]))
    for key in ("a", "stays", "b", "c", "d", f"b, {own_rows.CFG}"):
        assert inert[f"zero {key}"].status == NOT_TESTED and "hardly acts" in inert[f"zero {key}"].why
    bare = judged(measured(), has_cfg=False)
    for key in ("d", f"b, {own_rows.CFG}"):
        assert bare[f"auto {key}"].why == "this pipeline has no classifier-free guidance"
    nothing = judged(Measured({"cond": table()}, own_rows.untested("no channel is massive")), main="")
    assert {row.status for key, row in nothing.items() if key != "capable"} == {NOT_TESTED}
