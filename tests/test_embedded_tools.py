"""The toolkit on each embedded model, against plain hooks and the formula; tiny random models are tested elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_guidance_calls import agree

import dg_tools as dg
from dg_tools.models.files import embedded
from dg_tools.models.provenance import weights_hash

PROMPTS = ["red apple on blue", "penguin on yellow"]


@pytest.fixture(scope="module", params=embedded())
def dit(request):
    return dg.load(request.param)


@pytest.fixture(scope="module")
def off(dit):
    return dg.Disrupt.from_profile(dit.profile)


def test_captured_sizes_are_those_that_hooks_see(dit):
    """Mean |x| of every channel after every block, double or single, without CFG."""
    acts = dg.capture(dit, PROMPTS, steps=2, progress=False)
    seen = []
    handles = [
        block.module.register_forward_hook(lambda m, i, o, at=block.record.image: seen.append(o[at][0]))
        for block in dit.blocks
    ]
    try:
        dit.pipeline(**dit.arguments(PROMPTS[1], seed=0, steps=2), output_type="latent")
    finally:
        for handle in handles:
            handle.remove()
    wanted = torch.stack([x.abs().mean(0) for x in seen]).reshape(2, len(dit.blocks), -1)
    found = acts.data["abs_mean"].sel(prompt=PROMPTS[1], stream="image").squeeze()
    assert np.array_equal(found.values, wanted.numpy())


def test_detection_finds_the_cards_channels_on_other_prompts(dit):
    found = dg.find_massive(dg.capture(dit, PROMPTS, steps=10, progress=False))
    assert set(dit.profile["channels"]) <= set(found.at(dit.profile["block"]))


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_detail_guidance_is_the_formula(dit, off, s):
    call = {**dit.arguments(PROMPTS[0], steps=3, guidance_scale=s), "output_type": "latent"}
    before = weights_hash(dit)
    agree(dit, s, lambda: dit.pipeline(**{**call, "generator": torch.Generator().manual_seed(1)}).images, off)
    assert weights_hash(dit) == before


def test_disrupted_guided_and_traced_in_the_call_of_the_card(dit, off):
    """Nothing but the prompt is given: size and text length are the card's."""
    edits = dg.generate(dit, PROMPTS[0], steps=3, edits=[None, off, *off.controls(2)], progress=False).images
    guided = dg.generate(
        dit, PROMPTS[0], steps=3, guidance=[dg.CFG(3.0), dg.DetailGuidance(3.0, 0.0, off)], progress=False
    ).images
    clean, disrupted, *controls = (np.asarray(i) for i in edits)
    assert clean.shape == (64, 64, 3) and (disrupted != clean).any()
    assert all((c != clean).any() and (c != disrupted).any() for c in controls)
    assert np.array_equal(*map(np.asarray, guided))
    out = []
    with dit.trace(PROMPTS[0], steps=2, output_type="latent") as run:
        for _ in run.steps:
            dit.blocks[off.block].image[..., off.channels] *= off.rho
        out.append(run.result.images.clone())
    with off.on(dit):
        theirs = dit.pipeline(**dit.arguments(PROMPTS[0], steps=2), output_type="latent").images
    assert torch.equal(out[0], theirs)
