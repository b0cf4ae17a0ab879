"""HunyuanImage: its CFG is a guider component's, and its single blocks have the image tokens first."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import AdaptiveProjectedMixGuidance

import dg_tools as dg
from dg_tools.forward.call import Call
from dg_tools.interventions import attached
from dg_tools.onestep import conditions, velocity

ABOUT = tiny.families()["hunyuan_image"]
CHANNELS = [3, 7]


@pytest.fixture(scope="module")
def dit():
    return dg.load(ABOUT.pipeline())


def called(pipe, prompt=ABOUT.PROMPTS[0], **call):
    generator = torch.Generator().manual_seed(5)
    call = {"num_inference_steps": 3, "negative_prompt": "", "output_type": "latent", **ABOUT.SIZE, **call}
    return pipe(prompt, generator=generator, **call)[0]


@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("prompt", ABOUT.PROMPTS)
def test_detail_guidance_is_its_guider(dit, s, prompt):
    """As the component, and around a call whose component is plain CFG: the same latents as `generate`."""
    pipe, off = dit.pipeline, dg.Disrupt(CHANNELS, 1)
    theirs = dg.generate(dit, prompt, seed=5, guidance=dg.DetailGuidance(s, 0.8, off), progress=False, **ABOUT.SIZE,
                         steps=3).latents  # fmt: skip
    try:
        pipe.guider = dg.DetailGuidance(s, 0.8, off)
        as_guider = called(pipe, prompt)
        assert pipe.guider.report.guided == (0, 1, 2)
        ABOUT.set_scale(pipe, s)
        with dg.detail_guidance(pipe, dg.DetailGuidance(None, 0.8, off)):
            around = called(pipe, prompt)
        plain = called(pipe, prompt)
    finally:
        pipe.guider = None
    for ours in (as_guider, around):
        assert (ours - theirs).norm() < 1e-4 * (theirs - plain).norm() + 1e-4


def test_its_own_guider(dit):
    """It is put back, is not used by `generate`, and is refused where its sum is another one."""
    pipe = dit.pipeline
    plain = dg.generate(dit, "apple", seed=5, steps=3, progress=False, **ABOUT.SIZE).latents
    try:
        pipe.guider = own = AdaptiveProjectedMixGuidance(3.0)
        ours = dg.generate(dit, "apple", seed=5, steps=3, progress=False, **ABOUT.SIZE).latents
        assert torch.equal(ours, plain) and pipe.guider is own
        off = dg.Disrupt(CHANNELS, 1)
        with pytest.raises(ValueError, match="guider is an AdaptiveProjectedMixGuidance, which does not compute"):
            with dg.detail_guidance(pipe, dg.DetailGuidance(None, 0.8, off)):
                called(pipe)
        with off.on(pipe) as run:  # an edit needs no sum
            called(pipe)
        assert run.report.calls == (6,)
    finally:
        pipe.guider = None


def test_clean_norms_are_those_of_the_image_tokens(dit):
    """In a single block the LayerNorm's first tokens are the image's: frozen by hand, the rest left alone."""
    inputs = conditions(dit, ["apple"], **ABOUT.SIZE)
    z = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    call, block = Call(0, 500.0, 0.5, "cond", slice(None), slice(0, 0)), len(dit.blocks) - 2
    norms = [dit.blocks[-1].module.norm.norm, dit.transformer.norm_out.norm]
    clean, handles = {}, []
    for module in norms:
        handles.append(module.register_forward_hook(lambda m, i, o: clean.update({m: i[0]})))
    velocity(dit, z, 0.5, inputs)
    [handle.remove() for handle in handles]

    def frozen(module, inputs, output):
        reference, tokens = clean[module][:, :96], inputs[0][:, :96]
        deviation = (reference.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return torch.cat([(tokens - reference.mean(-1, keepdim=True)) / deviation, output[:, 96:]], dim=1)

    handles = [module.register_forward_hook(frozen) for module in norms]
    handles.append(dit.blocks[block].module.register_forward_hook(lambda m, i, o: ABOUT.zero(o, CHANNELS, 96)))
    by_hand = velocity(dit, z, 0.5, inputs)
    [handle.remove() for handle in handles]
    with attached(dit.transformer, dit.family, [dg.Disrupt(CHANNELS, block, norms="clean")], call):
        found = velocity(dit, z, 0.5, inputs)
    assert torch.allclose(found, by_hand, atol=2e-5 * by_hand.abs().max().item())


def test_the_notice_of_diffusers_on_guiders_is_not_repeated(dit, caplog):
    """Each of our calls makes one of diffusers' own."""
    AdaptiveProjectedMixGuidance(3.0)
    assert caplog.text.count("experimental feature") == 1
    for guidance in (None, dg.CFG(3.0), dg.DetailGuidance(3.0, 0.8, dg.Disrupt(CHANNELS, 1))):
        dg.generate(dit, "apple", guidance=guidance, progress=False, **ABOUT.SIZE, steps=1)
    dg.families.propose(dit.pipeline, prompts=ABOUT.PROMPTS, **ABOUT.SIZE)
    assert caplog.text.count("experimental feature") == 1
