"""The evidence: the pages say what is kept; the chain runs on a tiny model and keeps what is done when it stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import toy_model

import dg_tools as dg
from dg_tools.report import rules, samples, splits
from dg_tools.report.column import weak_model
from dg_tools.report.kept import Column
from dg_tools.report.verdict import HOLDS, NOT_TESTED
from evidence import column, columns, figure, kept, report, run

ROOT = Path(__file__).parents[1]
RESULTS, SEEDS = column.RESULTS, run.SEEDS
SAMPLE_ROWS = {"capable", "curve"} | {
    f"{weak} {row}" for weak in ("zero", "auto") for row in ("a", "stays", "b", "c", "d", "b, CFG 1.5")
}
KEYS = {claim.key for claim in rules.CHANNELS} | SAMPLE_ROWS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model.write(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def chain(model, tmp_path_factory):
    """One column at toy size, of a model that counts as able: where it is kept, and its record."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "CAPABLE", -1.0)
        patch.setattr(rules, "ACTS", 0.0)
        patch.setattr(rules, "LACKS", 1e9)
        record = column.measure(str(model), rules.TOY, out)
    return out, record


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_the_pages_are_what_is_kept():
    made = report.texts(kept.load_all(RESULTS), SEEDS)
    for path, text in made.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, path
    assert len(made["EVIDENCE.md"].encode()) <= report.LIMIT
    assert len([x for x in made["EVIDENCE.md"].splitlines() if x[:1].isdigit()]) == 10, "ten lines of result"


def test_what_is_kept_is_whole_and_small():
    every = kept.load_all(RESULTS)
    assert list(every) == columns.names()
    source = dg.references()
    for name, one in every.items():
        assert set(one.rows) == KEYS, name
        size = rules.SIZES[one.record["about"]["size"]]
        assert size.name == ("small" if name == columns.NULL else "full")
        parts = splits.split(source, size.splits)
        assert one.record["about"]["captions"] == [r.prompt for r in parts["held_out"]]
        assert all(r.held_out for r in parts["held_out"])
        assert {len(t) for n, t in one.tables.items() if not n.startswith("control")} == {size.splits.held_out}
    kept_bytes = sum(p.stat().st_size for p in RESULTS.rglob("*") if p.is_file())
    assert kept_bytes < 1.5e6 and (ROOT / "docs" / "evidence" / report.FIGURE).stat().st_size < 300_000


def test_the_instrument_sees_what_is_there_and_nothing_else():
    every = kept.load_all(RESULTS)
    planted, null = every[columns.PLANTED], every[columns.NULL]
    lost, given = planted.rows["zero a"], planted.rows["zero b"]
    assert lost.status == HOLDS and lost.draws >= 19
    assert given.status == HOLDS and given.draws >= 19
    assert {null.rows[key].status for key in SAMPLE_ROWS - {"capable"}} == {NOT_TESTED}
    assert null.rows["capable"].number[0] < 0.1


# -- the chain --------------------------------------------------------------------------------------------------------


def test_every_row_is_there_and_every_page_is_made(chain, tmp_path):
    out, record = chain
    assert {row["key"] for row in record["rows"]} == KEYS
    report.write(out, SEEDS, tmp_path)
    pages = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.md")}
    assert pages == {
        "EVIDENCE.md",
        *(f"docs/evidence/{n}.md" for n in ("channels", "weak_models", "guidance", "seeds")),
    }
    text = (tmp_path / "EVIDENCE.md").read_text(encoding="utf-8")
    assert "`toy` was measured at size `toy`" in text and "nan" not in text.lower().split()
    for line in [x for x in text.splitlines() if x.startswith("|")]:
        assert line.endswith("|")
    assert (tmp_path / "docs" / "evidence" / report.FIGURE).stat().st_size < 300_000


def test_a_run_that_is_done_is_not_done_again(model, chain, monkeypatch):
    out, record = chain
    monkeypatch.setattr(rules, "CAPABLE", -1.0)
    monkeypatch.setattr(rules, "ACTS", 0.0)
    monkeypatch.setattr(rules, "LACKS", 1e9)
    monkeypatch.setattr(samples.Captions, "measured", lambda *a: pytest.fail("what was done is done again"))
    again = column.measure(str(model), rules.TOY, out)
    assert again["rows"] == record["rows"] and again["seconds"][0] > record["seconds"][0]


def test_a_stopped_run_keeps_what_is_done_and_says_so(model, tmp_path, monkeypatch):
    measured = samples.Captions.measured

    def stop(self, number, setting):
        if number == 1:
            raise KeyboardInterrupt
        return measured(self, number, setting)

    monkeypatch.setattr(samples.Captions, "measured", stop)
    with pytest.raises(SystemExit, match=r"Stopped\. Whole: none\. The same command goes on"):
        run.main(model=str(model), size="toy", out=tmp_path, report_only=False)
    values = json.loads((tmp_path / "results" / model.name / "samples.json").read_text())
    assert len(values["runs"]["cond"]) == 1
    fresh = samples.Kept(tmp_path / "results" / model.name / "samples.json", {"other": "settings"})
    assert fresh.values["runs"] == {}, "of other settings: begun anew"


def test_a_model_that_cannot_draw_is_not_tested(model, tmp_path):
    record = column.measure(str(model), rules.TOY, tmp_path)
    rows = {row["key"]: row for row in record["rows"]}
    assert {rows[key]["status"] for key in SAMPLE_ROWS - {"capable"}} == {NOT_TESTED}
    assert set(kept.load_all(tmp_path)[model.name].tables) == {"cond"}, "nothing else was run"
    assert "no run but `cond`" in report.texts(kept.load_all(tmp_path), SEEDS)["docs/evidence/guidance.md"]


def test_the_null_has_other_weights_of_the_same_spread():
    null, own = columns.null(), dg.load()
    pairs = list(zip(null.transformer.parameters(), own.transformer.parameters(), strict=True))
    large = [(a, b) for a, b in pairs if b.numel() > 10_000]
    for a, b in large:
        assert not torch.equal(a, b) and float(a.std()) == pytest.approx(float(b.std()), rel=0.05)
    assert weak_model(null) is None and dg.references(null).names == dg.references().names
    again = columns.null()
    assert all(
        torch.equal(a, b) for a, b in zip(null.transformer.parameters(), again.transformer.parameters(), strict=True)
    )


def test_zero_goes_where_it_changes_detail_most_and_the_picture_stays():
    effects = {
        0: {"acts": 0.05, "amount": 3.0, "low": 0.99},  # hardly acts
        1: {"acts": 0.2, "amount": 0.4, "low": 0.99},
        2: {"acts": 0.3, "amount": -0.6, "low": 0.98},
        3: {"acts": 0.9, "amount": 2.0, "low": 0.5},  # another picture
    }
    assert samples.zero_block(effects) == 2
    assert samples.zero_block({b: {**e, "low": 0.1} for b, e in effects.items()}) == 3, "else where it acts most"


def test_too_little_space_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LEAST_FREE", 2**62)
    with pytest.raises(SystemExit, match="nothing was run"):
        run.check_space(tmp_path / "not" / "there")


def test_a_page_that_is_too_long_is_refused(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LIMIT", 100)
    with pytest.raises(ValueError, match="at most 100 are allowed"):
        report.write(chain[0], SEEDS, tmp_path)


def test_no_name_is_in_two_parts():
    source = dg.references()
    for size in rules.SIZES.values():
        parts = splits.split(source, size.splits)
        names = [r.name for part in parts.values() for r in part]
        assert len(set(names)) == len(names)
        assert all(r.held_out == (part == "held_out") for part, refs in parts.items() for r in refs)
    with pytest.raises(ValueError, match=r"600 names requested for the part 'test'; \d+ are left"):
        splits.split(source, splits.Sizes(test=600))


def test_wrong_arguments_are_refused(tmp_path):
    given = {"model": None, "size": "toy", "out": tmp_path, "report_only": False}
    for arguments, words in (
        ({"model": "no-such-model"}, "neither a column nor a model's folder; there are emoji-sd3, emoji-flux"),
        ({"size": "huge"}, "there are full, small, quick, toy"),
    ):
        with pytest.raises(SystemExit, match=words):
            run.main(**{**given, **arguments})
    with pytest.raises(FileNotFoundError, match="no evidence in .*make evidence"):
        run.main(**{**given, "report_only": True})


def test_the_figure_shows_only_columns_with_a_curve(chain):
    every = kept.load_all(chain[0])
    bare = Column("bare", {}, {}, {"cond": every["toy"].tables["cond"]}, {})
    shown = figure.draw({**every, "bare": bare})
    has_curve = "rho 0" in every["toy"].tables
    assert len(shown.axes) == 2 and (shown.axes[0].get_title() == "toy") == has_curve


def test_a_profile_that_is_the_zeroing_is_not_run_twice(tmp_path):
    class Counted:
        chunk, calls = 2, 0

        def measured(self, number, setting):
            self.calls += 1
            return {"call": self.calls}

    edit, other = dg.Disrupt([3], 1), dg.Disrupt([3], 2)
    counts = []
    for auto in (edit, other):
        kept_runs, captions = samples.Kept(tmp_path / f"{auto.block}" / "x.json", {}), Counted()
        samples.all_runs(kept_runs, captions, {"zero": (edit, 0.25), "auto": (auto, 0.25)}, rules.TOY, False)
        runs = kept_runs.values["runs"]
        assert (runs["weak, auto"] == runs["weak, zero"]) == (runs["DG, auto"] == runs["DG, zero"]) == (auto == edit)
        counts.append(captions.calls)
    assert counts[1] - counts[0] == 4  # two runs of two chunks
