"""What people type first and what it is taken for: it works, or the error says what was meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny

import dg_tools as dg


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.PIPELINES["sd3"]())


def test_one_channel_is_a_set_of_one():
    assert dg.Disrupt(55, 0) == dg.Disrupt([55], 0)
    assert dg.DetailKnob(3, 1, rho=0.5).words(1.0) == ["knob 0.5"]


def test_a_model_is_no_capture(dit):
    with pytest.raises(TypeError, match=r"got a DiT: capture the model first, dg.find_massive\(dg.capture\(dit"):
        dg.find_massive(dit)


@pytest.mark.parametrize(
    "name", ["capture", "generate", "compare", "dose", "denoise_error", "features", "capture_image"]
)
@pytest.mark.parametrize("what", ["emoji-sd3", Path("a/folder"), None, "pipeline"])
def test_a_name_is_no_loaded_model(name, what, dit):
    """Before any work, with the line that loads it."""
    given = dit.pipeline if what == "pipeline" else what
    more = {"compare": [{}], "denoise_error": [[]]}.get(name, [])
    settings = {"features": {"block": 0, "sigma": 0.5}}.get(name, {})
    line = "dg.load(pipeline)" if what == "pipeline" else f"dg.load({str(what)!r})" if what else "dg.load()"
    with pytest.raises(TypeError, match=f"dg.{name} needs a loaded model.*{re.escape(line)}"):
        getattr(dg, name)(given, "red apple", *more, **settings)


def test_references_of_a_name():
    with pytest.raises(TypeError, match="dg.references needs a loaded model"):
        dg.references("emoji-sd3")


def test_a_misspelt_argument_is_named_with_the_right_one(dit):
    with pytest.raises(TypeError, match="have no argument step=: did you mean steps="):
        dg.capture(dit, step=5)
    with pytest.raises(TypeError, match="no argument seeds=: did you mean seed="):
        dg.generate(dit, "owl", seeds=[0])
    with pytest.raises(TypeError, match="no argument zzz=; capture itself takes prompts, seeds"):
        dg.capture(dit, "owl", zzz=1)
    with pytest.raises(TypeError, match="did you mean edits="):
        dg.compare(dit, "owl", [None], edit=dg.Disrupt([3], 0))


def test_no_prompt(dit):
    with pytest.raises(TypeError, match="no prompt: pass what to draw, such as dg.capture"):
        dg.capture(dit, steps=5)
