"""The table of rivals: captions that chose nothing, a forecast, a page and a README that follow from what is kept."""

from __future__ import annotations

import signal
import sys

import pytest
import toy_model

import dg_tools as dg
from dg_tools.experiments.rivals_plan import SCALES, WEIGHTS
from dg_tools.experiments.rivals_runs import Bench
from dg_tools.report.splits import TOY
from evidence import rivals_page as page
from evidence import rivals_table as table

SIZE = table.SIZES["toy"]
PROFILE = {"channels": toy_model.CHANNELS, "block": 1, "rho": 2.0, "detail_guidance_scale": 0.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    dit = dg.load(toy_model.write(folder))
    edit = dg.Disrupt(PROFILE["channels"], PROFILE["block"], "scale", rho=PROFILE["rho"])
    with pytest.MonkeyPatch.context() as patch:
        for module in ("dg_tools.experiments._rivals.profile_edit", "evidence.rivals_table.profile_edit"):
            patch.setattr(module, lambda dit: edit)
        patch.setattr("dg_tools.experiments.rivals_plan.NAMES", ("DG", "CFG", "SoftPAG", "Gain"))
        before, after = table.captions(dg.references(dit), TOY, (), SIZE)
        seconds = table.forecast(dit, before, after, SIZE, 2)
        for half in (0, 1):
            table.measure(dit, folder / "out" / "toy", SIZE, TOY, steps=2, half=half)
        assert not (folder / "out" / "toy" / "result.json").exists()
        patch.setattr(Bench, "measured", lambda *a, **k: pytest.fail("a half is kept, and run again"))
        table.measure(dit, folder / "out" / "toy", SIZE, TOY, steps=2)
    return dit, folder / "out", before, after, seconds


def test_captions_are_for_one_use_and_none_chose_the_profile(made):
    dit, out, before, after, seconds = made
    result = page.results(out)["toy"]
    assert result.settings["search"] == [r.prompt for r in before] and len(before) == 2
    assert result.settings["test"] == [r.prompt for r in after] and len(after) == 3
    assert all(r.held_out for r in after) and not any(r.held_out for r in before)
    assert not {r.name for r in before} & {r.name for r in after}
    left, _ = table.captions(dg.references(dit), TOY, [before[0].prompt], SIZE)
    assert before[0].prompt not in [r.prompt for r in left]
    assert seconds > 0 and not list((out / "toy").glob("kept*")) and (out / "toy" / page.FIGURE).is_file()


def test_a_page_and_a_table_for_the_readme(made):
    _, out, *_ = made
    page.write(out)
    text = (out / page.PAGE).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("| DG |", "| CFG |", "| SoftPAG |", "| Gain |"))]
    assert len(rows) == 4 and all(line.count("|") == 10 for line in rows)
    assert "Searched on 2 captions, reported on 3; 2 steps." in text
    short = page.short_table(out).splitlines()
    assert short[0] == "| guidance | passes | toy |" and [line.split(" | ")[0] for line in short[2:]] == [
        "| DG",
        "| CFG",
        "| Gain",
    ]
    assert page.with_table(f"a\n{page.BEGIN}\nold\n{page.END}\nb", out) == (
        f"a\n{page.BEGIN}\n{page.short_table(out)}\n{page.END}\nb"
    )
    with pytest.raises(ValueError, match="the page has no"):
        page.with_table("a", out)


def test_values_are_spread_over_the_whole_range():
    assert table.spread(WEIGHTS, 5) == WEIGHTS and table.spread(WEIGHTS, 3) == (0.125, 0.5, 2.0)
    assert table.spread(SCALES, 2) == (1.25, 4.5) and len(WEIGHTS) == len(SCALES)
    assert len(page.SHOWN) <= 10


def test_the_stored_page_and_the_short_table_are_what_the_stored_numbers_say():
    assert page.page_text(table.FOLDER) == (table.FOLDER / page.PAGE).read_text(encoding="utf-8")
    text = (page.ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    assert page.with_table(text, table.FOLDER) == text
    for name in page.results(table.FOLDER):
        assert (table.FOLDER / name / page.FIGURE).is_file() and not (table.FOLDER / name / "kept").exists()


@pytest.mark.parametrize("how", ["an error", "SIGTERM"])
def test_the_second_process_ends_with_the_first(how):
    """It would sleep for a minute."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError if how == "an error" else SystemExit):
        with table.second_process([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
            assert other.poll() is None
            if how == "an error":
                raise ZeroDivisionError
            signal.raise_signal(signal.SIGTERM)
    assert other.returncode not in (0, None) and signal.getsignal(signal.SIGTERM) is before


def test_the_second_process_is_waited_for():
    with table.second_process([sys.executable, "-c", "import time; time.sleep(0.3)"]) as other:
        pass
    assert other.returncode == 0
