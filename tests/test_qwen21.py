"""Qwen-Image 2.1: one stream, a modulation with a row for the text, pictures with alpha, a cache that is left out."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.models.pictures import encode
from dg_tools.onestep import conditions, velocity

ABOUT = tiny.families()["qwen21"]
CALL = {**ABOUT.SIZE, **ABOUT.CALL}


@pytest.fixture(scope="module")
def dit():
    return dg.load(ABOUT.pipeline())


def test_a_closed_gate_leaves_the_text(dit):
    """The text's own row of the modulation, at time 0, is not the image's."""
    texts = []
    handle = dit.blocks[1].module.register_forward_hook(lambda m, i, o: texts.append(o[:, :-96].clone()))
    for edits in (None, dg.Disrupt([3, 7], 1, "gate")):
        dg.generate(dit, "apple", edits=edits, progress=False, **CALL)
    handle.remove()
    plain, closed = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    assert len(plain) == 3 and all(torch.equal(a, b) for a, b in zip(plain, closed, strict=True))


def test_texts_of_different_lengths(dit):
    """CFG's standard deviation is of the image tokens alone: written out here."""
    forward, calls = dit.transformer.forward, []

    def kept(*args, **kwargs):
        calls.append(forward(*args, **kwargs)[0][:, -96:])
        return (calls[-1],)

    dit.transformer.forward = kept
    try:
        dg.generate(dit, "apple", guidance=dg.CFG(3.0), negative_prompt="a longer text", progress=False, **CALL)
    finally:
        del dit.transformer.forward
    c, u = calls[:2]
    guided = u + 3.0 * (c - u)
    guided = 0.5 * guided * (c.std() / guided.std()) + 0.5 * guided
    made, step = [], dit.pipeline.scheduler.step

    def stepped(prediction, *args, **kwargs):
        made.append(prediction)
        return step(prediction, *args, **kwargs)

    dit.pipeline.scheduler.step = stepped
    try:
        rescaled = dg.CFG(3.0, guidance_rescale=0.5)
        dg.generate(dit, "apple", guidance=rescaled, negative_prompt="a longer text", progress=False, **CALL)
    finally:
        del dit.pipeline.scheduler.step
    assert torch.allclose(made[0], guided, atol=1e-4)


def test_pictures_without_alpha(dit):
    made = dg.generate(dit, "apple", progress=False, **CALL)
    assert made.images[0].mode == "RGB"
    pictures = torch.rand(1, 3, 128, 192) * 2 - 1
    whole = torch.cat([pictures, torch.ones(1, 1, 128, 192)], dim=1)[:, :, None]
    config = dit.pipeline.vae.config
    mean, std = (torch.tensor(x).view(1, 4, 1, 1) for x in (config.latents_mean, config.latents_std))
    code = (dit.pipeline.vae.encode(whole).latent_dist.mode()[:, :, 0] - mean) / std
    assert torch.allclose(encode(dit, pictures), code, atol=1e-5)


def test_one_step(dit):
    """The prediction of your own noise is that of the pipeline's first step."""
    made, step = [], dit.pipeline.scheduler.step

    def stepped(prediction, t, sample, **kwargs):
        made.append((prediction, sample))
        return step(prediction, t, sample, **kwargs)

    dit.pipeline.scheduler.step = stepped
    try:
        dg.generate(dit, "apple", progress=False, **CALL)
    finally:
        del dit.pipeline.scheduler.step
    theirs, noise = (x.transpose(1, 2).reshape(1, 4, 8, 12) for x in made[0])
    ours = velocity(dit, noise, 1.0, conditions(dit, ["apple"], **ABOUT.SIZE))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_what_is_refused(dit):
    off = dg.DetailGuidance(None, 0.8, dg.Disrupt([3], 1))
    with pytest.raises(ValueError, match="use_kv_cache=True given; with a guidance, family 'qwen21' needs False"):
        with dg.detail_guidance(dit.pipeline, off):
            dit.pipeline("apple", num_inference_steps=2, **ABOUT.SIZE)
    with pytest.raises(ValueError, match="image=.* requested; family 'qwen21' needs image=None"):
        dg.generate(dit, "apple", image=[1], progress=False, **CALL)


def test_the_cache_of_the_text_is_refused_around_the_users_own_call(dit):
    """Edits too: after the first step there would be no text in the sequence, and no row of its modulation."""
    for edit in (dg.Disrupt([3], 1), dg.Disrupt([3], 1, "gate")):
        with (
            pytest.raises(
                ValueError, match="use_kv_cache=True, the default of this pipeline, .*pass use_kv_cache=False"
            ),
            edit.on(dit.pipeline),
        ):
            dit.pipeline("apple", num_inference_steps=2, true_cfg_scale=1.0, **ABOUT.SIZE)
    with dg.Disrupt([3], 1).on(dit.pipeline) as run:
        dit.pipeline("apple", num_inference_steps=2, true_cfg_scale=1.0, use_kv_cache=False, **ABOUT.SIZE)
    assert run.report.calls == (2,)
