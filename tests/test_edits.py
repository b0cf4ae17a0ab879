"""Every mode of Disrupt changes what it names and nothing else, on every family, and leaves nothing behind."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.forward.call import Call
from dg_tools.generation.sampling import run
from dg_tools.interventions import CONTROLS, MODES, attached
from dg_tools.onestep import conditions, velocity

PROMPT, TWO = "a red apple", {**tiny.CALL, "steps": 2}
ALL = Call(0, 500.0, 0.5, "cond", slice(None), slice(0, 0))
BOTH = Call(1, 500.0, 0.5, "both", slice(1, 2), slice(0, 1))


def states(seed=0):
    x = torch.randn(2, 96, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[..., 3] += 20
    return x


def hook_count(transformer):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(m, kind)) for m in transformer.modules() for kind in kinds)


def own_attributes(transformer):
    """What stands on the modules themselves; a patched `forward` would show."""
    return [sorted(m.__dict__) for m in transformer.modules()]


def run_with(dit, hooks, guidance):
    """A run with hooks of the test's own: {module: function of the output}, at every call."""
    handles = [m.register_forward_hook(lambda m, i, o, f=f: f(o)) for m, f in hooks]
    try:
        return run(dit, PROMPT, seed=3, guidance=guidance, **TWO)[0]
    finally:
        for handle in handles:
            handle.remove()


def at_image(dit, block, change):
    """A hook function that changes the image stream of a block's output through plain tensor arithmetic."""
    at = dit.blocks[block].record.image
    return lambda output: tuple(change(x) if i == at else x for i, x in enumerate(output))


# -- arithmetic -------------------------------------------------------------------------------------------------------


def test_dc_takes_the_token_mean_and_nothing_else():
    x, rest = states(), [c for c in range(32) if c not in (3, 7)]
    y = dg.Disrupt([3, 7], 0, "dc")(x, BOTH)
    assert torch.equal(y[..., rest], x[..., rest])
    assert y[..., [3, 7]].mean(1).abs().max() < 1e-12
    assert torch.allclose(y.var(1), x.var(1))
    half = dg.Disrupt([3, 7], 0, "dc", strength=0.5)(x, BOTH)
    assert torch.allclose(half, (x + y) / 2)
    some = dg.Disrupt([3], 0, "dc", tokens=[4, 5, 90])(x, BOTH)
    assert some[:, [4, 5, 90], 3].mean(1).abs().max() < 1e-12
    assert (some != x).nonzero()[:, 1:].unique(dim=0).tolist() == [[4, 3], [5, 3], [90, 3]]


@pytest.mark.parametrize(("mode", "kind"), [("zero", "dc"), ("dc", "dc"), ("scale", "random")])
def test_controls_on_other_channels(mode, kind):
    x, off = states(), dg.Disrupt([3, 7], 0, mode, rho=0.5 if mode == "scale" else 0.0)
    drawn = set()
    for control in off.controls(6, kind):
        assert control.control and control.rho == 0
        y = control(x, BOTH)
        changed = (y != x).any(1).any(0).nonzero().flatten().tolist()
        assert len(changed) == 2 and not {3, 7} & set(changed)
        expected = x - x.mean(1, keepdim=True) if kind == "dc" else 0 * x
        assert torch.allclose(y[..., changed], expected[..., changed])
        drawn.add(tuple(changed))
    assert len(drawn) > 3
    assert off.controls(6, kind) == off.controls(6, kind)


def test_a_shift_for_scaling_has_the_norm_that_scaling_takes():
    x = states()
    for rho, lost in ((0.25, 0.75), (((0.0, 0.0), (1.0, 0.8)), 0.6)):
        scaled = dg.Disrupt([3, 7], 0, "scale", rho=rho)
        for kind in ("shift", "shift_direction"):
            control = scaled.controls(1, kind)[0]
            norm = (control(x, BOTH) - x).square().sum((1, 2)).sqrt()
            assert torch.allclose(norm, lost * x[..., [3, 7]].square().sum((1, 2)).sqrt(), rtol=1e-5)
            stronger = dg.Disrupt.from_json({**control.to_json(), "strength": ((0.0, 1.0), (1.0, 3.0))})
            assert torch.allclose((stronger(x, BOTH) - x).square().sum((1, 2)).sqrt(), 2 * norm, rtol=1e-5)


def test_rescale_is_what_zeroing_does_through_layernorm():
    x, channels = states(), [3, 7]
    rest = [c for c in range(32) if c not in channels]
    y = dg.Disrupt(channels, 0, "rescale")(x, BOTH)
    assert torch.equal(y[..., channels], x[..., channels])
    zeroed = x.clone()
    zeroed[..., channels] = 0
    norm = torch.nn.LayerNorm(32, eps=1e-6, elementwise_affine=False, dtype=torch.float64)
    # centred on the zeroed token's own mean, the other channels come out of LayerNorm larger by this much
    own = (
        norm(x)[..., rest]
        + (x.mean(-1, keepdim=True) - zeroed.mean(-1, keepdim=True))
        / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    )
    factor = norm(zeroed)[..., rest] / own
    assert torch.allclose(y[..., rest], x[..., rest] * factor, rtol=1e-9)
    assert factor.mean() > 3  # the planted channel holds most of the variance


# -- on models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_gate_is_zeroed_and_the_block_writes_nothing_there(dit, scale):
    guidance, channels = dg.CFG(scale), [3, 7]
    for block in (1, len(dit.blocks) - 1):  # a double and a single block on FLUX
        module, record = dit.blocks[block].module, dit.blocks[block].record
        linear, names = module.get_submodule(record.adaln), record.chunks(module)

        def closed(output, names=names):
            output = output.clone()
            for i, name in enumerate(names):
                if name.startswith("gate"):
                    output[:, [i * tiny.WIDTH + c for c in channels]] = 0
            return output

        expected = run_with(dit, [(linear, closed)], guidance)
        edit, seen = dg.Disrupt(channels, block, "gate"), []

        def look(module, args, kwargs, output, at=record.image, seen=seen):
            before = kwargs.get("hidden_states", args[0] if args else None)
            seen.append((output[at] - before).abs().amax((0, 1)))

        handle = module.register_forward_hook(look, with_kwargs=True)
        found, _ = run(dit, PROMPT, seed=3, edits=[edit], guidance=guidance, **TWO)
        handle.remove()
        assert torch.equal(found, expected)
        written = torch.stack(seen)
        assert written[:, channels].max() == 0 and (written > 0).sum(1).tolist() == [tiny.WIDTH - 2] * len(seen)
        assert not torch.equal(found, run_with(dit, [], guidance))


@pytest.mark.parametrize(("mode", "scale"), [("zero", 3.0), ("dc", 1.0), ("rescale", 3.0)])
def test_several_blocks_against_plain_hooks(dit, mode, scale):
    edit, blocks = dg.Disrupt([3, 7], [2, 0], mode), (0, 2)
    assert edit.block == 0 and edit.blocks == (0, 2)

    def change(x):
        x = x.clone()
        if mode == "rescale":
            without = x.clone()
            without[..., [3, 7]] = 0
            factor = ((x.var(-1, correction=0) + 1e-6) / (without.var(-1, correction=0) + 1e-6)).sqrt()
            others = [c for c in range(tiny.WIDTH) if c not in (3, 7)]
            x[..., others] = x[..., others] * factor[..., None]
            return x
        x[..., [3, 7]] -= x[..., [3, 7]] if mode == "zero" else x[..., [3, 7]].mean(1, keepdim=True)
        return x

    hooks = [(dit.blocks[b].module, at_image(dit, b, change)) for b in blocks]
    expected = run_with(dit, hooks, dg.CFG(scale))
    found, _ = run(dit, PROMPT, seed=3, edits=[edit], guidance=dg.CFG(scale), **TWO)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("edit", [
    dg.Disrupt([3, 7], [0, 2]), dg.Disrupt([3, 7], 1, "gate"), dg.Disrupt([3, 7], 1, norms="clean"),
], ids=["blocks", "gate", "clean"])  # fmt: skip
def test_detail_guidance_with_every_kind_of_disruption(dit, edit, caplog):
    """u + s (c - u) + w (c - d), one step, with d from a run of its own."""
    call, s, w = {**tiny.CALL, "steps": 1}, 3.0, 0.7

    def step(**settings):
        return run(dit, PROMPT, seed=5, **call, **settings)[0].double()

    c, d, guided = step(), step(edits=[edit]), step(guidance=dg.CFG(s))
    found = step(guidance=dg.DetailGuidance(s, w, edit))
    assert torch.allclose(found, guided + w * (c - d), atol=1e-4 * (c - d).abs().max().item() + 1e-5)
    assert (c - d).abs().max() > 1e-3
    assert ("the disrupted pass runs whole" in caplog.text) == (edit.why_whole is not None)


@pytest.mark.parametrize("edit", [
    dg.Disrupt([3, 7], [0, 2], norms="clean"), dg.Disrupt([3, 7], 2, "gate", rows="cond"),
], ids=["blocks clean", "gate"])  # fmt: skip
def test_nothing_is_left_behind_after_an_exception(dit, edit):
    before = hook_count(dit.transformer), own_attributes(dit.transformer)
    clean = run_with(dit, [], dg.CFG(3.0))
    calls = []

    def stop(module, inputs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("in the middle")

    handle = dit.transformer.get_submodule(dit.family.tail).register_forward_pre_hook(stop)
    with pytest.raises(KeyError, match="in the middle"):
        run(dit, PROMPT, seed=3, edits=[edit], guidance=dg.CFG(3.0), **TWO)
    handle.remove()
    assert (hook_count(dit.transformer), own_attributes(dit.transformer)) == before
    assert torch.equal(run_with(dit, [], dg.CFG(3.0)), clean)


def test_steps_and_rows_of_a_gate(dit):
    """Only this step and this half of classifier-free guidance, seen in what the block adds to its stream."""
    record, module, seen = dit.blocks[1].record, dit.blocks[1].module, []

    def look(module, args, kwargs, output):
        added = output[record.image] - kwargs.get("hidden_states", args[0] if args else None)
        seen.append((added[..., 4] == 0).all(1).tolist())

    handle = module.register_forward_hook(look, with_kwargs=True)
    with dg.Disrupt([4], 1, "gate", steps=[1], rows="cond").on(dit.pipeline):
        dit.pipeline(**dit.arguments(PROMPT, seed=0, **tiny.CALL, guidance_scale=3.0), output_type="latent")
    handle.remove()
    if dit.family.rows == "batched":
        assert seen == [[False, False], [False, True], [False, False]]
    else:
        assert seen == [[False], [False], [True], [False], [False], [False]]


def test_one_forward_without_a_pipeline(dit):
    """The modes in the one-step experiment: a Call for all forwards, batch of two."""
    prompts, size = ["apple", "a teapot"], (tiny.SIZE["height"], tiny.SIZE["width"])
    inputs = conditions(dit, prompts, *size, max_sequence_length=8)
    z = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    clean = velocity(dit, z, 0.5, inputs)
    made = {}
    for mode in ("zero", "mean", "dc", "rescale", "gate", "shift", "shift_direction", "random"):
        with attached(dit.transformer, dit.family, [dg.Disrupt([3, 7], 1, mode)], ALL):
            made[mode] = velocity(dit, z, 0.5, inputs)
    assert torch.equal(velocity(dit, z, 0.5, inputs), clean)
    assert all(not torch.equal(v, clean) for v in made.values())
    assert len({round(v.double().sum().item(), 6) for v in made.values()}) == len(made)


# -- words, JSON, errors ----------------------------------------------------------------------------------------------


def test_every_setting_is_said_and_survives_json():
    kinds = [kind for kind in CONTROLS if kind not in ("transport", "variance")]
    edits = [dg.Disrupt([3, 7], 1, mode) for mode in MODES if mode != "transport"]
    edits += [
        dg.Disrupt([3, 7], [4, 1, 2]),
        dg.Disrupt([3, 7], 1, "dc", strength=0.5),
        dg.Disrupt([3, 7], 1, "shift", strength=((0.2, 1.0), (0.8, 2.0))),
        dg.Disrupt([3, 7], 1, "shift", rho=0.5),
        dg.Disrupt([3, 7], 1, norms="clean"),
        dg.Disrupt([3, 7], 1, "gate", others=True, draw=4),
        dg.Disrupt([3, 7], 1, others=True, draw=5),
        dg.Disrupt([3, 7], 1, rows="cond"),
        dg.Disrupt([3, 7], 1, stream="text"),
        dg.Disrupt([3, 7], 1, tokens=[2, 9]),
        dg.Disrupt([3, 7], 1, tokens=[2, 8]),
        dg.Disrupt([3, 7], 1, steps=[0, 1]),
        *[c for kind in kinds for c in dg.Disrupt([3, 7], 1).controls(2, kind)],
    ]
    assert len({e.sentence() for e in edits}) == len(edits)
    assert [dg.Disrupt.from_json(e.to_json()) for e in edits] == edits
    said = str(dg.Disrupt([3, 7], [4, 1], "gate", others=True, draw=2, steps=[0], rows="cond", norms="clean"))
    assert said == (
        "zero the AdaLN gates of 2 channels other than 3, 7 in blocks 1, 4, image stream, steps 0, conditional rows, "
        "LayerNorm statistics of a clean pass (draw 2)"
    )
    assert str(dg.Disrupt([3], 0, "dc", strength=0.5)) == (
        "remove the token mean of channels 3 after block 0, image stream, strength 0.5"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "zero", "rho": 0.5}, "rho=0.5 goes with mode scale"),
        ({"mode": "dc", "rho": ((0.1, 0.2), (0.3, 0.4))}, "goes with mode scale"),
        ({"mode": "scale", "rho": ()}, "an empty schedule"),
        ({"mode": "zero", "strength": 2.0}, "strength=2.0 goes with mode shift"),
        ({"mode": "shift", "strength": -1.0}, "a factor above 0"),
        ({"mode": "shift", "others": True}, "others=True goes with mode"),
        ({"mode": "transport", "rows": "cond"}, "needs donor="),
        ({"norms": "frozen"}, "allowed: own, clean"),
        ({"norms": "clean", "mode": "rescale"}, "norms='clean' undoes mode='rescale'"),
        ({"norms": "clean", "stream": "text"}, "LayerNorms of the image stream"),
        ({"mode": "gate", "stream": "text"}, "no text gates"),
        ({"mode": "gate", "tokens": [1]}, "takes no tokens"),
        ({"block": [1, 1]}, "must be distinct"),
        ({"block": []}, "blocks is empty"),
        ({"block": 2, "blocks": [0, 1]}, "disagree"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(arguments, words):
    with pytest.raises(ValueError, match=words):
        dg.Disrupt(**{"channels": [3], "block": 0, **arguments})


def test_blocks_that_there_are_not(dit):
    for blocks in ([1, 9], [-1, 2]):
        with pytest.raises(IndexError, match=r"block -?\d requested; there are 0 to"):
            dg.generate(dit, PROMPT, edits=dg.Disrupt([3], blocks), progress=False, **tiny.CALL)
    with pytest.raises(ValueError, match="too few others"):
        dg.generate(dit, PROMPT, edits=dg.Disrupt(range(20), 1, "dc", others=True), progress=False, **tiny.CALL)
    with pytest.raises(RuntimeError, match="touched nothing"):
        call = Call(None, 500.0, 0.5, "uncond", slice(0, 0), slice(0, 2))
        with attached(dit.transformer, dit.family, [dg.Disrupt([3], 1, "gate", rows="cond")], call):
            pass
    with pytest.raises(ValueError, match="not on hidden states"):
        dg.Disrupt([3], 1, "gate")(states(), ALL)


@pytest.mark.parametrize("mode", ["dc", "mean", "rescale", "shift"])
def test_the_text_stream_in_the_new_modes(dits, mode):
    x = torch.randn(1, 20, tiny.WIDTH, generator=torch.Generator().manual_seed(2))
    edit = dg.Disrupt([1], 0, mode, stream="text")
    for name in ("sd3", "flux"):
        record = dits(name).blocks[0].record
        output = [torch.zeros(1, 96, tiny.WIDTH)] * 2
        output[record.text] = x
        made = edit.edit(tuple(output), record, ALL)
        assert torch.equal(made[record.image], output[record.image]) and torch.equal(made[record.text], edit(x, ALL))
        assert not torch.equal(made[record.text], x)
