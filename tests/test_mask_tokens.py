"""Tokens masked in attention against a product written by hand, which leaves their keys out or their values at zero."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

import dg_tools as dg
from dg_tools.interventions import MaskTokens

IMAGE = 96
CALL = {**tiny.SIZE, "steps": 2, "max_sequence_length": 8}
PRODUCT = F.scaled_dot_product_attention


def by_hand(path, keys, tokens, at=None, row=None):
    """In the place of torch's product, for products of so many keys: some keys are not there, or have no value.

    Only the product number `at` and the row `row`, where they are given.
    """
    count = []

    def product(query, key, value, attn_mask=None, **kwargs):
        out = PRODUCT(query, key, value, attn_mask=attn_mask, **kwargs)
        if key.shape[-2] != tokens:  # the text encoders'
            return out
        count.append(1)
        if at is not None and len(count) - 1 != at:
            return out
        left = [i for i in range(tokens) if i not in keys] if path == "score" else list(range(tokens))
        value = value.clone()
        value[..., keys, :] = 0
        scores = query @ key[..., left, :].transpose(-1, -2) / query.shape[-1] ** 0.5
        edited = scores.softmax(-1) @ value[..., left, :]
        if row is None:
            return edited
        out = out.clone()
        out[row] = edited[row]
        return out

    return product


def state(dit):
    """What stands on the modules: their own forwards (nnsight's, where another test wrapped them) and hooks."""
    return [
        (vars(m).get("forward"), len(m._forward_pre_hooks), len(m._forward_hooks)) for m in dit.transformer.modules()
    ]


def places(dit, stream, tokens):
    text = 24 if dit.family.name == "sd3" else 8
    first = {"sd3": {"image": 0, "text": IMAGE}, "flux": {"image": text, "text": 0}}[dit.family.name][stream]
    return [first + t for t in tokens]


@pytest.mark.parametrize("path", ["score", "value"])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_every_block_against_a_product_by_hand(name, path, dits, monkeypatch):
    dit = dits(name)
    before = state(dit)
    for stream, tokens, s in (("text", [0, 3], 1.0), ("image", [5, 40], 3.0)):
        guidance = dg.CFG(s)
        edit = MaskTokens(tokens, stream=stream, path=path)
        made = dg.generate(dit, "apple", guidance=guidance, edits=[None, edit], progress=False, **CALL)
        patched = by_hand(path, places(dit, stream, tokens), IMAGE + (24 if name == "sd3" else 8))
        with monkeypatch.context() as patch:
            patch.setattr(F, "scaled_dot_product_attention", patched)
            known = dg.generate(dit, "apple", guidance=guidance, progress=False, **CALL)
        assert torch.allclose(made.latents[1], known.latents[0], atol=1e-4)
        assert not torch.allclose(made.latents[1], made.latents[0], atol=1e-3)
        report = made.edited[1]
        passes = 2 * (2 if name == "flux" and s > 1 else 1)
        assert report.calls == (passes * len(dit.blocks),) and report.change[0] > 0
    assert state(dit) == before


def test_one_block_one_step_and_conditional_rows_alone(dits, monkeypatch):
    """SD3's rows are [uncond, cond]; at the second step, in block 2, only the second row is masked."""
    dit = dits("sd3")
    edit = MaskTokens([1], 2, steps=[1], rows="cond")
    made = dg.generate(dit, "apple", guidance=dg.CFG(3.0), edits=edit, progress=False, **CALL)
    with monkeypatch.context() as patch:
        product = by_hand("score", [IMAGE + 1], IMAGE + 24, at=len(dit.blocks) + 2, row=1)
        patch.setattr(F, "scaled_dot_product_attention", product)
        known = dg.generate(dit, "apple", guidance=dg.CFG(3.0), progress=False, **CALL)
    assert torch.allclose(made.latents, known.latents, atol=1e-4)
    assert made.edited[0].calls == (1,)


def test_the_second_attention_has_no_text_and_pixart_has_a_mask_of_its_own(dits):
    dit = dits("sd35-medium")
    made = dg.generate(dit, "apple", edits=MaskTokens([0]), progress=False, **CALL)
    assert made.edited[0].calls == (2 * len(dit.blocks),)
    both = dg.generate(dit, "apple", edits=MaskTokens([0], stream="image"), progress=False, **CALL)
    assert both.edited[0].calls == (2 * (len(dit.blocks) + 2),)
    pixart = dg.load(tiny.families()["pixart"].pipeline())
    call = {**tiny.SIZE, **tiny.families()["pixart"].CALL, "steps": 1}
    clean, masked = dg.generate(pixart, "a", edits=[None, MaskTokens([0])], progress=False, **call).latents
    assert not torch.equal(clean, masked) and torch.isfinite(masked).all()


def test_a_pad_that_is_masked_already_changes_nothing():
    """PixArt's own mask keeps pads out of its cross-attention: masking them once more is bit for bit nothing."""
    pixart = dg.load(tiny.families()["pixart"].pipeline())
    call = {**tiny.SIZE, **tiny.families()["pixart"].CALL, "steps": 1}
    edit = MaskTokens([6, 7])
    clean, masked = dg.generate(pixart, "a", edits=[None, edit], progress=False, **call).latents
    assert torch.allclose(clean, masked, atol=1e-5)


def test_with_detail_guidance_and_other_edits(dits, monkeypatch):
    """A mask acts in the clean and in the disrupted pass, as an edit of the caller's own does."""
    dit = dits("sd3")
    guidance = dg.DetailGuidance(1.0, 0.5, disrupt=dg.Disrupt([3], 2))
    mask, off = MaskTokens([0, 1]), dg.Disrupt([5], 1)
    made = dg.generate(dit, "apple", edits=[[mask, off]], guidance=guidance, progress=False, **CALL)
    assert made.edited[0].edits == (mask.sentence(), off.sentence()) and min(made.edited[0].calls) >= 2
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", by_hand("score", [IMAGE, IMAGE + 1], IMAGE + 24))
        known = dg.generate(dit, "apple", edits=off, guidance=guidance, progress=False, **CALL)
    assert torch.allclose(made.latents, known.latents, atol=1e-4)


def test_words_json_and_own_pipelines(dits):
    edit = MaskTokens([4, 2], [3, 1], "image", "value", steps=[0], rows="cond")
    assert edit.block == (1, 3) and MaskTokens.from_json(edit.to_json()) == edit
    assert repr(edit) == "mask image tokens 4, 2 as keys (value path) in blocks 1, 3, steps 0, conditional rows"
    assert MaskTokens([1]).sentence() == "mask text tokens 1 as keys (score path) in every block"
    with pytest.raises(ValueError, match="unknown keys"):
        MaskTokens.from_json({**edit.to_json(), "channels": [3]})
    dit = dits("flux")
    call = dit.arguments("apple", **{**CALL, "seed": 0})
    with MaskTokens([0]).on(dit.pipeline) as run:
        dit.pipeline(**call, output_type="latent")
    assert run.report.calls == (2 * len(dit.blocks),)
    with pytest.raises(RuntimeError, match="touched nothing"), MaskTokens([0], steps=[9]).on(dit.pipeline):
        dit.pipeline(**call, output_type="latent")


def test_controls_receive_as_much():
    mass = np.random.default_rng(0).gamma(1.0, size=60)
    mass[[7, 9]] = [9.0, 4.0]
    mask = MaskTokens([7, 9], 2)
    draws = mask.controls(20, mass)
    assert draws == mask.controls(20, mass) and len({d.tokens for d in draws}) == 20
    for draw in draws:
        assert draw.control and draw.block == (2,) and not {7, 9} & set(draw.tokens)
        rest = np.delete(mass, [7, 9]).max()
        assert abs(mass[list(draw.tokens)].sum() - 13.0) <= rest / 2 + 1e-9
    assert "control: mask text tokens" in draws[0].sentence()
    with pytest.raises(ValueError, match="no control can have equal mass"):
        MaskTokens([0]).controls(2, [5.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="n=0"):
        mask.controls(0, mass)
    with pytest.raises(IndexError, match="mass= has 3 tokens"):
        mask.controls(1, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "changed, error, words",
    [
        ({"tokens": []}, ValueError, "at least one"),
        ({"tokens": [1, 1]}, ValueError, "at least one, each once"),
        ({"tokens": [-1]}, ValueError, "none negative"),
        ({"tokens": [0.5]}, TypeError, "whole numbers"),
        ({"path": "query"}, ValueError, "allowed: score, value"),
        ({"stream": "both"}, ValueError, "allowed: text, image"),
        ({"block": 9}, IndexError, "9.*0 to 3"),
        ({"stream": "image", "tokens": [96]}, IndexError, "0 to 95"),
        ({"steps": [2]}, IndexError, "0 to 1"),
        ({"tokens": [24]}, IndexError, "0 to 23"),
    ],
)
def test_refused(changed, error, words, dits):
    with pytest.raises(error, match=words):
        dg.generate(dits("sd3"), "apple", edits=MaskTokens(**{"tokens": [0], **changed}), progress=False, **CALL)


def test_families_without_known_products_are_refused():
    dit = dg.load(tiny.families()["sana"].pipeline())
    with pytest.raises(ValueError, match="names no attention products"):
        dg.generate(dit, "apple", edits=MaskTokens([0]), progress=False, steps=1)
