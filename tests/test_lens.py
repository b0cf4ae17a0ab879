"""The lens: at the last block the model's own prediction, elsewhere its last layers by hand."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments import lens
from dg_tools.experiments.trajectories import trajectories
from dg_tools.onestep import velocity

PROMPTS = ["apple", "tree", "house"]


@pytest.fixture(scope="module")
def planted():
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [3, 7], 500.0)
    return dg.load(pipeline)


def test_the_lens_at_the_last_block_is_the_models_own_prediction(dit):
    view = lens(dit, PROMPTS[:2], channels=[3], step=1, **tiny.CALL)
    part = next(
        trajectories(dit, PROMPTS[:2], [0], steps=3, keep=[1], progress=False, **tiny.SIZE, max_sequence_length=8)
    )
    _, sigma, z = part.steps[0]
    assert view.sigma == sigma and view.clean.shape == (len(dit.blocks), *z.shape)
    assert torch.equal(view.clean[-1], z - sigma * velocity(dit, z, sigma, part.inputs))
    assert not torch.allclose(view.clean[0], view.clean[-1]) and (view.change() > 0).all()
    if dit.family.name == "sd3":  # norm_out and proj_out by hand, after block 1, channel 3 at zero
        hidden, model = [], dit.transformer
        handle = model.transformer_blocks[1].register_forward_hook(lambda m, i, o: hidden.append(o[1].clone()))
        velocity(dit, z, sigma, part.inputs)
        handle.remove()
        hidden[0][..., 3] = 0
        with torch.no_grad():
            temb = model.time_text_embed(torch.full((2,), 1000 * sigma), part.inputs["pooled_projections"])
            tokens = model.proj_out(model.norm_out(hidden[0], temb)).view(2, 8, 12, 2, 2, 4)
        v = torch.einsum("nhwpqc->nchpwq", tokens).reshape(2, 4, 16, 24)
        assert view.without is not None and torch.allclose(view.without[1], z - sigma * v, atol=1e-4)


def test_lens_decodes_and_draws(planted):
    view = lens(planted, "apple", channels=[3], **tiny.CALL)
    assert view.pictures().shape == (4, 1, 3, 32, 48) and len(view.plot().axes) == 8
    plain = lens(planted, "apple", **tiny.CALL)
    assert torch.equal(plain.clean, view.clean) and len(plain.plot().axes) == 4
    for ask in (plain.change, lambda: plain.pictures("without")):
        with pytest.raises(ValueError, match="channels were named"):
            ask()
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in planted.transformer.modules())
    assert count == 0


def test_bad_input_is_refused_before_any_forward(planted):
    for arguments, error, words in (
        ({"prompts": []}, ValueError, "empty list of prompts"),
        ({"step": 3}, IndexError, "step 3 is out of range; there are 0 to 2"),
        ({"channels": [32]}, IndexError, r"channels \[32\] requested"),
    ):
        with pytest.raises(error, match=words):
            lens(planted, **{"prompts": PROMPTS, **tiny.CALL, **arguments})
