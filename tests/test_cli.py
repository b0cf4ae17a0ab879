"""The command line and the demo, on the embedded model and on a model that has no references."""

from __future__ import annotations

import json

import pytest
import tiny
from typer.testing import CliRunner

import dg_tools as dg
from dg_tools import cli, demo

runner = CliRunner()


def test_demo_on_the_embedded_model(tmp_path, monkeypatch, capsys):
    for name, value in (("STEPS", 4), ("MEASURED", 4), ("PROMPTS", demo.PROMPTS[:2])):
        monkeypatch.setattr(demo, name, value)
    summary = demo.demo(tmp_path)
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept == json.loads(json.dumps(summary))
    for name in kept["pictures"]:
        assert (tmp_path / name).stat().st_size > 5000, name
    assert {"guidance.png", "surface.png", "disrupted.png", "one_step.png"} <= set(kept["pictures"])
    printed = capsys.readouterr().out
    for figure in kept["figures"].values():
        assert figure["sentence"] in printed
    assert kept["verdict"] in printed and kept["limit_seconds"] == 90 and "seconds" in kept


def test_demo_on_a_model_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "STEPS", 2)
    monkeypatch.setattr(demo, "PROMPTS", ("apple",))
    tiny.sd3().save_pretrained(tmp_path / "model")
    summary = demo.demo(tmp_path / "out", tmp_path / "model")
    assert "No reference pictures" in summary["verdict"] and "guidance.png" in summary["pictures"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        demo.demo(tmp_path / "file")


def test_commands(tmp_path):
    store, picture = tmp_path / "acts.zarr", tmp_path / "grid.png"
    for arguments in (
        ["capture", "red apple", "--out", store, "--steps", "2"],
        ["find", store],
        ["find", store, "--rule", "top"],
        ["generate", "red apple", "--out", picture, "--steps", "2", "--detail-guidance-scale", "0.5"],
        ["generate", "owl", "--out", picture, "--steps", "2", "--guidance-scale", "2", "--channel", "3", "--block", "1",
         "--detail-guidance-scale", "1"],
        ["info"],
    ):  # fmt: skip
        made = runner.invoke(cli.app, [str(a) for a in arguments])
        assert made.exit_code == 0, made.output
    assert picture.stat().st_size > 5000
    assert "emoji-sd3" in made.output and "12 blocks" in made.output


def test_errors_are_one_line(monkeypatch, capsys):
    for arguments, words in (
        (["info", "--model", "nothing"], "no embedded model"),
        (["find", "nothing.zarr"], "no activations at"),
        (
            ["generate", "owl", "--detail-guidance-scale", "1", "--channel", "999", "--block", "1"],
            "channel 999 asked for",
        ),
    ):
        monkeypatch.setattr("sys.argv", ["dg-tools", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        error = capsys.readouterr().err
        assert caught.value.code == 1 and words in error and "Traceback" not in error


def test_find_prints_a_table(tmp_path):
    dit = dg.load(tiny.sd3())
    tiny.plant(dit.pipeline, 1, [5], 400.0)
    dg.capture(dit, "apple", progress=False, **tiny.CALL).save(tmp_path / "a")
    made = runner.invoke(cli.app, ["find", str(tmp_path / "a")])
    assert "1 massive channels [5]" in made.output and "coverage" in made.output
