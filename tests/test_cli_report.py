"""`dg-tools report`: wrong input is refused before a model is loaded; right input reaches the library as given."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import hand_report
import numpy as np
import pytest
import tiny
from PIL import Image

import dg_tools as dg
from dg_tools import cli, report
from dg_tools.report import plan
from dg_tools.report.stages import FOLDER


def called(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `dg-tools report ARGUMENTS`; one space for any."""
    monkeypatch.setattr("sys.argv", ["dg-tools", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, error = capsys.readouterr()
    assert "Traceback" not in error
    return caught.value.code or 0, out, re.sub(r"[\s│]+", " ", error)


@pytest.fixture
def unloaded(monkeypatch):
    """Loading a model is an error here."""

    def load(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(dg, "load", load)


@pytest.fixture
def photographs(tmp_path):
    """Two pictures, one caption."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("fox", "owl"):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / f"{name}.png")
    (folder / "fox.txt").write_text("a fox in the snow", encoding="utf-8")
    return folder


def test_wrong_input_is_said_before_a_model_is_loaded(tmp_path, photographs, unloaded, monkeypatch, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    hand_report.report("another").save(tmp_path / "other")
    before = (tmp_path / "other" / "report.json").read_bytes()
    (tmp_path / "begun" / FOLDER).mkdir(parents=True)  # a report that stopped: `Stages` has written this and no more
    (tmp_path / "begun" / FOLDER / "about.json").write_text('{"model": "another"}', encoding="utf-8")
    wrong = [
        (("emoji-sd3", "--size", "huge"), 2, "unknown; there are quick, standard, full"),
        (("--pictures", photographs, "--prompts", tmp_path / "file"), 2, "pass one"),
        (("no-such-model",), 1, "it is not an embedded model"),
        (("-o", tmp_path / "file"), 1, "is a file; pass a folder for the report"),
        (("-o", tmp_path / "other"), 1, "holds a report on 'another', and this is one on 'emoji-sd3'"),
        (("-o", tmp_path / "begun"), 1, "holds a report on 'another', and this is one on 'emoji-sd3'"),
        (("-o", "/proc/report"), 1, "nothing can be written in /proc"),
        (("--pictures", tmp_path / "none"), 1, "none"),
        (("--pictures", tmp_path / "empty"), 1, "holds no picture"),
        (("--pictures", photographs), 1, "owl.png has no caption"),
        (("--prompts", tmp_path / "none"), 1, "one prompt per line"),
        (("--prompts", tmp_path / "file"), 1, "holds no prompt"),
    ]
    for arguments, code, words in wrong:
        out = () if "-o" in arguments else ("-o", tmp_path / "new")
        found, _, error = called(monkeypatch, capsys, *arguments, *out)
        assert found == code and words in error, (arguments, error)
    assert (tmp_path / "other" / "report.json").read_bytes() == before and not (tmp_path / "new").exists()


def test_what_is_given_reaches_the_library(tmp_path, photographs, monkeypatch, capsys):
    tiny.sd3().save_pretrained(tmp_path / "model")
    (photographs / "owl.txt").write_text("an owl at night", encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("# mine\nred apple\n\nan owl\n", encoding="utf-8")
    asked = []

    def measure(dit, items=None, **call):
        asked.append((dit, items, call))
        made = hand_report.report()
        made.save(call["out"])
        print("the forecast")
        return made

    monkeypatch.setattr(report, "measure", measure)
    out = tmp_path / "out"
    sizes = ("--height", 32, "--width", 48, "--steps", 2)
    code, printed, _ = called(monkeypatch, capsys, tmp_path / "model", "--pictures", photographs, "-o", out, *sizes)
    assert code == 0 and "the forecast" in printed and str(out / "index.html") in printed and "does not hold" in printed
    dit, items, call = asked.pop()
    assert "effect, 95% interval" in printed and "required: > " in printed and "controls as extreme" in printed
    assert "chosen: channels 3, 17 x 2 after block 5; this model has no profile to compare with" in " ".join(
        printed.split()
    )
    assert dit.pipeline.name_or_path == str(tmp_path / "model")
    assert [x.prompt for x in items] == ["a fox in the snow", "an owl at night"]
    assert {tuple(x.picture.shape) for x in items} == {(3, 32, 48)}
    assert call == {"out": out, "size": "standard", "steps": 2, "height": 32, "width": 48}

    prompts = ("--prompts", tmp_path / "prompts.txt", "--size", "quick")
    code, printed, error = called(monkeypatch, capsys, tmp_path / "model", *prompts, "-o", tmp_path / "two", "--json")
    record = json.loads(printed)
    assert code == 0 and record["page"] == str(tmp_path / "two" / "index.html") and "the forecast" in error
    assert record["claims"]["stands-out"]["number"] == [22.04, 20.29, 23.93]
    _, items, call = asked.pop()
    assert items == ["red apple", "an owl"] and call["size"] == "quick" and call["height"] is None


def test_a_stopped_report_says_what_is_kept(tmp_path, monkeypatch, capsys):
    tiny.sd3().save_pretrained(tmp_path / "model")

    def measure(dit, items=None, **call):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "measure", measure)
    code, _, error = called(monkeypatch, capsys, tmp_path / "model", "-o", tmp_path / "out")
    assert code == 130 and "what is done is kept in" in error and "the same command goes on" in error


def test_the_plan_measures_nothing(tmp_path, monkeypatch, capsys):
    tiny.sd3().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(report, "measure", None)
    ask = (tmp_path / "model", "--size", "quick", "--steps", 2, "-o", tmp_path / "out", "--plan")
    code, printed, _ = called(monkeypatch, capsys, *ask)
    assert code == 0 and "forwards" in printed and not (tmp_path / "out").exists()
    code, printed, _ = called(monkeypatch, capsys, *ask, "--json")
    plan = json.loads(printed)
    assert code == 0 and plan["size"] == "quick" and plan["steps"] == 2 and plan["forwards"] > 0


def test_a_disk_without_room_is_said_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    tiny.sd3().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join("abcdef"), encoding="utf-8")
    free = SimpleNamespace(free=10**6)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda place: free)
    out = tmp_path / "out"
    sizes = ("--height", 32, "--width", 48, "--steps", 2, "--size", "quick")
    ask = (tmp_path / "model", "--prompts", tmp_path / "prompts.txt", "-o", out, *sizes)
    code, printed, error = called(monkeypatch, capsys, *ask)
    assert code == 1 and "GB of disk" in printed and "0.001 GB are free: make room" in error
    assert not (out / "report.json").exists()
    plan.check_room(out, 10**6)
    with pytest.raises(OSError, match="the report needs 0.002 GB"):
        plan.check_room(tmp_path / "new", 2 * 10**6)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "kept").write_bytes(bytes(10**6 + 1))
    plan.check_room(tmp_path / "new", 2 * 10**6)  # what is there already is not needed again
