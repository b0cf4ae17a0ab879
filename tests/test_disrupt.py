"""Disrupt: exactly what it names changes; its controls have the norm that they claim."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.forward.call import Call

BOTH = Call(1, 500.0, 0.5, "both", slice(1, 2), slice(0, 1))


def states(seed=0):
    x = torch.randn(2, 96, 32, generator=torch.Generator().manual_seed(seed))
    x[..., 3] += 20
    return x


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (dg.Disrupt([3, 7], 0), lambda x: 0 * x),
        (dg.Disrupt([3, 7], 0, "mean"), lambda x: x.mean(1, keepdim=True).expand_as(x)),
        (dg.Disrupt([3, 7], 0, "scale", rho=0.25), lambda x: 0.25 * x),
        (dg.Disrupt([3, 7], 0, "scale", rho=((0.0, 0.0), (1.0, 0.8))), lambda x: 0.4 * x),
    ],
)
def test_modes_change_these_channels_only(edit, expected):
    x = states()
    y = edit(x, BOTH)
    rest = [c for c in range(32) if c not in (3, 7)]
    assert torch.equal(y[..., rest], x[..., rest])
    assert torch.allclose(y[..., [3, 7]], expected(x[..., [3, 7]]), atol=1e-6)
    assert torch.equal(x, states())  # the input is left alone


def test_tokens_steps_and_rows():
    x = states()
    y = dg.Disrupt([3], 0, tokens=[5, 90], rows="cond")(x, BOTH)
    changed = (y != x).nonzero()
    assert changed.tolist() == [[1, 5, 3], [1, 90, 3]]
    assert dg.Disrupt([3], 0, steps=[0])(x, BOTH) is None
    assert dg.Disrupt([3], 0, steps=[1])(x, BOTH) is not None
    uncond = Call(1, 500.0, 0.5, "uncond", slice(0, 0), slice(0, 2))
    assert dg.Disrupt([3], 0, rows="cond")(x, uncond) is None


@pytest.mark.parametrize("kind", ["shift", "shift_direction"])
def test_shifts_have_the_norm_that_zeroing_removes(kind):
    x, off = states(), dg.Disrupt([3, 7], 0)
    removed = (x - off(x, BOTH)).square().sum((1, 2)).sqrt()
    seen = set()
    for control in off.controls(5, kind=kind):
        y = control(x, BOTH)
        change = y - x
        assert torch.allclose(change.square().sum((1, 2)).sqrt(), removed, rtol=1e-4)
        assert torch.allclose(change.std(1), torch.zeros(()), atol=1e-5)  # the same on every token
        assert change[..., [3, 7]].abs().max() == 0
        seen.add(tuple(change[0, 0].nonzero().flatten().tolist()) if kind == "shift" else round(change.sum().item(), 3))
    assert len(seen) == 5  # different draws
    assert off.controls(5, kind=kind) == off.controls(5, kind=kind) != off.controls(5, kind=kind, seed=1)
    sanity = off.controls(1, kind="random")[0](x, BOTH)
    assert (sanity == 0).all(1).sum(1).tolist() == [2, 2]


def test_on_a_pipeline_with_a_mask_of_steps_and_rows(dit):
    """Only these steps and rows reach the model, with classifier-free guidance, batched or in two calls."""
    off = dg.Disrupt([2], 0, steps=[1], rows="cond")
    seen, call = [], dit.arguments("apple", seed=0, **tiny.CALL, guidance_scale=3.0)
    record = dit.blocks[0].record
    with off.on(dit.pipeline):
        handle = dit.blocks[0].module.register_forward_hook(
            lambda m, i, o: seen.append((o[record.image][..., 2] == 0).all(1).tolist())
        )
        dit.pipeline(**call, output_type="latent")
        handle.remove()
    if dit.family.rows == "batched":
        assert seen == [[False, False], [False, True], [False, False]]
    else:
        assert seen == [[False], [False], [True], [False], [False], [False]]


def test_sentence_and_json():
    off = dg.Disrupt([3, 7], 2, "scale", rho=((0.2, 0.1), (0.9, 1.0)), tokens=[1, 2], steps=[0], rows="cond")
    assert dg.Disrupt.from_json(off.to_json()) == off
    assert (
        str(off) == "scale channels 3, 7 by (0.1 at sigma 0.2, 1 at sigma 0.9) after block 2, image stream, "
        "tokens 1, 2, steps 0, conditional rows"
    )
    assert "4, 5, ... (32 channels) after block 0" in str(dg.Disrupt(range(32), 0))
    control = off.controls(1)[0]
    assert str(control).startswith("control: shift 2 channels other than 3, 7 by the norm of those, times |1 - rho|")
    assert control.control
    one = dg.Disrupt([3], 2).controls(1)[0]
    assert str(one).startswith("control: shift 1 channel other than 3 by the norm of channel 3 after block 2")
    with pytest.raises(ValueError, match="unknown keys"):
        dg.Disrupt.from_json({"channel": [3], "block": 1})


def test_json_of_an_edit_stays_what_it_was():
    """Written by version 0.1.0 before its settings had a file of their own."""
    written = {
        "channels": [3, 7], "block": [1, 2], "mode": "dc", "rho": 0.0, "tokens": None, "steps": [0, 2],
        "rows": "cond", "stream": "image", "draw": 4, "strength": [[0.2, 2.0], [1.0, 0.5]], "control": False,
        "norms": "own", "others": True, "donor": None,
    }  # fmt: skip
    edit = dg.Disrupt.from_json(written)
    assert edit.blocks == (1, 2) and edit.strength == ((0.2, 2.0), (1.0, 0.5))
    assert edit.to_json() == written and list(edit.to_json())[:3] == ["channels", "block", "mode"]


def test_text_stream(dits):
    dit = dits("sd3")
    with dg.Disrupt([1], 1, stream="text").on(dit):
        kept = []
        handle = dit.blocks[1].module.register_forward_hook(
            lambda m, i, o: kept.append(o[0][..., 1].abs().max().item())
        )
        dit.pipeline(**dit.arguments("apple", **tiny.CALL), output_type="latent")
        handle.remove()
    assert kept == [0, 0, 0]
    with pytest.raises(RuntimeError, match="has no text output"):
        dg.generate(dit, "apple", edits=dg.Disrupt([1], 3, stream="text"), progress=False, **tiny.CALL)


def test_regions_of_the_picture_as_tokens(dits):
    dit = dits("sd3")  # 4 pixels a token, 8 x 12 tokens at 32 x 48
    assert dit.tokens([(8, 4, 16, 8)], **tiny.SIZE) == [12 + 2, 12 + 3]
    assert dit.tokens([(8, 4, 13, 8), (0, 28, 4, 32)], **tiny.SIZE) == [
        12 + 2,
        7 * 12,
    ]  # a quarter of a token is left out
    mask = torch.zeros(32, 48)
    mask[4:8, 8:16] = 1
    assert dit.tokens(mask=mask, **tiny.SIZE) == [12 + 2, 12 + 3]
    for arguments, words in (
        ({"boxes": [(8, 4, 60, 8)]}, "must lie within"),
        ({"boxes": [(8, 4, 9, 5)]}, "no image token lies at least half in this region"),
        ({"mask": torch.zeros(48, 32)}, "the picture is"),
    ):
        with pytest.raises(ValueError, match=words):
            dit.tokens(**arguments, **tiny.SIZE)
