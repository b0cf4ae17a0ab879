"""The rivals of 2025 against their formulas written by hand: a Fourier series, hooks, a softmax, loops over tokens."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from test_baselines import BLOCK, CALL, GRID, PROMPT, W, state
from test_uncond_rows import PIPES, S, block_rows, blocks_of, call, close

import dg_tools as dg
from dg_tools.generation.sampling import run
from dg_tools.guidance.baselines import FDG, NAG, FreSca, S2Guidance, SLGUncond, SoftPAG
from dg_tools.guidance.baselines.frequency import high_pass
from dg_tools.models.pictures import on_grid

CUTOFF = 0.2


@pytest.fixture(scope="module")
def pipes():
    made = {}
    return lambda name: made[name] if name in made else made.setdefault(name, PIPES[name]())


def near(ours, theirs, most=1e-4):
    assert (ours - theirs).abs().max() / theirs.abs().max() < most


# -- CFG by band ------------------------------------------------------------------------------------------------------


def fine(x):
    """The high band of fields (C, h, w), by the sums of a Fourier series."""
    h, w = x.shape[-2:]
    down, across = (np.exp(-2j * np.pi * np.outer(range(n), range(n)) / n) for n in (h, w))
    series = down @ x @ across
    for i in range(h):
        for j in range(w):
            if (min(i, h - i) / h) ** 2 + (min(j, w - j) / w) ** 2 < CUTOFF**2:
                series[..., i, j] = 0
    return (down.conj() @ series @ across.conj()).real / (h * w)


def fresca_by_hand(c, u, z, sigma):
    d = c - u
    return u + 3.0 * (0.9 * (d - fine(d)) + 1.4 * fine(d))


def fdg_by_hand(c, u, z, sigma):
    made = 0
    c0, u0 = z - sigma * c, z - sigma * u
    for scale, band in ((3.0, lambda x: x - fine(x)), (5.0, fine)):
        shift, own = band(c0) - band(u0), band(c0)
        along = (shift * own).sum() / (own * own).sum() * own
        made = made + band(u0) + scale * (shift - along + 0.3 * along)
    return (z - made) / sigma


def fields(dit, x):
    """(C, h, w) of one picture's latents; FLUX.1's tokens are 2 x 2 latent pixels of 4 channels."""
    x = x.double().numpy()
    if dit.family.name == "sd3":
        return x[0]
    return x.reshape(*GRID, 4, 2, 2).transpose(2, 0, 3, 1, 4).reshape(4, 16, 24)


def layout(dit, field):
    if dit.family.name == "sd3":
        return torch.tensor(field).float()[None]
    return torch.tensor(field.reshape(4, 8, 2, 12, 2).transpose(1, 3, 0, 2, 4).reshape(1, 96, 16)).float()


@pytest.mark.parametrize("kind", ["FreSca", "FDG"])
def test_cfg_by_band_equals_the_papers(dit, kind):
    guider = {
        "FreSca": FreSca(3.0, high=1.4, low=0.9, cutoff=CUTOFF),
        "FDG": FDG(3.0, high=5.0, parallel=0.3, cutoff=CUTOFF),
    }[kind]
    formula = {"FreSca": fresca_by_hand, "FDG": fdg_by_hand}[kind]
    original, kept, s = dit.transformer.forward, {}, 3.0

    def forward(*args, **kwargs):
        out = original(*args, **kwargs)[0]
        level = float(kwargs["timestep"].flatten()[0]) / dit.family.timestep_scale
        z = kwargs["hidden_states"]
        if dit.family.rows == "batched":
            u, c = out[:1], out[1:]
            made = layout(dit, formula(fields(dit, c), fields(dit, u), fields(dit, z[:1]), level))
            return (torch.cat([u, u + (made - u) / s]),)
        if kwargs["encoder_hidden_states"] is kept.setdefault("text", kwargs["encoder_hidden_states"]):
            kept["c"] = out
            return (out,)
        made = layout(dit, formula(fields(dit, kept["c"]), fields(dit, out), fields(dit, z), level))
        return ((s * kept["c"] - made) / (s - 1),)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", forward)
        theirs, base = run(dit, PROMPT, guidance=dg.CFG(s), **CALL)
    ours, count = run(dit, PROMPT, guidance=guider, **CALL)
    near(ours, theirs)
    assert (count.forwards, count.block_calls) == (base.forwards, base.block_calls), "no pass more than CFG takes"
    plain = run(dit, PROMPT, guidance=dg.CFG(s), **CALL)[0]
    assert (ours - plain).abs().max() / plain.abs().max() > 1e-3
    neutral = {"FreSca": FreSca(s, high=1.0), "FDG": FDG(s, high=s)}[kind]
    near(run(dit, PROMPT, guidance=neutral, **CALL)[0], plain)


def test_tokens_of_reference_pictures_and_the_mean_are_left_as_they_are(dits):
    dit, x = dits("flux"), torch.randn(2, 96 + 20, 16, generator=torch.Generator().manual_seed(0))
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(8.0), torch.arange(12.0))
    inputs = {"hidden_states": x, "img_ids": torch.cat([places, torch.ones(20, 3)])}
    seen = []
    made = on_grid(dit, inputs, x, lambda field: seen.append(field.shape) or 2 * field)
    assert torch.equal(made[:, :96], 2 * x[:, :96]) and torch.equal(made[:, 96:], x[:, 96:])
    assert seen == [(2, 4, 16, 24)]
    with pytest.raises(ValueError, match="do not say where the image tokens lie"):
        on_grid(dit, {**inputs, "img_ids": None}, x, lambda field: field)
    flat = torch.full((1, 4, 6, 8), 3.0)
    assert high_pass(flat, 1e-3).abs().max() < 1e-5
    assert FreSca(2.0, high=1.5).scales == (2.0, 3.0) and FDG(2.0).scales == (2.0, 4.0)
    assert FreSca(2.0).words(2.0) == ["FreSca 2 to 2.5"] and FDG(2.0).words(2.0) == ["FDG 2 to 4"]


@pytest.mark.parametrize("name", ["qwen", "wan"])
def test_cfg_by_band_carries_to_other_layouts(pipes, name):
    """Two bands at one scale are CFG, in whatever layout the tokens lie; at two scales they are not."""
    pipe = pipes(name)
    plain, price = block_rows(pipe, lambda: call(pipe, name))
    for guider, same in ((FDG(None, high=S), True), (FreSca(None, high=2.0), False)):
        with dg.detail_guidance(pipe, guider) as made:
            ours, paid = block_rows(pipe, lambda: call(pipe, name))
        assert paid == price and made.report.finished
        assert ((ours - plain).abs().max() < 1e-4 * plain.abs().max()) == same


# -- skipped blocks ---------------------------------------------------------------------------------------------------


@contextmanager
def passing(pipe, indices, rows=slice(None)):
    """Plain hooks: these blocks give what they are given, in some rows."""

    def keep(module, args, kwargs, output):
        if isinstance(output, torch.Tensor):
            output = output.clone()
            output[rows] = (args[0] if args else kwargs["hidden_states"])[rows]
            return output
        made = [x.clone() for x in output]
        for x, name in zip(made, ("encoder_hidden_states", "hidden_states"), strict=True):
            x[rows] = kwargs[name][rows]
        return tuple(made)

    with ExitStack() as stack:
        for i in indices:
            handle = blocks_of(pipe.transformer)[i].register_forward_hook(keep, with_kwargs=True)
            stack.callback(handle.remove)
        yield


@pytest.mark.parametrize("name", PIPES)
def test_blocks_are_missing_in_the_unconditional_pass_alone(pipes, name):
    pipe, count, forward, skips = pipes(name), [0], None, [1] if name == "flux" else [0, 1]
    plain, price = block_rows(pipe, lambda: call(pipe, name))
    with dg.detail_guidance(pipe, SLGUncond(None, blocks=skips, start=0.25)) as made:
        ours, paid = block_rows(pipe, lambda: call(pipe, name))
    forward, sequential = pipe.transformer.forward, name != "sd3"

    def stand_in(**inputs):
        step, second = divmod(count[0], 2 if sequential else 1)
        count[0] += 1
        if step == 0 or (sequential and not second):
            return (forward(**inputs)[0],)
        with passing(pipe, skips):
            other = forward(**inputs)[0]
        return (other,) if sequential else (torch.cat([other[:1], forward(**inputs)[0][1:]]),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.transformer, "forward", stand_in)
        theirs = call(pipe, name)
    close(ours, theirs, plain)
    assert price - paid == (3 * len(skips) if sequential else 0), "where it is a call of its own, the blocks do not run"
    assert made.report.guided == (1, 2, 3) and made.report.finished
    assert torch.equal(call(pipe, name), plain), "nothing is left"


def test_the_last_block_of_sd3_has_no_text_to_pass_on(dits):
    dit = dits("sd35-medium")
    made = dg.generate(dit, "a", guidance=SLGUncond(S, blocks=len(dit.blocks) - 1), progress=False, **tiny.CALL)
    assert made.settings[0]["guidance"] == "CFG 3 + SLG uncond" and made.forwards == [6]


def test_other_blocks_are_dropped_in_each_step_and_never_the_first():
    guider = S2Guidance(share=0.1, seed=3)
    draws = [guider.dropped(24, step) for step in range(200)]
    assert all(len(set(draw)) == 2 and draw == sorted(draw) for draw in draws)
    assert {i for draw in draws for i in draw} == set(range(1, 24)) and len({*map(tuple, draws)}) > 100
    assert draws == [S2Guidance(share=0.1, seed=3).dropped(24, step) for step in range(200)]
    assert draws != [S2Guidance(share=0.1, seed=4).dropped(24, step) for step in range(200)]
    assert S2Guidance(share=0.9).dropped(2, 0) == [1] and len(S2Guidance(share=0.01).dropped(57, 0)) == 1


@pytest.mark.parametrize("s", [1.0, S])
def test_s2_guides_away_from_the_model_without_the_blocks_of_the_step(dit, s):
    steps = {**CALL, "steps": 4}
    guider = S2Guidance(s, W, share=0.4, seed=5, window=(0.25, 1.0))
    plain, base = run(dit, PROMPT, guidance=dg.CFG(s), **steps)
    original, calls, seen = dit.transformer.forward, [0], {}

    def forward(*args, **kwargs):
        out = original(*args, **kwargs)[0].clone()
        if dit.family.rows == "batched":
            step, cond = calls[0], slice(len(out) // 2, None) if s > 1 else slice(None)
        else:
            step = calls[0] // (2 if s > 1 else 1)
            text = kwargs["encoder_hidden_states"]
            cond = slice(None) if text is seen.setdefault("cond", text) else slice(0, 0)
        calls[0] += 1
        if step == 0 or not len(out[cond]):
            return (out,)
        with ExitStack() as stack:
            for b in guider.dropped(len(dit.blocks), step):
                through = lambda m, a, k, o: (k["encoder_hidden_states"], k["hidden_states"])  # noqa: E731
                handle = dit.blocks[b].module.register_forward_hook(through, with_kwargs=True)
                stack.callback(handle.remove)
            worse = original(*args, **kwargs)[0][cond]
        out[cond] += W / s * (out[cond] - worse)
        return (out,)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", forward)
        theirs, _ = run(dit, PROMPT, guidance=dg.CFG(s), **steps)
    ours, count = run(dit, PROMPT, guidance=guider, **steps)
    near(ours, theirs)
    k = len(dit.blocks)
    price = sum(k - drop[0] - len(drop) for drop in (guider.dropped(k, step) for step in (1, 2, 3)))
    assert (count.forwards - base.forwards, count.block_calls - base.block_calls) == (3, price)
    assert (ours - plain).abs().max() / plain.abs().max() > 1e-3


# -- attention --------------------------------------------------------------------------------------------------------


@contextmanager
def attention(product):
    """Torch's attention, everywhere, is `product(map, value)` with a softmax by hand; maps (rows, heads, n, n)."""

    def by_hand(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **others):
        assert attn_mask is None and not is_causal
        return product((query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1), value)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(F, "scaled_dot_product_attention", by_hand)
        yield


@pytest.mark.parametrize("heads", [None, [(1, 1), (BLOCK, 0)]])
def test_maps_of_some_heads_are_mixed_with_the_identity(dit, heads):
    mix, inside = 0.4, []
    guider = SoftPAG(1.0, W, blocks=[1, BLOCK], mix=mix, heads=heads)
    original = dit.transformer.forward

    def product(maps, value):
        if inside:
            for head in range(maps.shape[1]):
                if heads is None or (inside[0], head) in heads:
                    maps[:, head] = (1 - mix) * maps[:, head] + mix * torch.eye(maps.shape[-1])
        return maps @ value

    def forward(*args, **kwargs):
        out = original(*args, **kwargs)[0]
        with attention(product), ExitStack() as stack:
            for b in (1, BLOCK):
                block = dit.blocks[b].module
                before = block.register_forward_pre_hook(lambda *_, b=b: inside.append(b))
                stack.callback(before.remove)
                stack.callback(block.register_forward_hook(lambda *_: inside.clear()).remove)
            worse = original(*args, **kwargs)[0]
        return (out + W * (out - worse),)

    plain, base = run(dit, PROMPT, **CALL)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", forward)
        theirs, _ = run(dit, PROMPT, **CALL)
    ours, count = run(dit, PROMPT, guidance=guider, **CALL)
    near(ours, theirs)
    assert (ours - plain).abs().max() / plain.abs().max() > 1e-3
    assert count.forwards == 2 * base.forwards and count.block_calls - base.block_calls == 2 * (len(dit.blocks) - 1)


PHI, TAU, ALPHA, NEGATIVE = 6.0, 1.02, 0.8, "zzz 9"


def negative_text(dit):
    if dit.family.name == "sd3":
        words = {"prompt": NEGATIVE, "prompt_2": NEGATIVE, "prompt_3": NEGATIVE, "do_classifier_free_guidance": False}
    else:
        words = {"prompt": NEGATIVE, "prompt_2": NEGATIVE}
    return dit.pipeline.encode_prompt(**words, max_sequence_length=8)[0]


@pytest.mark.parametrize("s", [1.0, S])
def test_nag_goes_away_from_a_negative_prompt_inside_attention(dit, s):
    guider = NAG(s, phi=PHI, tau=TAU, alpha=ALPHA, negative_prompt=NEGATIVE, start=0.5)
    plain, base = run(dit, PROMPT, guidance=dg.CFG(s), **CALL)
    text, n, bounded, calls, seen = negative_text(dit), GRID[0] * GRID[1], [], [0], {}
    original = dit.transformer.forward

    def product(maps, value):
        out = maps @ value  # (2, heads, tokens, channels): the prompt's row, then the negative one's
        if out.shape[2] == n:
            return out
        first = 0 if dit.family.name == "sd3" else out.shape[2] - n
        for token in range(first, first + n):
            own, other = out[0, :, token].flatten(), out[1, :, token].flatten()
            far = (1 + PHI) * own - PHI * other
            ratio = far.abs().sum() / own.abs().sum()
            bounded.append(bool(ratio > TAU))
            far = far * TAU / ratio if ratio > TAU else far
            out[:, :, token] = (ALPHA * far + (1 - ALPHA) * own).view(out.shape[1], -1)
        return out

    def forward(**kwargs):
        batched = dit.family.rows == "batched"
        step = calls[0] // (1 if batched or s == 1 else 2)
        calls[0] += 1
        if step == 0 or (
            not batched
            and kwargs["encoder_hidden_states"] is not seen.setdefault(step, kwargs["encoder_hidden_states"])
        ):
            return (original(**kwargs)[0],)
        own = {k: v[-1:] if k in dit.family.row_inputs and torch.is_tensor(v) else v for k, v in kwargs.items()}
        two = {k: torch.cat([v, v]) if k in dit.family.row_inputs and torch.is_tensor(v) else v for k, v in own.items()}
        two["encoder_hidden_states"] = torch.cat([own["encoder_hidden_states"], text])
        with attention(product):
            made = original(**two)[0]
        assert torch.allclose(made[0], made[1], atol=1e-4 * made.abs().max()), "one picture for both prompts"
        rows = original(**kwargs)[0].clone()
        rows[-1] = made[0]
        return (rows,)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", forward)
        theirs, _ = run(dit, PROMPT, guidance=dg.CFG(s), **CALL)
    ours, count = run(dit, PROMPT, guidance=guider, **CALL)
    near(ours, theirs)
    assert any(bounded) and not all(bounded) and (ours - plain).abs().max() / plain.abs().max() > 1e-3
    assert (ours - theirs).abs().max() < 0.01 * (theirs - plain).abs().max()
    assert count.forwards - base.forwards == 1, "one row more in the step that is guided"
    off = run(dit, PROMPT, guidance=guider.new(phi=0.0), **CALL)
    assert torch.equal(off[0], plain) and off[1].forwards == base.forwards


def test_nag_in_a_call_of_the_readers_own_with_edits_and_several_prompts(dits):
    dit, guider = dits("flux"), NAG(phi=2.0, negative_prompt="b")
    edit = dg.Disrupt([3, 7], 1, rows="cond")
    words = ["a red apple", "a tree"]
    both, _ = run(dit, words, seed=[1, 2], guidance=guider, edits=[edit], **CALL)
    for i in range(2):
        near(both[i : i + 1], run(dit, words[i], seed=[1, 2][i], guidance=guider, edits=[edit], **CALL)[0])
    clean = run(dit, words[0], seed=1, guidance=guider, **CALL)[0]
    assert not torch.allclose(both[:1], clean, rtol=1e-2)
    settings = {**tiny.SIZE, "num_inference_steps": 2, "output_type": "latent"}
    with dg.detail_guidance(dit.pipeline, guider) as made:
        own = dit.pipeline(words[0], generator=torch.Generator().manual_seed(1), **settings).images
    assert made.report.guided == (0, 1) and own.shape == clean.shape
    with pytest.raises(ValueError, match="the negative prompt has 512 text tokens, the prompt 8"):
        with dg.detail_guidance(dit.pipeline, guider):
            dit.pipeline(words[0], max_sequence_length=8, **settings)


# -- all of them ------------------------------------------------------------------------------------------------------


MADE = {
    "FreSca": lambda: FreSca(S, high=1.3, low=0.9, cutoff=0.2),
    "FDG": lambda: FDG(S, high=6.0, parallel=0.5),
    "S2": lambda: S2Guidance(S, 0.5, share=0.3, seed=2),
    "SLG uncond": lambda: SLGUncond(S, blocks=[1, 2], stop=0.9),
    "SoftPAG": lambda: SoftPAG(S, 0.5, blocks=[1, 2], mix=0.3, heads=[(1, 0), (2, 1)]),
    "NAG": lambda: NAG(S, phi=2.0, tau=3.0, negative_prompt="blurry"),
}


@pytest.mark.parametrize("name", MADE)
def test_settings_are_kept_and_changed(name, tmp_path):
    guider = MADE[name]()
    guider.save_pretrained(tmp_path)
    for again in (type(guider).from_pretrained(tmp_path), guider.new()):
        assert again.config == guider.config and len(again.config) > 4
    assert guider.new(stop=0.5).stop == 0.5


@pytest.mark.parametrize("name", MADE)
def test_nothing_is_left_after_an_exception(dits, name):
    dit, calls = dits("sd35-medium"), []
    plain, before = run(dit, PROMPT, guidance=dg.CFG(S), **CALL)[0], state(dit)

    def fails(module, inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    handle = dit.blocks[-1].module.register_forward_pre_hook(fails)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(dit, PROMPT, guidance=MADE[name](), **{**CALL, "steps": 4})
    finally:
        handle.remove()
    assert state(dit) == before and torch.equal(run(dit, PROMPT, guidance=dg.CFG(S), **CALL)[0], plain)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FreSca(3.0, high=-1.0), "high=-1.0; a factor"),
        (lambda: FreSca(1.0), "FreSca at CFG scale 1"),
        (lambda: FDG(3.0, high=0.5), "high=0.5; the CFG scale"),
        (lambda: FDG(3.0, parallel=2.0), "parallel=2.0; a factor, 0 to 1"),
        (lambda: FDG(3.0, cutoff=0.7), "cutoff=0.7; in cycles"),
        (lambda: S2Guidance(3.0, share=1.0), "share=1.0; a share of the blocks"),
        (lambda: S2Guidance(3.0, -0.5), "w is at least 0"),
        (lambda: SLGUncond(3.0, blocks=[1, 1]), "at least one block, and each once"),
        (lambda: SLGUncond(1.0, blocks=[1]), "no unconditional pass"),
        (lambda: SoftPAG(3.0, blocks=1, mix=0.0), "mix=0.0; the share"),
        (lambda: SoftPAG(3.0, blocks=1, heads=[(2, 0)]), "pairs, at least one for each of the blocks"),
        (lambda: NAG(phi=-1.0), "phi=-1.0, tau=2.5"),
        (lambda: NAG(alpha=1.5), "alpha=1.5; phi is at least 0, tau more than 0, and alpha in 0..1"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_a_model_cannot_have_is_an_error_before_the_first_forward(dits):
    dit = dits("sd3")
    handle = dit.blocks[0].module.register_forward_pre_hook(lambda *_: pytest.fail("a block ran before the error"))
    try:
        for error, words, guider in (
            (IndexError, "there are 0 to 3", SLGUncond(S, blocks=9)),
            (IndexError, "head 5 of block 1; there are 0 to 1", SoftPAG(S, blocks=1, heads=[(1, 5)])),
            (ValueError, "no unconditional pass", SLGUncond(blocks=1)),
            (ValueError, "no step of 3 lies in the window", NAG(start=0.9)),
        ):
            with pytest.raises(error, match=words):
                dg.generate(dit, PROMPT, guidance=guider, progress=False, **tiny.CALL)
    finally:
        handle.remove()
    pixart = dg.load(tiny.families()["pixart"].pipeline())
    for guider in (FreSca(S), SoftPAG(S, blocks=1), NAG()):
        with pytest.raises(ValueError, match=r"family 'pixart'"):
            guider.check(pixart)
