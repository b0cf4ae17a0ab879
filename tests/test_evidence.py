"""The evidence: the page is what the stored results say; the whole chain runs on a tiny model and survives stops."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import toy_model

import dg_tools as dg
from dg_tools.experiments.result import Outcome, Result
from dg_tools.models.files import embedded
from evidence import plan, report, run, splits, store
from evidence.claims import CLAIMS, PAPER, QUESTIONS

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES, PAGE = ROOT / "evidence" / "results", ROOT / "docs" / "evidence", ROOT / "EVIDENCE.md"
SEEDS = ROOT / "evidence" / "results-seeds"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model.write(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def chain(model, tmp_path_factory):
    """The whole chain at toy size: places, and the page's text."""
    places = run.Places("toy", tmp_path_factory.mktemp("out"))
    run.run_model("toy", dg.load(model), "toy", places, only=[], resume=False, progress=False)
    return places, report.write(places.results, places.figures, places.page, places.seeds)


def test_the_page_is_what_the_stored_results_say():
    assert report.page_text(report.load_all(RESULTS), FIGURES, PAGE, SEEDS) == PAGE.read_text(encoding="utf-8")


def test_stored_evidence_is_whole_and_small():
    results = report.load_all(RESULTS)
    assert set(results) == set(embedded())
    for model, parts in results.items():
        assert set(parts) == {"subject", *(p.name for p in plan.PLAN)}
        assert {r.settings["evidence"]["size"] for r in parts.values()} == {"full"}
        drawn = parts["subject"].settings["evidence"]["splits"]
        measured = {x for name, r in parts.items() if name != "subject" for x in r.settings["test"]}
        assert not measured & {*drawn["detection"], *drawn["development"]}, model
    text = sum(p.stat().st_size for p in RESULTS.rglob("*") if p.is_file())
    pictures = sum(p.stat().st_size for p in FIGURES.rglob("*.png"))
    assert text < 1.5e6 and pictures < 1e6


def test_every_claim_is_answered(chain):
    places, text = chain
    parts = report.load_all(places.results)["toy"]
    assert set(parts) == {"subject", *(p.name for p in plan.PLAN)}
    for claim in CLAIMS:
        assert claim.source in (PAPER, QUESTIONS)
        assert report.find(claim, parts) is not None, claim
    assert "not measured" not in text and "nan" not in text.lower().split()
    for name in parts:
        if name != "subject":
            assert (places.figures / "toy" / f"{name}.png").stat().st_size < 150_000


def test_the_tables_have_a_column_for_every_shipped_model(chain):
    places, _ = chain
    parts = report.load_all(places.results)["toy"]
    other = [replace(o, control="none: another", null=()) for o in parts["detail"].outcomes]
    results = {"toy": parts, "other": {**parts, "detail": replace(parts["detail"], outcomes=other)}}
    text = report.page_text(results, places.figures, places.page, places.seeds)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table[0]
    claims = [table for table in tables if table[0] == "|  | claim | experiment | `toy` | `other` |"]
    rows = {claim.text: row for claim, row in zip(CLAIMS, [r for t in claims for r in t[2:]], strict=True)}
    assert "<br>Controls: as many of the channels nearest in energy. | " in rows["They have one sign."]
    assert rows["They have one sign."].split(" | ")[3] + " |" == rows["They have one sign."].split(" | ")[4]
    assert "no draws (another)" in rows["Samples get blurred."].split(" | ")[4]
    assert text.count("disagrees with the paper** in") == 2


def test_a_result_says_what_made_it(chain):
    places, _ = chain
    for name, result in report.load_all(places.results)["toy"].items():
        made = result.settings["evidence"]
        assert made["size"] == "toy" and len(made["weights"]) == 16 and made["machine"]["threads"] >= 1, name
        assert result.settings["provenance"]["versions"].keys() >= {"torch", "diffusers", "nnsight"}


def test_resume_takes_what_is_there_and_reruns_what_changed(model, chain, monkeypatch, capsys):
    places, _ = chain
    calls = []
    monkeypatch.setattr(run, "run_part", lambda part, *a: calls.append(part.name) or pytest.fail(part.name))
    dit = dg.load(model)
    run.run_model("toy", dit, "toy", places, only=[], resume=True, progress=False)
    assert not calls and capsys.readouterr().out.count("kept from before") == len(plan.PLAN) + 1
    first = plan.PLAN[0]
    made = json.loads((places.results / "toy" / first.name / "result.json").read_text())["settings"]["evidence"]
    assert store.is_done(places.results / "toy", first.name, {"weights": made["weights"], "size": "toy"})
    assert not store.is_done(places.results / "toy", first.name, {"weights": "another", "size": "toy"})


def test_a_stopped_run_keeps_what_is_done_and_says_so(model, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "models", lambda _: [str(model)])

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_part", stop)
    with pytest.raises(SystemExit, match=r"Stored: toy: subject\. Go on with --resume"):
        run.main(model=None, size="toy", only=[], resume=False, out=tmp_path, report_only=False, progress=False)
    assert store.stored(tmp_path / "results" / "toy") == ["subject"]


def small_result(estimate: float = 1.0) -> Result:
    import pandas as pd

    outcome = Outcome("x", "x grows", estimate, 0.5, 1.5, "1", "above", 0.0, primary=True)
    return Result("x", "Does x grow?", pd.DataFrame({"x": [estimate]}), [outcome], {})


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    store.save(small_result(), tmp_path, "x")
    before = (tmp_path / "x" / "result.json").read_text()

    def full(self, folder):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "table.csv").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Result, "save", full)
    with pytest.raises(store.DiskFull, match=r"no space left while storing 'x'; kept in .*: x\. .*--resume"):
        store.save(small_result(2.0), tmp_path, "x")
    assert (tmp_path / "x" / "result.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_long_tables_are_stored_as_means_and_say_so(monkeypatch):
    import pandas as pd

    rows = [(p, s, b, 0.5, float(p + s)) for p in range(3) for s in range(2) for b in range(2)]
    table = pd.DataFrame(rows, columns=["prompt", "seed", "block", "sigma", "value"])
    short, pixels = table.head(4), pd.DataFrame({"y": range(99), "r": 0.5})
    monkeypatch.setattr(store, "CELLS", 16)
    assert store.thinned(table, 99).equals(table)
    seeds = store.thinned(table, 30)
    assert list(seeds) == ["prompt", "block", "sigma", "value"] and seeds["value"].tolist() == [
        0.5,
        0.5,
        1.5,
        1.5,
        2.5,
        2.5,
    ]
    both = store.thinned(table, 16)
    assert both.to_dict("list") == {"block": [0, 1], "sigma": [0.5, 0.5], "value": [1.5, 1.5]}
    result = small_result()
    result.table, result.tables = short, {"pixels": pixels}
    kept = store.slim(result)
    assert list(kept.tables) == [] and "too long to store: pixels" in kept.notes[-1] and result.tables


def test_a_model_without_massive_channels_says_so(tmp_path):
    model = toy_model.write(tmp_path, family="sd35-medium")
    places = run.Places("toy", tmp_path / "out")
    run.run_model("toy", dg.load(model), "toy", places, only=["tokens"], resume=False, progress=False)
    text = report.write(places.results, places.figures, places.page, places.seeds)
    assert "(outliers, not massive)" in text and "stand in for them" in text


def test_too_little_space_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LEAST_FREE", 2**62)
    with pytest.raises(store.DiskFull, match="nothing was run"):
        store.check_space(tmp_path / "not" / "there")


def test_no_name_is_in_two_parts():
    source = dg.references()
    for sizes in plan.SIZES.values():
        parts = splits.split(source, sizes)
        names = [r.name for part in parts.values() for r in part]
        assert len(set(names)) == len(names)
        assert all(r.held_out == (part == "held_out") for part, refs in parts.items() for r in refs)
    with pytest.raises(ValueError, match=r"600 names asked for the part 'test'; \d+ are left"):
        splits.split(source, splits.Sizes(test=600))


def test_wrong_arguments_are_refused():
    for arguments, words in (
        ({"model": "no-such-model"}, "neither an embedded model"),
        ({"size": "huge"}, "there are full, quick, seeds, toy"),
        ({"only": ["nothing"]}, "--only nothing: there are"),
    ):
        given = {"model": None, "size": "toy", "only": [], "resume": False, "out": None, "report_only": False}
        with pytest.raises(SystemExit, match=words):
            run.main(**{**given, **arguments}, progress=False)


def test_the_page_says_so_where_results_were_not_made_alike(chain):
    places, _ = chain
    results = report.load_all(places.results)
    assert report.inconsistencies(results) == []
    results["toy"]["subject"].settings["evidence"]["weights"] = "another"
    assert "more than one weights" in report.inconsistencies(results)[0]
    results["toy"].pop(plan.PLAN[0].name)
    assert f"not run: {plan.PLAN[0].name}" in " ".join(report.inconsistencies(results))
    assert "not measured" in report.page_text(results, places.figures, places.page, places.seeds)
