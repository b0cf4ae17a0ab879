"""`verify`: every check passes on models that are as their records say, and each can fail."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from test_cli import called

import dg_tools as dg
from dg_tools.activations import recorder
from dg_tools.guidance import classic
from dg_tools.guidance.guided_forward import GuidedForward
from dg_tools.verification import verify
from tools.models_page import FOLDER, PAGE, page

FAMILIES = tiny.families()
ROOT = Path(__file__).parents[1]


def verified(dit: dg.DiT, about=None) -> dict[str, str]:
    """The state of each check by name."""
    size = tiny.SIZE if about is None else about.SIZE
    call = {"max_sequence_length": 8} if about is None else {k: v for k, v in about.CALL.items() if k != "steps"}
    found = verify(dit, **size, **call)
    assert found.ok == ("failed" not in {check.state for check in found.checks}), found
    return {check.name: check.state for check in found.checks}


@pytest.mark.parametrize("name", ["sd35-medium", "flux", "qwen", "dit", "wan", "cogview4"])
def test_models_that_are_as_their_records_say(name):
    about = FAMILIES.get(name)
    states = verified(dg.load(about.pipeline() if about else tiny.PIPELINES[name]()), about)
    without = {n for n, state in states.items() if state == "not applicable"}
    assert without == {"cogview4": {"record: gates"}}.get(name, set())
    assert set(states.values()) <= {"ok", "not applicable"}, states
    guided = [n for n in states if n.startswith("DG, block")]
    assert len(guided) == (2 if name == "flux" else 1) and len(states) == 8 + len(guided)


def test_what_has_no_cfg_is_said():
    found = verify(tiny.flux(guidance_embeds=True), **tiny.SIZE, max_sequence_length=8)
    assert found.ok and all(check.state == "ok" for check in found.checks)  # its pipeline takes a true CFG scale
    dit = dg.load(FAMILIES["flux2"].pipeline())
    dit.pipeline.register_to_config(is_distilled=True)
    states = verified(dit, FAMILIES["flux2"])
    assert states["record: rows of CFG"] == "not applicable" and "failed" not in states.values()


@pytest.fixture(scope="module")
def sd3():
    return tiny.sd3()


def family(pipeline, **changes):
    """SD3's record with changes of the family, or of its list of blocks."""
    record = dg.load(pipeline).family
    (blocks,) = record.lists
    own = {k: v for k, v in changes.items() if hasattr(blocks, k)}
    return replace(record, lists=(replace(blocks, **own),), **{k: v for k, v in changes.items() if k not in own})


@pytest.mark.parametrize(
    "check, changes",
    [
        ("record: streams", {"image": 0, "text": 1}),
        ("record: streams", {"drops_text": ""}),
        ("record: gates", {"modulation": ("shift_msa", "scale_msa", "gate_mlp", "shift_mlp", "scale_mlp", "gate_msa")}),
        ("record: timestep", {"timestep_scale": 1.0}),
        ("record: rows of CFG", {"rows": "batched_cond_first"}),
    ],
)
def test_a_wrong_record_is_seen(sd3, check, changes):
    states = verified(dg.load(sd3, family=family(sd3, **changes)))
    assert states[check] == "failed"


def louder(reduced):
    return lambda *args: {**(found := reduced(*args)), "abs_max": found["abs_max"] * 1.001}


def lighter(self, cond, disrupted):
    return cond + 0.9 * self.guider.weight * (cond - disrupted)


@contextmanager
def leaving_a_hook(dit, guider):
    dit.blocks[0].module.register_forward_hook(lambda *args: None)
    yield


@pytest.mark.parametrize(
    "checks, owner, name, broken",
    [
        ({"capture"}, recorder, "statistics", louder(recorder.statistics)),
        ({"DG, block 1", "DG + CFG"}, GuidedForward, "folded", lighter),
        ({"w = 0", "DG, block 1", "DG + CFG"}, GuidedForward, "folded", lambda self, c, d: c * 1.01),
        ({"put back"}, classic, "acting", leaving_a_hook),
    ],
)
def test_a_broken_toolkit_is_seen(monkeypatch, checks, owner, name, broken):
    monkeypatch.setattr(owner, name, broken)
    states = verified(dg.load(tiny.sd3()))
    assert {n for n, state in states.items() if state == "failed"} == checks, states


def test_bad_input(sd3):
    with pytest.raises(ValueError, match="steps=1 given; at least 2"):
        verify(sd3, steps=1)
    with pytest.raises(ValueError, match="multiples of"):
        verify(sd3, height=33)


def test_the_command(monkeypatch, capsys, sd3, tmp_path):
    sd3.save_pretrained(tmp_path)
    size = ("--height", 32, "--width", 48)
    code, out, error = called(monkeypatch, capsys, "verify", tmp_path, *size)
    assert code == 0 and len(out.splitlines()) == 9 and all(line.startswith("ok") for line in out.splitlines())
    assert "none of 9 checks failed" in error
    monkeypatch.setattr(GuidedForward, "folded", lambda self, c, d: c)
    code, out, error = called(monkeypatch, capsys, "verify", tmp_path, *size, "--json")
    found = json.loads(out)
    assert code == 1 and not found["ok"] and "2 of 9 checks failed: DG, block 1, DG + CFG" in error
    assert found["model"] == tmp_path.name and (found["height"], found["width"]) == (32, 48)
    assert {c["name"] for c in found["checks"] if c["state"] == "failed"} == {"DG, block 1", "DG + CFG"}


def test_the_page_is_made_from_what_was_run():
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/models.md: run python -m tools.models_page"
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}
    assert {"emoji-sd3", "emoji-flux"} <= set(runs)
    for name, run in runs.items():
        assert run["model"].split("/")[-1] == name and run["checks"] and run["date"] and run["machine"]
        assert str(ROOT) not in json.dumps(run)
