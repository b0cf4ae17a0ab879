"""Claims across models: trained, measured, digested and reported at toy size; what is stored is whole and small."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import test_training

from dg_tools.experiments.result import Outcome, Result
from dg_tools.models.files import DEFAULT
from evidence import across, growth, plan, report, run, seeds, store
from evidence.claims import CLAIMS
from training import data, dit, export, vae
from training.recipe import Recipe

ROOT = Path(__file__).parents[1]
STORED, FIGURE = ROOT / "evidence" / "results-seeds", ROOT / "docs" / "evidence" / growth.FIGURE
PART = "tokens"


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Two seeds of a toy recipe, through every step but the VAE's `take`; one part of the evidence."""
    place = tmp_path_factory.mktemp("seeds")
    colours = ("red", "blue", "green", "pink", "teal", "gold", "navy", "gray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_training, "NAMES", [f"{c}-{s}" for c in colours for s in ("dot", "bar", "ring")])
        icons = test_training.icons(place / "icons")
    recipe = place / "mini.toml"
    recipe.write_text((ROOT / "training" / "recipes" / "toy.toml").read_text().replace("names = 12", "names = 24"))
    jobs = (seeds.Job(str(recipe), 0), seeds.Job(str(recipe), 1))
    places = run.Places("toy", place / "out")
    made = seeds.Chain(jobs, place / "runs", icons, place, places, size="toy", parts=(PART,), progress=False)
    assert len(seeds.missing(made)) == 2 and "mini-0: not trained" in seeds.missing(made)[0]
    data.main(recipe=str(recipe), icons=icons, run=made.data)
    vae.main(recipe=str(recipe), run=made.data, take=None)
    seeds.follow(made, [])
    return made


def outcome(estimate: float, low: float, high: float, null: tuple = ()) -> Outcome:
    return Outcome("x", "x", estimate, low, high, "of y", "above", 0.5, null=null, primary=True)


def test_every_step_is_done_once(chain, monkeypatch):
    def again(*args, **kwargs):
        pytest.fail("what was done is done again")

    for module, name in ((data, "main"), (vae, "main"), (dit, "main"), (export, "main"), (run, "run_part")):
        monkeypatch.setattr(module, name, again)
    before = (chain.places.seeds / "mini-1.json").read_bytes()
    seeds.follow(chain, [])
    assert (chain.places.seeds / "mini-1.json").read_bytes() == before


def test_a_digest_says_what_the_results_say(chain):
    small = across.load(chain.places.seeds)
    made = [(s.name, s.recipe, s.seed, s.steps) for s in small]
    assert made == [("mini-0", "mini", 0, 12), ("mini-1", "mini", 1, 12)]
    weights = {s.parts["subject"].settings["provenance"]["weights"] for s in small}
    assert small[0].found is None and len(weights) == 2 and small[0].validation != small[1].validation
    whole = report.open_result(chain.runs / "results" / "mini-0" / PART)
    for kept, full in zip(small[0].parts[PART].outcomes, whole.outcomes, strict=True):
        assert (kept.name, kept.status, kept.rank) == (full.name, full.status, full.rank)
        assert kept.low == pytest.approx(full.low, rel=1e-5)
    log = pd.read_csv(chain.places.seeds / "mini-0.csv")
    assert log.equals(pd.read_csv(chain.runs / "mini-0" / "outliers.csv")) and log["step"].max() == 12


def test_the_section_of_the_page(chain):
    small = across.load(chain.places.seeds)
    shipped = {"other": dict(small[1].parts)}
    text = across.section(small, shipped)
    rows = [line for line in text.splitlines() if re.match(r"\| (1|2|3|4|5\.)", line)]
    assert len(rows) == len(CLAIMS) and "`mini-0` | `mini-1` | `other` | holds on |" in text
    for claim, row in zip(CLAIMS, rows, strict=True):
        cells = row.split(" | ")
        assert cells[3] == cells[4]  # `other` is `mini-1`
        assert (cells[2] == "-") == (report.find(claim, small[0].parts) is None)
        assert claim.part in ("subject", PART) or cells[2] == "-"
    same = re.search(r"one and the same verdict on (\d+) of \d+ rows", text)
    assert f"`other` has the seeds' verdict on {same[1]}, another one on 0." in text and int(same[1]) > 5
    logs = growth.logs(chain.places.seeds, {DEFAULT: {}})
    assert list(logs) == ["mini-0", "mini-1", DEFAULT]
    store.save_figure(growth.draw(logs), chain.places.figures / growth.FIGURE)
    assert (chain.places.figures / growth.FIGURE).stat().st_size < 80_000
    assert growth.section(logs, "growth.png").count("\n| `") == 3
    assert "`make seeds` does it" in across.section([], shipped)


def test_a_part_that_was_not_run_is_named(chain, tmp_path):
    places = run.Places("toy", tmp_path)
    places.seeds.mkdir()
    record = json.loads((chain.places.seeds / "mini-0.json").read_text())
    record["parts"].pop(PART)
    (places.seeds / "mini-0.json").write_text(json.dumps(record))
    found = seeds.missing(seeds.Chain(chain.jobs, chain.runs, chain.icons, chain.take, places, "toy", (PART,)))
    assert found[0] == f"mini-0: trained, not run: {PART}"
    assert found[1] == f"mini-1: trained in {chain.runs}, no claims stored"


def test_samples_that_are_found_are_counted_on_clean_ones():
    table = pd.DataFrame({"role": ["clean", "clean", "edit", "control"], "found": [1, 0, 0, 0]})
    result = Result("detail", "?", table, [outcome(1, 0, 2)], {})
    assert across.share_found({"detail": result}) == 0.5 and across.share_found({}) is None


def test_the_last_column_counts_models():
    holds, fails, unclear = outcome(1, 0.8, 1.2), outcome(0.1, 0, 0.2), outcome(0.5, 0.3, 0.7)
    assert across.holds_on([holds, holds, holds], [holds] * 5) == "all 5"
    assert across.holds_on([fails, unclear, None], [fails, unclear, None, fails]) == "none"
    assert across.holds_on([holds, fails, holds], [holds, fails, holds, holds, None]) == "2 of 3 seeds, 3 of 5 models"
    assert across.holds_on([holds, holds], [holds, holds, fails]) == "2 of 2 seeds, 2 of 3 models"
    assert across.holds_on([fails, fails], [fails, fails, holds]) == "0 of 2 seeds, 1 of 3 models"
    assert across.cell(outcome(1, 0.8, 1.2, null=(2.0,) * 20)) == "≈ 1 [0.8, 1.2]"
    assert across.cell(outcome(1, 0.8, 1.2, null=(0.1,) * 3)) == "? 1 [0.8, 1.2]"
    assert across.cell(fails) == "○ 0.1 [0, 0.2]" and across.cell(None) == "-"


def test_growth_takes_the_block_where_the_ratio_is_largest():
    rows = [(1, 0.5, 0, 7, 1.5), (1, 0.5, 1, 8, 1.2), (2, 0.5, 0, 7, 9.0), (2, 0.5, 0, 7, 2.0), (2, 0.5, 1, 9, 3.0),
            (2, 0.9, 0, 5, 99.0), (4, 0.5, 1, 9, 6.0)]  # step 2, block 0 was logged twice  # fmt: skip
    log = pd.DataFrame(rows, columns=["step", "sigma", "block", "channel", "ratio"])
    top = growth.largest(log)
    assert top[["step", "channel", "ratio"]].values.tolist() == [[1, 7, 1.5], [2, 9, 3.0], [4, 9, 6.0]]
    assert growth.since(top) == 2 and growth.since(top.head(1)) == 1


def test_what_is_stored_is_whole_and_small():
    small = across.load(STORED)
    assert [s.name for s in small] == [job.name for job in seeds.JOBS]
    for model in small:
        assert set(model.parts) == {"subject", *(p.name for p in plan.run_at("seeds"))}
        assert {r.settings["evidence"]["size"] for r in model.parts.values()} == {"seeds"}
        assert len({r.settings["evidence"]["weights"] for r in model.parts.values()}) == 1
        for claim in [c for c in CLAIMS if report.find(c, model.parts) is None]:
            factor = claim.outcome.removeprefix("same over ")
            assert any(f"no stability over {factor}" in note for note in model.parts[claim.part].notes), claim
        assert model.found is not None and 0 <= model.found <= 1
        assert model.steps == Recipe.load(model.recipe).dit.steps
        assert pd.read_csv(STORED / f"{model.name}.csv")["step"].max() == model.steps
    assert sum(p.stat().st_size for p in STORED.iterdir()) < 5e5 and FIGURE.stat().st_size < 8e4


def test_every_claim_is_in_the_size_for_seeds():
    assert {c.part for c in CLAIMS} == {"subject", *(p.name for p in plan.run_at("seeds"))}
    with pytest.raises(KeyError, match="detail-held-out is not run at size 'seeds'"):
        next(p for p in plan.PLAN if p.name == "detail-held-out").settings("seeds")


def test_the_variant_differs_in_its_second_attention_alone():
    small, medium = (Recipe.load(name) for name in ("small", "small-medium"))
    assert medium == replace(small, name="small-medium", dit=replace(small.dit, dual_attention=True))


def test_bad_input(tmp_path):
    seeds.check(seeds.JOBS)
    other = tmp_path / "other.toml"
    other.write_text((ROOT / "training" / "recipes" / "small.toml").read_text().replace("names = 512", "names = 500"))
    with pytest.raises(SystemExit, match="small and other have other data or VAE; only"):
        seeds.check((seeds.Job("small", 0), seeds.Job(str(other), 0)))
    given = {"icons": tmp_path, "runs": tmp_path / "runs", "take": tmp_path, "only": [], "report_only": False}
    with pytest.raises(SystemExit, match="--only small-9: there are small-0, small-1, small-2, small-medium-0"):
        seeds.main(**{**given, "only": ["small-9"]}, progress=False)
    with pytest.raises(SystemExit, match="npm install"):
        seeds.main(**given, progress=False)
    assert not (tmp_path / "runs").exists()
