"""Other seeds: trained, measured, digested and reported at toy size; what is stored is whole and small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import test_training

from dg_tools.models.files import DEFAULT
from dg_tools.report import rules, splits
from dg_tools.report.verdict import HOLDS
from evidence import across, figure, growth, seeds
from training import data, dit, export, vae
from training.recipe import Recipe

ROOT = Path(__file__).parents[1]
STORED, FIGURE = ROOT / "evidence" / "results-seeds", ROOT / "docs" / "evidence" / growth.FIGURE
MINI = replace(rules.TOY, splits=splits.Sizes(2, 2, 4, 4), channel_seeds=2)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Two seeds of a toy recipe, through every step but the VAE's `take`."""
    place = tmp_path_factory.mktemp("seeds")
    colours = ("red", "blue", "green", "pink", "teal", "gold", "navy", "gray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_training, "NAMES", [f"{c}-{s}" for c in colours for s in ("dot", "bar", "ring")])
        icons = test_training.icons(place / "icons")
    recipe = place / "mini.toml"
    recipe.write_text((ROOT / "training" / "recipes" / "toy.toml").read_text().replace("names = 12", "names = 24"))
    jobs = (seeds.Job(str(recipe), 0), seeds.Job(str(recipe), 1))
    made = seeds.Chain(jobs, place / "runs", icons, place, place / "digests", MINI)
    assert len(seeds.missing(made)) == 2 and "mini-0: not trained" in seeds.missing(made)[0]
    data.main(recipe=str(recipe), icons=icons, run=made.data)
    vae.main(recipe=str(recipe), run=made.data, take=None)
    seeds.follow(made, [])
    return made


def test_every_step_is_done_once(chain, monkeypatch):
    def again(*args, **kwargs):
        pytest.fail("what was done is done again")

    for module, name in ((data, "main"), (vae, "main"), (dit, "main"), (export, "main"), (seeds, "measure")):
        monkeypatch.setattr(module, name, again)
    before = (chain.digests / "mini-1.json").read_bytes()
    seeds.follow(chain, [])
    assert (chain.digests / "mini-1.json").read_bytes() == before and seeds.missing(chain) == []


def test_a_digest_has_the_rows_on_channels_and_none_on_samples(chain):
    small = across.load(chain.digests)
    made = [(s.name, s.recipe, s.seed, s.steps) for s in small]
    assert made == [("mini-0", "mini", 0, 12), ("mini-1", "mini", 1, 12)]
    assert small[0].found == 0 and small[0].validation != small[1].validation
    whole = json.loads((chain.runs / "results" / "mini-0" / "column.json").read_text())
    assert set(small[0].rows) == {claim.key for claim in rules.CHANNELS}
    for row in whole["rows"]:
        if row["section"] in ("1", "2"):
            assert small[0].rows[row["key"]].to_json() == row
    log = pd.read_csv(chain.digests / "mini-0.csv")
    assert log.equals(pd.read_csv(chain.runs / "mini-0" / "outliers.csv")) and log["step"].max() == 12


def test_the_section_of_the_page(chain):
    text = across.section(across.load(chain.digests))
    assert "The best finds 0%: **none of them draws what it is asked" in text
    assert "| row | `mini-0` | `mini-1` |" in text and "zero a" not in text and "capable" not in text
    logs = growth.logs(chain.digests, [DEFAULT])
    assert list(logs) == ["mini-0", "mini-1", DEFAULT]
    figure.save(growth.draw(logs), chain.runs / growth.FIGURE)
    assert (chain.runs / growth.FIGURE).stat().st_size < 80_000
    assert growth.section(logs, "growth.png").count("\n| `") == 3
    assert "`make seeds` does it" in across.section([])


def test_rows_that_were_not_measured_are_named(chain, tmp_path):
    record = json.loads((chain.digests / "mini-0.json").read_text())
    record["rows"] = [row for row in record["rows"] if row["key"] != "gate peaks"]
    (tmp_path / "mini-0.json").write_text(json.dumps(record))
    found = seeds.missing(replace(chain, digests=tmp_path))
    assert found[0] == "mini-0: trained, not measured: gate peaks"
    assert found[1] == f"mini-1: trained in {chain.runs}, no digest stored"


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
        assert model.rows["stands out"].status == HOLDS or not model.channels
        assert 0 <= model.found < rules.CAPABLE and not {r.section for r in model.rows.values()} & {"", "3", "4"}
        assert model.steps == Recipe.load(model.recipe).dit.steps
        assert pd.read_csv(STORED / f"{model.name}.csv")["step"].max() == model.steps
    assert sum(p.stat().st_size for p in STORED.iterdir()) < 5e5 and FIGURE.stat().st_size < 8e4


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
        seeds.main(**{**given, "only": ["small-9"]})
    with pytest.raises(SystemExit, match="npm install"):
        seeds.main(**given)
    assert not (tmp_path / "runs").exists()
