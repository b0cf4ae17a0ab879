"""The command line and the demo, on the embedded model and on a model that has no references."""

from __future__ import annotations

import html
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import typer
from typer.testing import CliRunner

import dg_tools as dg
from dg_tools import cli, demo
from dg_tools.metrics import amount_change
from dg_tools.models.files import embedded

runner = CliRunner()


def called(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `dg-tools ARGUMENTS`, as its entry point gives them; one space for any."""
    monkeypatch.setattr("sys.argv", ["dg-tools", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, error = capsys.readouterr()
    assert "Traceback" not in error
    return caught.value.code or 0, out, re.sub(r"[\s│]+", " ", error)


@pytest.fixture
def small_demo(monkeypatch):
    for name, value in (("STEPS", 2), ("CAPTIONS", 3), ("DOSED", 2), ("SHOWN", 2), ("RHOS", (0.0, 1.0, 2.0))):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "CONTROLS", 2)


@pytest.mark.parametrize("model", embedded())
def test_demo_on_an_embedded_model(model, tmp_path, small_demo, capsys):
    """Its numbers are those of the library's own calls, on captions that were held out of training."""
    summary = demo.demo(tmp_path, model)
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept == json.loads(json.dumps(summary)) and kept["pictures"] == ["overview.png", "guidance.png"]
    for name in kept["pictures"]:
        assert (tmp_path / name).stat().st_size > 20000, name
    printed, page = capsys.readouterr().out, (tmp_path / "index.html").read_text(encoding="utf-8")
    for figure in kept["figures"].values():
        assert figure["sentence"] in printed and html.escape(figure["sentence"]) in page
    assert kept["verdict"] in printed and kept["limit_seconds"] == 90 and 'src="overview.png"' in page
    parts = ("<h1>", html.escape(kept["verdict"]), "overview.png", "How to read", "The weak model", "guidance.png")
    order = [page.index(part) for part in parts]
    assert order == sorted(order), "the verdict and the picture come first"

    dit, figures = dg.load(model), kept["figures"]
    weak = dg.DetailGuidance.from_profile(dit.profile)
    assert figures["weak model"]["value"] == json.loads(json.dumps(weak.disrupt.to_json()))
    source = dg.references(dit)
    known = [source.named(prompt) for prompt in figures["captions"]["value"]]
    assert len(known) == 3 and all(reference.held_out for reference in known)
    plain, guided = [], []
    for i, reference in enumerate(known):
        call = {"seed": 500 + i, "steps": 2, "progress": False}
        pair = dg.generate(dit, reference.prompt, guidance=[None, weak], **call)
        plain.append(pair.pictures[:1])
        guided.append(pair.pictures[1:])
    amount = amount_change(torch.cat(guided), torch.cat(plain), dit.vae_scale_factor)
    measured, passes = figures["guidance"]["value"]["measured"], figures["guidance"]["value"]["passes"]
    assert measured["DG"]["amount"][0] == pytest.approx(amount.mean().item(), abs=0.02)  # PIL rounds to 8 bits
    depth = len(dit.blocks)
    assert passes["cond"] == passes["gain"] == 1 and passes["CFG"] == 2
    assert passes["DG"] == round(1 + (depth - 1 - dit.profile["block"]) / depth, 3)
    rows = {(row["who"], row["rho"]): row["amount"] for row in figures["dose"]["value"]}
    assert rows["massive", 1.0] == 0 and rows["massive", 0.0] > rows["massive", 2.0]  # less detail where it is louder
    assert figures["acts"]["value"] >= 0.1 and "SD3.5" in figures["limits"]["sentence"]


def test_demo_on_a_model_of_ones_own(tmp_path, small_demo):
    tiny.sd3().save_pretrained(tmp_path / "model")
    summary = demo.demo(tmp_path / "out", tmp_path / "model")
    assert "right" not in summary["figures"]["guidance"]["value"]["measured"]["DG"]
    assert "no profile" in summary["figures"]["weak model"]["sentence"] and "overview.png" in summary["pictures"]
    assert "no reference pictures" in summary["figures"]["limits"]["sentence"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        demo.demo(tmp_path / "file")


def test_capture_then_find(tmp_path, monkeypatch, capsys):
    store = tmp_path / "acts.zarr"
    ask = ["capture", "red apple", "-o", store, "--steps", "2", "--seed", "3"]
    code, printed, _ = called(monkeypatch, capsys, *ask, "--json")
    made = json.loads(printed)
    acts = dg.open_activations(store)
    assert code == 0 and made["sizes"] == {str(k): v for k, v in acts.data.sizes.items()} and made["warnings"] == []
    assert made["model"] == "emoji-sd3" and made["steps"] == 2 and list(acts.data["seed"].values) == [3]
    code, printed, _ = called(monkeypatch, capsys, "find", store, "--json")
    found, ours = json.loads(printed), dg.find_massive(acts)
    assert code == 0 and found["channels"] == ours.channels and len(found["rows"]) == len(ours.to_frame())
    code, printed, _ = called(monkeypatch, capsys, "find", store, "--rule", "top")
    assert code == 0 and "this sign" in printed and "channel" in printed
    assert "the model's profile: channels 55 x 2 after block 3; massive after block 3 here too: they agree" in printed
    code, printed, _ = called(monkeypatch, capsys, "find", store, "--stream", "text", "--rule", "sun")
    assert code == 0 and "channels 55 x 2 after block 3; not massive there: 55" in printed
    code, _, error = called(monkeypatch, capsys, *ask)
    assert code == 1 and "holds activations already" in error and "--force" in error
    assert called(monkeypatch, capsys, *ask, "--force")[0] == 0
    (store / "journal.jsonl").unlink()
    code, _, error = called(monkeypatch, capsys, "find", store)
    assert code == 1 and "damaged" in error


def test_find_in_a_model(tmp_path, monkeypatch, capsys):
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [5], 400.0)
    pipeline.save_pretrained(tmp_path / "model")
    ask = ["find", tmp_path / "model", "--steps", "2", "-p", "apple"]
    code, printed, _ = called(monkeypatch, capsys, *ask)
    assert code == 0 and "1 massive channel [5]" in printed and "this sign" in printed and "profile" not in printed
    first = next(line for line in printed.splitlines() if line.startswith("│"))
    assert first.replace("│", " ").split()[0] == "5", "the massive channels come first, a line each"
    told = int(re.search(r"massive or not: (\d+) rows", printed).group(1))
    _, every, _ = called(monkeypatch, capsys, *ask, "--blocks")
    assert every.startswith(printed.split("--blocks")[0]) and every.count("\n│") == 1 + told
    code, printed, _ = called(monkeypatch, capsys, *ask, "--json")
    assert json.loads(printed)["channels"] == [5] and json.loads(printed)["onset"] == {"5": 1}


def test_a_capture_that_is_stopped_is_kept(tmp_path, monkeypatch, capsys):
    """Ctrl-C in the second of three runs; what stood there before stays."""
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [5], 400.0)
    dit = dg.load(pipeline)
    dg.capture(dit, "before", steps=2, progress=False).save(tmp_path / "a.zarr")
    monkeypatch.setattr(dg, "load", lambda *a, **k: dit)

    def stopping(at, *arguments):
        calls = 0

        def count(module, inputs, output):
            nonlocal calls
            calls += 1
            if calls == at:
                signal.raise_signal(signal.SIGINT)

        handle = dit.transformer.register_forward_hook(count)
        try:
            return called(monkeypatch, capsys, *arguments, "--steps", "2")
        finally:
            handle.remove()

    three = ["apple", "--seed", "0", "--seed", "1", "--seed", "2"]
    code, _, error = stopping(3, "capture", *three, "-o", tmp_path / "a.zarr", "--force")
    assert code == 130 and "a-2.zarr" in error
    assert list(dg.open_activations(tmp_path / "a.zarr").data["prompt"].values) == ["before"]
    kept = dg.open_activations(tmp_path / "a-2.zarr").data
    assert not kept.attrs["finished"] and kept["mean"].isel(seed=0).notnull().any() and kept.sizes["seed"] == 3
    code, printed, error = called(monkeypatch, capsys, "find", tmp_path / "a-2.zarr", "--json")
    assert code == 0 and json.loads(printed)["channels"] == [5] and "was stopped" in error
    code, _, error = stopping(1, "capture", *three, "-o", tmp_path / "b.zarr")
    assert code == 130 and "no run was finished" in error and not (tmp_path / "b.zarr").exists()
    code, printed, error = stopping(3, "find", "emoji-sd3", "-p", "apple", "-p", "owl", "--json")
    assert code == 130 and json.loads(printed)["channels"] == [5] and "finished runs only" in error


def test_a_demo_that_is_stopped(tmp_path, monkeypatch, capsys):
    dit = dg.load(tiny.sd3())
    monkeypatch.setattr(demo, "load", lambda model, **where: dit)
    handle = dit.transformer.register_forward_hook(lambda *a: signal.raise_signal(signal.SIGINT))
    code, _, error = called(monkeypatch, capsys, "demo", "-o", tmp_path / "o", "--json")
    handle.remove()
    assert code == 130 and "holds 0 pictures, and no new summary.json" in error


@pytest.mark.parametrize("arguments", [["generate", "owl"], ["capture", "owl"], ["find", "emoji-sd3"]])
def test_stopped_while_loading(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dg, "load", lambda *a, **k: signal.raise_signal(signal.SIGINT))
    code, printed, error = called(monkeypatch, capsys, *arguments)
    assert code == 130 and "before there was anything to keep" in error and not printed and not list(tmp_path.iterdir())


def test_words_that_the_model_never_saw(tmp_path, monkeypatch, capsys):
    ask = ["red aple", "--steps", "1", "-o", tmp_path / "o", "--json"]
    for command in ("generate", "capture"):
        code, printed, error = called(monkeypatch, capsys, command, *ask)
        (warning,) = json.loads(printed)["warnings"]
        assert code == 0 and "never saw 'aple'" in warning and "red apple" in warning and "warning: This model" in error
        ask[-2] = tmp_path / "store"


@pytest.mark.parametrize("command", ["generate", "capture"])
@pytest.mark.parametrize(
    "arguments, words",
    [
        ([" "], "the prompt is empty"),
        (["owl", "--seed", "x1"], "'x1' is not a whole number"),
        (["owl", "--seed", "-1"], "'-1' is not a whole number"),
        (["owl", "--steps", "0"], "--steps"),
        (["owl", "--nothing"], "--nothing"),
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path, monkeypatch, capsys, command, arguments, words):
    code, printed, error = called(monkeypatch, capsys, command, *arguments, "-o", tmp_path / "o")
    assert code == 2 and words in error and not printed and not (tmp_path / "o").exists()


def test_errors_are_a_sentence_and_exit_code_1(tmp_path, monkeypatch, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    folder = tmp_path / "folder"
    for arguments, words in (
        (["find", "nothing.zarr"], "neither a folder of activations"),
        (["find", folder], "neither a folder of activations"),
        (["find", folder], "is not a diffusers pipeline folder"),
        (["generate", "owl", "-m", folder], "is not a diffusers pipeline folder"),
        (["generate", "owl", "-m", "nothing"], "not an embedded model"),
        (["generate", "owl", "-o", folder / "notes.txt"], "is a file"),
        (["generate", "owl", "--dg", "1", "--channel", "999", "--block", "1"], "channel 999 requested"),
        (["generate", "owl", "--height", "65"], "multiples of"),
        (["capture", "owl", "-o", folder], "holds other files"),
        (["demo", "-o", folder / "notes.txt"], "is a file"),
    ):
        code, printed, error = called(monkeypatch, capsys, *arguments)
        assert code == 1 and words in error and not printed, arguments
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    code, _, error = called(monkeypatch, capsys, "generate")
    assert code == 2 and "write what the picture should show" in error
    code, _, error = called(monkeypatch, capsys, "generate", "owl", "--from", "x.png")
    assert code == 2


def test_help_has_examples_and_every_line_shown_parses():
    """Lines of the help texts, of the README and of its page of commands: parsed as they stand, not run."""
    group = typer.main.get_command(cli.app)
    assert {"demo", "generate", "capture", "find", "info"} <= set(group.commands)
    pages = [Path(__file__).parents[1] / name for name in ("README.md", "docs/commands.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    shown = re.findall(r"^ +(?:\S*/)?(dg-tools .*)$", text, re.M)
    for name, command in group.commands.items():
        assert f"  dg-tools {name}" in command.help, name
        shown += re.findall(r"^ *(dg-tools .*)$", command.help, re.M)
        assert runner.invoke(cli.app, [name, "--help"]).exit_code == 0
    assert len(shown) > 12
    for line in shown:
        _, name, *arguments = shlex.split(line, comments=True)
        group.commands[name].make_context(name, arguments)


COMMANDS = [
    "",
    "capture",
    "compare",
    "demo",
    "explore",
    "find",
    "generate",
    "info",
    "propose",
    "report",
    "sweep",
    "verify",
]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_page_as_it_is_shown(command, width):
    """Sentences wrap where the page ends and nowhere else, lines of examples are whole, and nothing else is printed."""
    group = typer.main.get_command(cli.app)
    assert {"", *group.commands} == set(COMMANDS)
    shown = runner.invoke(cli.app, [*filter(None, [command]), "--help"], env={"COLUMNS": str(width)})
    page = re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout)
    assert shown.exit_code == 0 and "\\b" not in page and "\b" not in page
    lines = [line.removeprefix(" ").rstrip() for line in page.split("╭")[0].splitlines()]
    assert max(map(len, lines)) < width
    for line, after in itertools.pairwise(lines):
        if line and after and not line.endswith(":") and not line.startswith(" ") and not after.startswith(" "):
            assert len(line) + 1 + len(after.split()[0]) > width - 2, f"{line!r} ends before the page does"
    text = group.commands[command].help if command else group.help
    for line in text.splitlines():
        assert not line.startswith(" ") or line in lines, f"{line!r} is broken"


def test_versions_without_loading_anything(monkeypatch, capsys):
    code, printed, error = called(monkeypatch, capsys, "--version")
    assert code == 0 and printed.startswith(f"dg-tools {dg.__version__} (torch {torch.__version__.split('+')[0]}")
    assert not error
    says = "import sys; from dg_tools.cli.app import app; app(['--version'], standalone_mode=False); "
    says += "assert not {'torch', 'diffusers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", says], capture_output=True).returncode == 0


def test_every_command_has_json():
    group = typer.main.get_command(cli.app)
    without = [n for n, c in group.commands.items() if "--json" not in {o for p in c.params for o in p.opts}]
    assert not without


def test_the_module_runs_too():
    made = subprocess.run(
        [sys.executable, "-m", "dg_tools.cli", "info", "--json"],
        capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True,
    )  # fmt: skip
    assert json.loads(made.stdout)["sites"] == [str(i) for i in range(12)]
