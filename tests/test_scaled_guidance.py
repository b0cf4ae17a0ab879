"""Detail Guidance with a dose, Disrupt(channels, block, "scale", rho=...): against forwards with a plain hook."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.forward.call import Call
from dg_tools.generation.sampling import run

CHANNELS, BLOCK, W = [3, 7], 1, 0.8
SCHEDULE = ((0.4, 0.5), (0.9, 2.5))


def rho_at(sigma: float) -> float:
    """`SCHEDULE` by hand."""
    return 0.5 + 2.0 * min(max((sigma - 0.4) / 0.5, 0.0), 1.0)


@pytest.mark.parametrize("rho", [1.5, SCHEDULE], ids=["number", "schedule"])
@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_dose_by_hand(dits, name, s, rho):
    dit, used = dits(name), []
    block, forward = dit.blocks[BLOCK], dit.transformer.forward

    def by_hand(**inputs):
        sigma = inputs["timestep"][0].item() / dit.family.timestep_scale
        factor = 1.5 if rho == 1.5 else rho_at(sigma)
        used.append(round(factor, 4))

        def scaled(module, args, output):
            parts = list(output)
            image = parts[block.record.image].clone()
            image[..., CHANNELS] *= factor
            parts[block.record.image] = image
            return tuple(parts)

        prediction = forward(**inputs)[0]
        uncond = name == "flux" and s > 1 and len(used) % 2 == 0  # the second of two calls in a step
        if uncond:
            return (prediction,)
        handle = block.module.register_forward_hook(scaled)
        weak = forward(**inputs)[0]
        handle.remove()
        rows = slice(len(prediction) // 2, None) if name == "sd3" and s > 1 else slice(None)
        guided = prediction.clone()
        guided[rows] += W / s * (prediction[rows] - weak[rows])
        return (guided,)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", by_hand)
        theirs = run(dit, "a", seed=1, guidance=dg.CFG(s), **tiny.CALL)[0]
    guider = dg.DetailGuidance(s, W, dg.Disrupt(CHANNELS, BLOCK, "scale", rho=rho))
    ours = run(dit, "a", seed=1, guidance=guider, **tiny.CALL)[0]
    plain = run(dit, "a", seed=1, guidance=dg.CFG(s), **tiny.CALL)[0]
    assert (rho == 1.5) == (len(set(used)) == 1)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max() and (ours - plain).abs().max() > 1e-2
    again = dg.DetailGuidance.from_config(guider.config)
    assert again.disrupt == guider.disrupt and again.disrupt.mode == "scale"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_product_is_in_the_streams_dtype(dtype):
    hidden = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    made = dg.Disrupt([3, 5], 0, "scale", rho=1.3)(hidden, Call.at(0.5))
    assert made.dtype == dtype and torch.equal(made[..., [0, 1, 2, 4, 6, 7]], hidden[..., [0, 1, 2, 4, 6, 7]])
    assert torch.equal(made[..., [3, 5]], (hidden[..., [3, 5]].float() * 1.3).to(dtype))
