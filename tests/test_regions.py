"""A region of a picture, against the size of the call that it acts in."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import tiny
import torch
from diffusers import FluxKontextPipeline

import dg_tools as dg

CHANNELS, BLOCK = [3, 7], 1
LARGE = {"height": 32, "width": 48}  # the default of the tiny SD3 is 32 x 32
CALL = {"num_inference_steps": 2, "max_sequence_length": 8, "output_type": "latent"}


def region_of(dit):
    """The right lower corner: tokens that the default size does not have."""
    return dit.tokens([(24, 20, 48, 32)], **LARGE)


def run(pipe, **size):
    return pipe("a", **CALL, **size, generator=torch.Generator().manual_seed(0))[0]


@contextmanager
def by_hand(pipe, tokens):
    """The channels of some tokens at zero, by a plain hook."""

    def zero(module, args, output):
        image = output[1].clone()
        for token in tokens:
            image[:, token, CHANNELS] = 0
        return output[0], image

    handle = pipe.transformer.transformer_blocks[BLOCK].register_forward_hook(zero)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["sd3", "flux"])
class TestLargerThanTheDefault:
    def test_edit(self, dits, name):
        dit = dits(name)
        with by_hand(dit.pipeline, region_of(dit)):
            theirs = run(dit.pipeline, **LARGE)
        with dg.Disrupt(CHANNELS, BLOCK, tokens=region_of(dit)).on(dit.pipeline):
            assert torch.allclose(run(dit.pipeline, **LARGE), theirs, atol=1e-5)
        assert not torch.allclose(run(dit.pipeline, **LARGE), theirs, atol=1e-3)

    def test_guidance(self, dits, name):
        dit = dits(name)
        guider = dg.DetailGuidance(None, 0.5, dg.Disrupt(CHANNELS, BLOCK, tokens=region_of(dit)))
        with dg.detail_guidance(dit, guider) as record:
            run(dit.pipeline, **LARGE)
        assert record.report.guided == (0, 1)
        guider = dg.DetailGuidance(1.0, 0.5, disrupt=guider.disrupt)
        pair = dg.generate(dit, "a", steps=2, max_sequence_length=8, guidance=[None, guider], progress=False, **LARGE)
        assert not torch.equal(pair.latents[0], pair.latents[1])


def test_another_size_is_refused_with_both(dits):
    dit = dits("sd3")
    off = dg.Disrupt(CHANNELS, BLOCK, tokens=dit.tokens([(0, 0, 16, 16)], **LARGE))
    both = "made for 8 x 12 image tokens .* picture of 8 x 8"
    with pytest.raises(ValueError, match=both), off.on(dit.pipeline):
        run(dit.pipeline, height=32, width=32)
    again = dg.Disrupt.from_json(off.to_json())
    with pytest.raises(ValueError, match=both), dg.detail_guidance(dit, dg.DetailGuidance(None, 0.5, again)):
        run(dit.pipeline, height=32, width=32)
    with pytest.raises(ValueError, match=both):
        dg.generate(dit, "a", steps=2, edits=off, progress=False, height=32, width=32)


def test_plain_indices_beyond_the_picture(dits):
    dit = dits("sd3")
    with pytest.raises(IndexError, match="token 95 requested; there are 0 to 63"):
        with dg.Disrupt(CHANNELS, BLOCK, tokens=[95]).on(dit.pipeline):
            run(dit.pipeline, height=32, width=32)


def test_the_same_count_in_another_shape_is_another_size(dits):
    dit = dits("flux")
    off = dg.Disrupt(CHANNELS, BLOCK, tokens=region_of(dit))
    with pytest.raises(ValueError, match="made for 8 x 12 image tokens .* picture of 12 x 8"), off.on(dit.pipeline):
        run(dit.pipeline, height=48, width=32)


def test_a_region_of_kontexts_picture_leaves_its_reference_alone():
    pipe = FluxKontextPipeline(**tiny.PIPELINES["flux"]().components)
    pipe.set_progress_bar_config(disable=True)
    dit = dg.load(pipe)
    picture = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    call = {"image": picture, "_auto_resize": False, "max_area": 32 * 48, **LARGE}
    with by_hand(pipe, region_of(dit)):
        theirs = run_kontext(pipe, call)
    with dg.Disrupt(CHANNELS, BLOCK, tokens=region_of(dit)).on(pipe):
        assert torch.allclose(run_kontext(pipe, call), theirs, atol=1e-5)


def run_kontext(pipe, call):
    return pipe(prompt="a", **CALL, **call, generator=torch.Generator().manual_seed(0))[0]
