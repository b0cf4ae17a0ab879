"""norms="clean": every image-stream LayerNorm after the edit uses the clean pass's statistics, checked by hand."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.forward.call import Call
from dg_tools.generation.sampling import run
from dg_tools.interventions import attached
from dg_tools.onestep import conditions, velocity

ALL = Call(0, 500.0, 0.5, "cond", slice(None), slice(0, 0))
BLOCK, CHANNELS = 0, [3, 7]
SIZE = (tiny.SIZE["height"], tiny.SIZE["width"])


def image_layernorms(dit):
    """The LayerNorms by name, written out for the two layouts: after block 0, image stream."""
    found = {}
    for name, module in dit.transformer.named_modules():
        after = not name.startswith(("transformer_blocks.0.", "time", "context"))
        if type(module).__name__.endswith("LayerNorm") and after and "context" not in name and "attn" not in name:
            found[name] = module
    return found


def moments(x):
    return x.mean(-1, keepdim=True), (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()


def step(dit, batch=2):
    inputs = conditions(dit, ["apple", "a teapot"][:batch], *SIZE, max_sequence_length=8)
    return torch.randn(batch, 4, 16, 24, generator=torch.Generator().manual_seed(1)), inputs


def zeroed(dit, output):
    at = dit.blocks[BLOCK].record.image
    changed = output[at].clone()
    changed[..., CHANNELS] = 0
    return tuple(changed if i == at else x for i, x in enumerate(output))


def test_against_a_clean_pass_recorded_by_hand(dit):
    """Two passes and plain hooks: record mean and deviation, then zero the channels and normalise with these."""
    z, inputs = step(dit)
    norms = image_layernorms(dit)
    blocks = len(dit.blocks)
    singles = sum(b.name.startswith("single") for b in dit.blocks)
    assert len(norms) == 2 * (blocks - singles - 1) + singles + 1
    clean, handles = {}, []
    for module in norms.values():
        handles.append(module.register_forward_hook(lambda m, i, o: clean.update({m: i[0]})))
    velocity(dit, z, 0.5, inputs)
    [h.remove() for h in handles]

    def frozen(module, inputs, output):
        reference, tokens = clean[module][:, -96:], inputs[0][:, -96:]  # 8 x 12 image tokens, after the text
        mean, deviation = (
            reference.mean(-1, keepdim=True),
            (reference.var(-1, correction=0, keepdim=True) + 1e-6).sqrt(),
        )
        return torch.cat([output[:, :-96], (tokens - mean) / deviation], dim=1)

    handles = [m.register_forward_hook(frozen) for m in norms.values()]
    handles.append(dit.blocks[BLOCK].module.register_forward_hook(lambda m, i, o: zeroed(dit, o)))
    by_hand = velocity(dit, z, 0.5, inputs)
    [h.remove() for h in handles]
    with attached(dit.transformer, dit.family, [dg.Disrupt(CHANNELS, BLOCK, norms="clean")], ALL):
        found = velocity(dit, z, 0.5, inputs)
    assert torch.allclose(found, by_hand, atol=2e-5 * by_hand.abs().max().item())
    with attached(dit.transformer, dit.family, [dg.Disrupt(CHANNELS, BLOCK)], ALL):
        own = velocity(dit, z, 0.5, inputs)
    assert (own - found).abs().max() > 1e-3 * found.abs().max()


def test_each_layernorm_used_the_clean_statistics(dit):
    """Seen from outside: what a LayerNorm gave, times the clean deviation plus the clean mean, is what it was given."""
    z, inputs = step(dit)
    norms, clean, after = image_layernorms(dit), {}, {}
    with attached(dit.transformer, dit.family, [dg.Disrupt(CHANNELS, BLOCK, norms="clean")], ALL):
        # registered after ours: the clean pass comes first, and what it gave is kept
        handles = [
            m.register_forward_hook(lambda m, i, o: (after if m in clean else clean).update({m: (i[0], o)}))
            for m in norms.values()
        ]
        velocity(dit, z, 0.5, inputs)
        [h.remove() for h in handles]
    assert set(after) == set(norms.values())
    for module, (given, made) in after.items():
        reference = clean[module][0][:, -96:]
        mean, deviation = (
            reference.mean(-1, keepdim=True),
            (reference.var(-1, correction=0, keepdim=True) + 1e-6).sqrt(),
        )
        assert torch.allclose(made[:, -96:] * deviation + mean, given[:, -96:], atol=1e-3)
        text = torch.nn.functional.layer_norm(given[:, :-96], given.shape[-1:], eps=1e-6)
        assert torch.allclose(made[:, :-96], text, atol=1e-5)  # FLUX's joint LayerNorm keeps the text's own


def test_other_rows_and_steps_stay_bit_equal(dit):
    z, inputs = step(dit)
    clean = velocity(dit, z, 0.5, inputs)
    second = Call(0, 500.0, 0.5, "both", slice(1, 2), slice(0, 1))
    with attached(dit.transformer, dit.family, [dg.Disrupt(CHANNELS, BLOCK, rows="cond", norms="clean")], second):
        found = velocity(dit, z, 0.5, inputs)
    assert torch.equal(found[0], clean[0]) and not torch.equal(found[1], clean[1])
    calls = []
    edit = dg.Disrupt(CHANNELS, BLOCK, steps=[1], norms="clean")
    handle = dit.blocks[0].module.register_forward_hook(lambda *a: calls.append(1))
    _, count = run(dit, "apple", seed=1, edits=[edit], guidance=dg.CFG(3.0), **tiny.CALL)
    handle.remove()
    halves = 1 if dit.family.rows == "batched" else 2
    assert len(calls) == (3 + 1) * halves and count.forwards == 2 * (3 + 1)  # the clean pass is counted


def test_a_channel_without_weight_in_the_statistics_is_not_missed():
    """In float64, an edit that changes no LayerNorm statistics gives the same with either setting."""
    dit = dg.load(tiny.sd3())
    dit.transformer.double()
    x = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = {k: v.double() if hasattr(v, "double") else v for k, v in step(dg.load(tiny.sd3()), 1)[1].items()}
    made = []
    for norms in ("own", "clean"):
        with attached(dit.transformer, dit.family, [dg.Disrupt([3], 0, "scale", rho=1.0, norms=norms)], ALL):
            made.append(velocity(dit, x, 0.5, inputs))
    assert (made[0] - made[1]).abs().max() < 1e-11 * made[0].abs().max()


def test_an_exception_in_the_clean_pass_leaves_nothing(dits):
    dit = dits("flux")
    z, inputs = step(dit)
    expected = velocity(dit, z, 0.5, inputs)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in dit.transformer.modules())

    def stop(*args):
        raise KeyError("in the clean pass")

    handle = dit.blocks[3].module.register_forward_pre_hook(stop)
    with pytest.raises(KeyError, match="clean pass"):
        with attached(dit.transformer, dit.family, [dg.Disrupt(CHANNELS, BLOCK, norms="clean")], ALL):
            velocity(dit, z, 0.5, inputs)
    handle.remove()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in dit.transformer.modules()) == hooks
    assert torch.equal(velocity(dit, z, 0.5, inputs), expected)


def test_beside_detail_guidance(dit):
    """An edit with clean statistics in every pass, while Detail Guidance disrupts another block: by hand, one step."""
    edit, off, call = dg.Disrupt([5], 0, norms="clean"), dg.Disrupt([3], 1), {**tiny.CALL, "steps": 1}

    def made(edits, **settings):
        return run(dit, "apple", seed=5, edits=edits, **call, **settings)[0].double()

    c, d, guided = made([edit]), made([edit, off]), made([edit], guidance=dg.CFG(3.0))
    found = made([edit], guidance=dg.DetailGuidance(3.0, 0.7, off))
    # the clean pass of the disrupted forward lacks the edit and has the disruption, as in the run of d
    assert torch.allclose(found, guided + 0.7 * (c - d), atol=1e-4 * (c - d).abs().max().item() + 1e-5)
