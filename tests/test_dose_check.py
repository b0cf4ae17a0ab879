"""The check of the figures that were reported before: every figure has its run, and the stored tables agree with it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import dg_tools as dg
from evidence import dose_check

STORED = Path(dose_check.__file__).parent / "results-dose"


@pytest.mark.parametrize("model", dose_check.KNOB)
def test_every_reported_figure_has_its_run(model):
    runs = {**dose_check.knob_runs(model), **dose_check.guided_runs(model)}
    assert set(dose_check.REPORTED[model]) <= set(runs)
    drawn = list(dose_check.draws(dg.references(), 2, None))
    assert [len(prompts) for _, _, prompts, _ in drawn] == [12, 24, 48, 24, 48]
    assert not any(r.held_out for kind, _, prompts, _ in drawn if kind == "knob" for r in prompts)


def test_the_known_prompts_give_the_reported_amounts():
    table = pd.read_csv(STORED / "emoji-sd3.csv").query("draw == 'known'").set_index("run")
    for run, (amount, _) in dose_check.REPORTED["emoji-sd3"].items():
        if run.startswith("knob"):
            assert table.loc[run, "amt"] == pytest.approx(amount, abs=0.1), run


@pytest.mark.parametrize("model", dose_check.KNOB)
def test_other_prompts_give_the_same_curve(model):
    table = pd.read_csv(STORED / f"{model}.csv")
    table = table[table["run"].isin(["knob 0", "knob 0.5", "knob 1.5", "knob 2", "DG rho 1.5, w 1", "velocity x 1.2"])]
    mean = table.groupby("run")[["amt_change", "reported_amt_change"]].mean()
    assert len(mean) >= 5
    assert (mean["amt_change"] - mean["reported_amt_change"]).abs().max() < 0.15  # of the draws, 0.05 to 0.1 apart
