"""Outcomes on numbers known beforehand: what holds, what fails, what matched controls take away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dg_tools.experiments.result import Outcome, Result, open_result

MANY = tuple(float(x) for x in np.linspace(-1, 1, 20).round(2))


def outcome(low: float, high: float, direction="above", margin=0.5, null=MANY, **more) -> Outcome:
    return Outcome("x", "x grows", (low + high) / 2, low, high, "1", direction, margin, null, "draws", **more)


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (outcome(1.5, 2.5), "holds"),
        (outcome(1.5, 2.5, null=()), "holds"),
        (outcome(0.6, 0.9), "no more than controls"),
        (outcome(1.5, 2.5, null=MANY[:5]), "too few controls"),
        (outcome(0.2, 0.9), "undecided"),
        (outcome(0.1, 0.4), "fails"),
        (outcome(-2.5, -1.5, "below", -0.5), "holds"),
        (outcome(-0.9, -0.6, "below", -0.5), "no more than controls"),
        (outcome(0.0, 0.4, "below", -0.5), "fails"),
        (outcome(-0.1, 0.3, "within"), "holds"),
        (outcome(0.3, 0.7, "within"), "undecided"),
        (outcome(-0.9, -0.6, "within"), "fails"),
    ],
)
def test_status(made, status):
    assert made.status == status


def test_rank_and_chance_in_the_claimed_direction():
    above, below = outcome(0.8, 1.2), outcome(-1.2, -0.8, "below", -0.5)
    assert (above.estimate, above.rank) == (1.0, 19) and above.chance == pytest.approx(2 / 21)
    assert below.rank == 19  # a control as extreme as the effect is not less extreme
    assert outcome(1.5, 2.5).rank == 20 and outcome(1.5, 2.5).chance == pytest.approx(1 / 21)
    assert outcome(-0.1, 0.1, "within").rank == 20


def test_sentences_can_come_out_negative():
    assert outcome(1.5, 2.5).sentence() == (
        "Holds: x grows. 2 1 (1.5 to 2.5; required: more than 0.5); controls (draws): median 0, 20 of 20 less extreme."
    )
    assert outcome(0.1, 0.4).sentence().startswith("Does not hold: x grows.")
    assert outcome(0.6, 0.9).sentence().startswith("Not shown, matched controls do the same: x grows.")


def test_interval_is_clustered_by_prompt():
    prompts = np.repeat(["a", "b", "c", "d"], 50)
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 50)  # 200 rows, four of them independent
    settings = {"unit": "1", "direction": "above", "margin": 0.0}
    made = Outcome.from_values("x", "x", values, prompts, null=MANY, **settings)
    naive = Outcome.from_values("x", "x", values, None, **settings)
    assert made.estimate == 1.5 and made.high - made.low > 4 * (naive.high - naive.low)
    with pytest.raises(ValueError, match="needs at least 2"):
        Outcome.from_values("x", "x", values[:50], prompts[:50], **settings)


def result() -> Result:
    table = pd.DataFrame({"prompt": ["a", "b"], "seed": [0, 1], "value": [1.25, np.nan]})
    second = Outcome("y", "y stays", 0.1, -0.2, 0.3, "1", "within", 0.5)
    outcomes = [outcome(1.5, 2.5, primary=True), second]
    return Result("tokens", "is it?", table, outcomes, {"steps": 3}, {"by_block": table}, ["left out: nothing"])


def test_save_and_open(tmp_path):
    made = result()
    made.save(tmp_path / "r")
    again = open_result(tmp_path / "r")
    assert again.outcomes == made.outcomes and again.verdict == made.verdict and again.notes == made.notes
    assert again.table.equals(made.table) and again.tables["by_block"].equals(made.table)
    assert again.settings == made.settings and again.effects().equals(made.effects())
    (tmp_path / "r" / "by_block.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"by_block\.csv is missing"):
        open_result(tmp_path / "r")
    with pytest.raises(FileNotFoundError, match="no result in"):
        open_result(tmp_path)


def test_one_primary_outcome_and_distinct_names():
    made = result()
    with pytest.raises(ValueError, match="exactly one outcome is primary"):
        Result("tokens", "?", made.table, [made.outcomes[1]], {})
    with pytest.raises(ValueError, match="names repeat"):
        Result("tokens", "?", made.table, [made.outcomes[0], outcome(0, 1)], {})
    with pytest.raises(KeyError, match=r"no outcome 'z'; there are x, y"):
        made.outcome("z")
    assert made.primary.name == "x" and made.to_frame() is not made.table
