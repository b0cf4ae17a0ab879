"""Small inputs of a wrong kind: a sentence before the first forward; what is harmless is taken as it is meant."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg

CALL = {"num_inference_steps": 2, "max_sequence_length": 8, "output_type": "latent", **tiny.SIZE}
OFF = dg.Disrupt([3], 1)
NAN, INF = float("nan"), float("inf")
SCALE = {"channels": [3], "block": 1, "mode": "scale"}


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.sd3())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dg.DetailGuidance(3.0, NAN, OFF), "detail_guidance_scale=nan; a finite number"),
        (lambda: dg.DetailGuidance(3.0, "0.5", OFF), "detail_guidance_scale='0.5'; a number"),
        (lambda: dg.DetailGuidance(INF, 0.5, OFF), "guidance_scale=inf; a finite number"),
        (lambda: dg.DetailGuidance(NAN), "guidance_scale=nan; a finite number"),
        (lambda: dg.DetailGuidance(3.0, 0.5, OFF, detail_guidance_start=NAN), "detail_guidance_start=nan"),
        (lambda: dg.DetailGuidance(3.0, 0.5, OFF, guidance_rescale="no"), "guidance_rescale='no'; a number"),
        (lambda: dg.DetailGuidance(3.0, 0.5, [OFF, OFF]), "disrupt= is a list of 2; .* one disruption"),
        (lambda: dg.DetailGuidance(3.0, 0.5, 3), "disrupt= is an int; pass a Disrupt"),
        (lambda: dg.CFG(NAN), "guidance_scale=nan"),
        (lambda: dg.CFG(0.5), "guidance_scale=0.5; .* at least 1"),
        (lambda: dg.baselines.SLG(3.0, INF, blocks=[1]), "weight=inf"),
        (lambda: dg.baselines.SLG(3.0, blocks="12"), "blocks='12'; whole numbers"),
        (lambda: dg.baselines.Blurred(3.0, window=0.5), "window=0.5; two fractions"),
        (lambda: dg.Disrupt("37", 1), "channels='37'; whole numbers are needed"),
        (lambda: dg.Disrupt([3.7], 1), re.escape("channels=[3.7]; whole numbers")),
        (lambda: dg.Disrupt([3], 1.9), "block=1.9; whole numbers"),
        (lambda: dg.Disrupt([3], "1"), "block='1'; whole numbers"),
        (lambda: dg.Disrupt([3], None), "block=None; whole numbers"),
        (lambda: dg.Disrupt([3], True), "block=True; whole numbers"),
        (lambda: dg.Disrupt([3], 1, tokens=[True, False]), r"tokens is a mask .* np.flatnonzero\(mask\)"),
        (lambda: dg.Disrupt([3], 1, tokens=np.ones(96, bool)), "tokens is a mask"),
        (lambda: dg.Disrupt([3], 1, tokens=torch.ones(96, dtype=torch.bool)), "tokens is a mask"),
        (lambda: dg.Disrupt([3], 1, steps=[0.5]), "steps="),
        (lambda: dg.Disrupt(**SCALE, rho=NAN), "rho=nan; a finite number"),
        (lambda: dg.Disrupt(**SCALE, rho="0.5"), "rho='0.5'; a number"),
        (lambda: dg.Disrupt(**SCALE, rho=((0.1, NAN),)), "rho=nan"),
        (lambda: dg.Disrupt(**SCALE, rho=(0.1, 0.5)), "a number, or .*sigma, value"),
        (lambda: dg.Disrupt([3], 1, mode="dc", strength=INF), "strength=inf; a finite number"),
        (lambda: dg.Disrupt([3], 1, draw=0.5), "draw=0.5; a whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_numbers_of_numpy_and_torch_and_one_instead_of_several_are_taken(dit):
    edit = dg.Disrupt(
        np.int64(3), np.int32(1), mode="scale", rho=np.float32(0.5), tokens=np.arange(4), draw=np.int64(2)
    )
    assert edit == dg.Disrupt([3], 1, mode="scale", rho=0.5, tokens=[0, 1, 2, 3], draw=2)
    assert edit == dg.Disrupt(
        torch.tensor([3]), torch.tensor(1), mode="scale", rho=torch.tensor(0.5), tokens=range(4), draw=2
    )
    assert dg.Disrupt.from_json(edit.to_json()) == edit and type(edit.rho) is float and type(edit.block) is int
    assert dg.Disrupt(3, 1) == dg.Disrupt([3], 1)
    guider = dg.DetailGuidance(np.float32(3.0), np.float64(0.5), [OFF])
    assert guider.disrupt == OFF and type(guider.detail_guidance_scale) is float
    made = [dg.generate(dit, "a", seed=s, progress=False, **tiny.CALL).latents for s in (np.int64(3), 3)]
    assert torch.equal(*made)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": None}, "no prompt: pass what to draw"),
        ({"prompt": ["a", 3]}, "prompt 3: a string is needed"),
        ({"guidance_scale": 4.0}, r"guidance_scale= belongs to the guidance: pass guidance=dg.CFG\(s\)"),
        ({"num_inference_steps": 4}, "pass steps="),
        ({"seed": 1.5}, "seed=1.5; whole numbers"),
    ],
)
def test_generate_and_capture_say_what_they_need(dit, monkeypatch, arguments, words):
    monkeypatch.setattr(dit.transformer, "forward", lambda *args, **kwargs: pytest.fail("a forward ran"))
    settings = {"prompt": "a", "progress": False, **tiny.CALL, **arguments}
    with pytest.raises(TypeError, match=words):
        dg.generate(dit, **settings)
    prompts, seeds = settings.pop("prompt"), settings.pop("seed", 0)
    with pytest.raises(TypeError, match=words):
        dg.capture(dit, prompts, seeds=seeds, **settings)


def guided(dit, guider, **way):
    with dg.detail_guidance(dit.pipeline, guider, **way):
        return dit.pipeline("a", guidance_scale=4.0, generator=torch.Generator().manual_seed(0), **CALL)[0]


@pytest.mark.parametrize(
    ("guider", "way", "words"),
    [
        (dg.CFG(4.0), {}, "the guider is a CFG, and the pipeline does classifier-free guidance itself"),
        (OFF, {}, "the guider is a Disrupt; pass dg.DetailGuidance"),
        (None, {}, "the guider is None; pass dg.DetailGuidance"),
        (dg.DetailGuidance(4.0, 0.5, OFF), {"way": "bogus"}, "way='bogus'; allowed: fork, partial, whole"),
    ],
)
def test_detail_guidance_says_what_it_needs(dit, guider, way, words):
    with pytest.raises((TypeError, ValueError), match=words):
        guided(dit, guider, **way)


def test_a_guidance_inside_a_guidance_is_refused_and_the_outer_one_goes_on(dit):
    guider = dg.DetailGuidance(detail_guidance_scale=0.5, disrupt=OFF)
    alone = guided(dit, guider)
    with dg.detail_guidance(dit, guider):
        for inner in (guider, dg.baselines.SLG(blocks=[1])):
            with pytest.raises(
                (ValueError, RuntimeError), match=r"on for this transformer already \(DetailGuidance\): close it first"
            ):
                guided(dit, inner)
        noise = {"generator": torch.Generator().manual_seed(0)}
        assert torch.equal(dit.pipeline("a", guidance_scale=4.0, **noise, **CALL)[0], alone)
    assert dit.active.guidance is None


CHANGES = [
    (lambda: dg.DetailGuidance(4.0, 0.5, OFF), "detail_guidance_scale", 0.9),
    (lambda: dg.DetailGuidance(4.0, 0.5, OFF), "disrupt", dg.Disrupt([7], 2)),
    (lambda: dg.DetailGuidance(4.0, 0.5, "auto"), "disrupt", OFF),
    (lambda: dg.DetailGuidance(4.0, 0.5, OFF), "detail_guidance_stop", 0.5),
    (lambda: dg.DetailGuidance(4.0, 0.5, OFF), "stop", 0.5),
    (lambda: dg.DetailGuidance(4.0, 0.5, OFF), "enabled", False),
    (lambda: dg.DetailGuidance(None, 0.5, OFF), "guidance_scale", 4.0),
    (lambda: dg.baselines.SLG(4.0, 0.5, blocks=[1]), "blocks", 2),
    (lambda: dg.baselines.SLG(4.0, 0.5, blocks=[1]), "weight", 0.9),
    (lambda: dg.baselines.SLG(4.0, 0.5, blocks=[1]), "window", (0.0, 0.5)),
    (lambda: dg.baselines.AutoGuidance(4.0, 0.5), "noise", 0.2),
    (lambda: dg.baselines.APG(4.0), "eta", 0.5),
]


@pytest.mark.parametrize(("make", "name", "value"), CHANGES)
def test_an_attribute_that_was_changed_is_used_saved_and_copied(dit, make, name, value, tmp_path):
    guider = make()
    before = None if getattr(guider, "auto", False) else guided(dit, guider)
    setattr(guider, name, value)
    fresh = type(guider).from_config(
        {**make().config, name: value.to_json() if isinstance(value, dg.Disrupt) else value}
    )
    expected = guided(dit, fresh)
    assert before is None or name == "guidance_scale" or not torch.equal(expected, before)  # the call's own scale
    guider.save_pretrained(tmp_path)
    for same in (guider, guider.new(), type(guider).from_pretrained(tmp_path)):
        assert torch.equal(guided(dit, same), expected)
    assert repr(guider) == repr(guider.new())


def test_cfg_too():
    assert dg.CFG(3.0).new().guidance_scale == 3.0
    guider = dg.CFG(3.0)
    guider.guidance_scale = 4.0
    guider.stop = 0.5
    assert (guider.new().guidance_scale, guider.new()._stop) == (4.0, 0.5) and '"guidance_scale": 4.0' in repr(guider)


def test_a_changed_attribute_is_checked_when_a_run_begins(dit):
    guider = dg.DetailGuidance(4.0, 0.5, OFF)
    guider.detail_guidance_scale = NAN
    with pytest.raises(ValueError, match="detail_guidance_scale=nan"):
        guided(dit, guider)
    guider = dg.DetailGuidance(4.0, 0.5, OFF)
    guider.detail_guidance_start, guider.detail_guidance_stop = 0.8, 0.2
    with pytest.raises(ValueError, match="no step of 3"):
        dg.generate(dit, "a", guidance=guider, progress=False, **tiny.CALL)
    with pytest.raises(ValueError, match="guidance_scale=nan"):
        guider.guidance_scale = NAN


def test_a_guider_that_waits_for_its_model_is_shown():
    assert '"disrupt": "auto"' in repr(dg.DetailGuidance(3.0, 0.5, "auto"))
    assert "num_conditions: 3" in repr(dg.DetailGuidance(3.0, 0.5, "auto"))
