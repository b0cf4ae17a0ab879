"""Every baseline against a degraded prediction made without it: hooks, a processor by hand, arguments of diffusers."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import diffusers.models.transformers.transformer_flux as flux_code
import numpy as np
import pytest
import tiny
import torch
from diffusers import guiders
from diffusers.guiders import AdaptiveProjectedGuidance
from diffusers.hooks import LayerSkipConfig
from scipy.ndimage import gaussian_filter

import dg_tools as dg
from dg_tools.generation.sampling import run
from dg_tools.guidance.baselines import APG, PAG, SEG, SLG, AutoGuidance, Blurred, CFGZeroStar
from dg_tools.guidance.baselines.registry import BASELINES

W, BLOCK = 0.8, 2  # FLUX.1's third block is its first single one
GRID = (8, 12)  # image tokens
CALL = {**tiny.CALL, "steps": 2}
PROMPT = "a red apple"


def make(name: str, s: float, **changes):
    made = {
        "PAG": lambda: PAG(s, W, blocks=[1, BLOCK]),
        "SLG": lambda: SLG(s, W, blocks=[1, BLOCK]),
        "SEG": lambda: SEG(s, W, blocks=[1, BLOCK], sigma=0.8),
        "SEG, endless": lambda: SEG(s, W, blocks=[1, BLOCK]),
        "auto": lambda: AutoGuidance(s, W, noise=0.3, seed=4),
        "blur": lambda: Blurred(s, W, sigma=0.9),
    }[name]()
    return made.new(**changes) if changes else made


NAMES = ["PAG", "SLG", "SEG", "SEG, endless", "auto", "blur"]
CALLS = {"PAG": lambda k: k - 1, "SLG": lambda k: k - 3, "SEG": lambda k: k - 1, "SEG, endless": lambda k: k - 1}
CALLS |= {"auto": lambda k: k, "blur": lambda k: 0}


# -- the registry -----------------------------------------------------------------------------------------------------


def test_the_registry_is_read_without_torch():
    code = (
        "import sys; from dg_tools.guidance.baselines.registry import BASELINES, RIVALS; "
        "assert list(BASELINES) == ['CFG', *RIVALS] and not {'torch', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", BASELINES)
def test_the_registry_says_what_each_class_takes(name):
    row = BASELINES[name]
    assert name == "CFG" or (getattr(dg.baselines, name) is row.guidance and name in dg.baselines.__all__)
    assert name in dg.baselines.__doc__
    takes = {k: p.default for k, p in inspect.signature(row.guidance).parameters.items()}
    assert takes.items() >= row.settings.items()
    assert row.weighted == issubclass(row.guidance, dg.baselines.Perturbed)
    assert row.in_blocks == ("blocks" in takes) and row.weak_model == ("weak_model" in takes)
    assert row.any_family == (getattr(row.guidance, "layouts", None) is None)
    guider = row.guider(3.0, W, blocks=[1, BLOCK], window=(0.0, 0.5), **row.settings)
    assert guider.guidance_scale == 3.0 and isinstance(guider, row.guidance)
    if row.weighted:
        assert guider.weight == W and guider.window == [0.0, 0.5]
    if row.in_blocks:
        assert guider.blocks == [1, BLOCK]
        with pytest.raises(ValueError, match="needs blocks="):
            row.guider(3.0, W)


# -- degraded predictions by hand ------------------------------------------------------------------------------------


class ByHand:
    """SD3's attention written out, with its softmax, image places apart."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        norm = lambda layer, x: x if layer is None else layer(x)  # noqa: E731
        q, k, v = (split(f(hidden_states)) for f in (attn.to_q, attn.to_k, attn.to_v))
        q, k, image = norm(attn.norm_q, q), norm(attn.norm_k, k), hidden_states.shape[1]
        if encoder_hidden_states is not None:
            words = (split(f(encoder_hidden_states)) for f in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
            tq, tk, tv = words
            q = torch.cat([q, norm(attn.norm_added_q, tq)], 2)
            k = torch.cat([k, norm(attn.norm_added_k, tk)], 2)
            v = torch.cat([v, tv], 2)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        for place in range(image):
            others = [i for i in range(image) if i != place]
            logits[:, :, place, others] = -1e9
        out = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return attn.to_out[0](out)
        text = out[:, image:]
        return attn.to_out[0](out[:, :image]), text if attn.context_pre_only else attn.to_add_out(text)


def attentions(dit):
    for b in (1, BLOCK):
        yield from (a for n in ("attn", "attn2") if (a := getattr(dit.blocks[b].module, n, None)) is not None)


@contextmanager
def identity(dit):
    """Image-image attention at the identity."""
    n = GRID[0] * GRID[1]
    with ExitStack() as stack:
        for attn in attentions(dit):
            if dit.family.name == "sd3":
                stack.callback(setattr, attn, "processor", attn.processor)
                attn.processor = ByHand()
            else:  # FLUX.1's own mask: text before the image

                def masked(module, args, kwargs):
                    text = kwargs.get("encoder_hidden_states")
                    count = kwargs["hidden_states"].shape[1] + (0 if text is None else text.shape[1])
                    mask = torch.zeros(count, count)
                    mask[-n:, -n:] = float("-inf")
                    mask.fill_diagonal_(0)
                    return args, {**kwargs, "attention_mask": mask}

                stack.callback(attn.register_forward_pre_hook(masked, with_kwargs=True).remove)
        yield


@contextmanager
def skipped(dit):
    """Two blocks give on what they are given."""
    through = lambda module, args, kwargs, out: (kwargs["encoder_hidden_states"], kwargs["hidden_states"])  # noqa: E731
    with ExitStack() as stack:
        for b in (1, BLOCK):
            hook = dit.blocks[b].module.register_forward_hook(through, with_kwargs=True)
            stack.callback(hook.remove)
        yield


def smoothed(x: torch.Tensor, sigma) -> torch.Tensor:
    """Queries (..., tokens, channels) of the image, blurred by scipy."""
    field = x.unflatten(-2, GRID)
    if sigma is None:
        made = field.mean((-3, -2), keepdim=True).expand_as(field)
    else:
        axes = (0,) * (field.ndim - 3) + (sigma, sigma, 0)
        made = torch.tensor(gaussian_filter(field.numpy(), axes, mode="mirror", truncate=3.0))
    return made.flatten(-3, -2)


@contextmanager
def blurred(dit, sigma):
    """Image queries blurred: after their norm, and in FLUX.1 after the rotary positions."""
    n = GRID[0] * GRID[1]
    with ExitStack() as stack:
        if dit.family.name == "flux":
            inside: list[int] = []
            product = flux_code.dispatch_attention_fn

            def dispatch(query, *args, **kwargs):
                if inside:
                    image = smoothed(query[:, -n:].transpose(1, 2), sigma).transpose(1, 2)
                    query = torch.cat([query[:, :-n], image], 1)
                return product(query, *args, **kwargs)

            stack.enter_context(pytest.MonkeyPatch.context()).setattr(flux_code, "dispatch_attention_fn", dispatch)
            for attn in attentions(dit):
                stack.callback(attn.register_forward_pre_hook(lambda *a: inside.append(1)).remove)
                stack.callback(attn.register_forward_hook(lambda *a: inside.clear()).remove)
        else:
            for attn in attentions(dit):
                last = attn.to_q if attn.norm_q is None else attn.norm_q
                stack.callback(last.register_forward_hook(lambda m, a, out: smoothed(out, sigma)).remove)
        yield


@contextmanager
def noised(dit):
    """Weights replaced by others."""
    kept = {k: v.clone() for k, v in dit.transformer.state_dict().items()}
    chance = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in dit.transformer.parameters():
            if p.ndim > 1:
                p += torch.randn(p.shape, generator=chance) * 0.3 * p.std()
    try:
        yield
    finally:
        dit.transformer.load_state_dict(kept)


def blurred_velocity(dit, z, sigma, c):
    """The velocity of x0 blurred, by scipy; FLUX.1's tokens are 2 x 2 latent pixels of 4 channels."""

    def field(x):
        if dit.family.name == "sd3":
            return x.numpy()
        return x.view(-1, *GRID, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 16, 24).numpy()

    z_, c_ = field(z), field(c)
    x0 = z_ - sigma * c_
    made = torch.tensor((z_ - gaussian_filter(x0, (0, 0, 0.9, 0.9), mode="nearest")) / sigma)
    if dit.family.name == "sd3":
        return made
    return made.view(-1, 4, GRID[0], 2, GRID[1], 2).permute(0, 2, 4, 1, 3, 5).reshape(c.shape)


BY_HAND = {
    "PAG": identity,
    "SLG": skipped,
    "SEG": lambda dit: blurred(dit, 0.8),
    "SEG, endless": lambda dit: blurred(dit, None),
    "auto": noised,
}


@contextmanager
def by_itself(dit, name: str, s: float, worst: list):
    """The transformer's own forward, replaced by one that adds (w / s) (c - worse) to the conditional rows."""
    transformer, original = dit.transformer, dit.transformer.forward
    seen: dict[str, object] = {}

    def forward(*args, **kwargs):
        out = original(*args, **kwargs)[0].clone()
        if dit.family.rows == "batched":
            cond = slice(len(out) // 2, None) if s > 1 else slice(None)
        else:
            text = kwargs["encoder_hidden_states"]
            cond = slice(None) if text is seen.setdefault("cond", text) else slice(0, 0)
        if not len(out[cond]):
            return (out,)
        if name == "blur":
            level = float(kwargs["timestep"].flatten()[0]) / dit.family.timestep_scale
            worse = blurred_velocity(dit, kwargs["hidden_states"][cond], level, out[cond])
        else:
            with BY_HAND[name](dit):
                worse = original(*args, **kwargs)[0][cond]
        worst.append(float((worse - out[cond]).norm() / out[cond].norm()))
        out[cond] += W / s * (out[cond] - worse)
        return (out,)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transformer, "forward", forward)
        yield


def state(dit) -> list:
    """What a guidance could leave: forwards, hooks, lists of blocks, processors, weights."""
    parts = [*dit.transformer.modules()]
    left = [(id(m), "forward" in m.__dict__, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in parts]
    left += [id(getattr(m, "processor", None)) for m in parts]
    return left + [p.data_ptr() for p in dit.transformer.parameters()]


@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_degraded_prediction_by_hand_and_is_gone_afterwards(dit, name, s):
    before, worst = state(dit), []
    plain, base = run(dit, PROMPT, guidance=dg.CFG(s), **CALL)
    with torch.no_grad(), by_itself(dit, name, s, worst):
        theirs, _ = run(dit, PROMPT, guidance=dg.CFG(s), **CALL)
    ours, count = run(dit, PROMPT, guidance=make(name, s), **CALL)
    assert len(worst) == 2 and min(worst) > 1e-3  # the perturbed pass differs
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4
    assert (ours - plain).abs().max() / plain.abs().max() > 1e-3
    assert count.block_calls - base.block_calls == 2 * CALLS[name](len(dit.blocks))
    assert state(dit) == before and torch.equal(run(dit, PROMPT, guidance=dg.CFG(s), **CALL)[0], plain)
    assert torch.equal(run(dit, PROMPT, guidance=make(name, s, weight=0.0), **CALL)[0], plain)


def test_slg_is_stability_ais_own_in_the_sd3_pipeline(dits):
    dit = dits("sd35-medium")
    call = {"prompt": PROMPT, **tiny.SIZE, "num_inference_steps": 4, "max_sequence_length": 8, "guidance_scale": 3.0}
    theirs = dit.pipeline(
        generator=torch.Generator().manual_seed(0), output_type="latent", skip_guidance_layers=[1, BLOCK],
        skip_layer_guidance_scale=W, skip_layer_guidance_start=0.1, skip_layer_guidance_stop=0.75, **call,
    ).images  # fmt: skip
    guider = SLG(3.0, W, blocks=[1, BLOCK], window=(0.25, 0.75))  # theirs: more than 0.4, less than 3 of 4 steps
    ours, _ = run(dit, PROMPT, guidance=guider, **{**CALL, "steps": 4})
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["PAG", "SLG", "SEG", "auto"])
def test_nothing_is_left_after_an_exception_in_the_perturbed_pass(dit, name):
    before, calls = state(dit), []
    plain, _ = run(dit, PROMPT, guidance=dg.CFG(3.0), **CALL)

    def fails(module, inputs):
        calls.append(1)
        if len(calls) == 2:  # the first is the clean pass
            raise KeyboardInterrupt

    last = dit.blocks[-1].module
    handle = last.register_forward_pre_hook(fails)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(dit, PROMPT, guidance=make(name, 3.0), **CALL)
    finally:
        handle.remove()
    assert state(dit) == before and torch.equal(run(dit, PROMPT, guidance=dg.CFG(3.0), **CALL)[0], plain)


@pytest.mark.parametrize("name", ["sd35-medium", "flux"])
def test_edits_windows_and_contexts(dits, name):
    dit = dits(name)
    edit, guider = dg.Disrupt([3, 7], 0), PAG(3.0, W, blocks=BLOCK)
    ours, _ = run(dit, PROMPT, edits=[edit], guidance=guider, **CALL)
    with dg.detail_guidance(dit.pipeline, guider, way="whole"):
        whole, _ = run(dit, PROMPT, edits=[edit], guidance=dg.CFG(3.0), **CALL)
    assert (ours - whole).abs().max() / whole.abs().max() < 1e-4  # the edit acts before the kept output, once
    assert not torch.allclose(ours, run(dit, PROMPT, guidance=guider, **CALL)[0], rtol=1e-2)
    late = guider.new(window=[0.5, 1.0])
    k = len(dit.blocks)
    assert run(dit, PROMPT, guidance=late, **CALL)[1].block_calls == 2 * 2 * k + k - BLOCK
    assert late.blocks == [BLOCK] and late.weight == W


@pytest.mark.parametrize(
    "guider", [SEG(3.0, W, blocks=[1, 2], sigma=0.7), APG(3.0, eta=0.2), AutoGuidance(2.0, seed=3)]
)
def test_settings_are_kept(guider, tmp_path):
    guider.save_pretrained(tmp_path)
    again = type(guider).from_pretrained(tmp_path)
    assert len(again.config) > 4 and all(guider.config[k] == v for k, v in again.config.items())


def test_a_smaller_model_is_called_and_counted(dits):
    dit, weak = dits("sd3"), copy.deepcopy(dits("sd3").transformer)
    weak.transformer_blocks = weak.transformer_blocks[1:]
    latents, count = run(dit, PROMPT, guidance=AutoGuidance(1.0, W, weak_model=weak), **CALL)
    same, _ = run(dit, PROMPT, guidance=SLG(1.0, W, blocks=0), **CALL)
    assert (latents - same).abs().max() / same.abs().max() < 1e-5 and count.block_calls == 2 * (4 + 3)


# -- c and u combined otherwise ---------------------------------------------------------------------------------------


def apg_by_hand(c, u, z, sigma, s, eta, norm):
    """The paper's algorithm 1 on predicted pictures, in numpy, one picture."""
    c0, u0 = (z - sigma * v for v in (c, u))
    push = c0 - u0
    push = push * min(1.0, norm / np.linalg.norm(push))
    unit = c0 / np.linalg.norm(c0)
    along = (push * unit).sum() * unit
    return (z - (c0 + (s - 1) * (push - along + eta * along))) / sigma


def zero_star_by_hand(c, u, z, sigma, s, eta, norm):
    return (a := (c * u).sum() / (u * u).sum() * u) + s * (c - a)


@pytest.mark.parametrize("kind", ["APG", "CFG-Zero*"])
def test_combinations_equal_the_papers(dit, kind):
    s, eta, norm = 3.0, 0.3, 4.0
    guider = APG(s, eta=eta, norm=norm) if kind == "APG" else CFGZeroStar(s, zero_steps=0)
    formula = apg_by_hand if kind == "APG" else zero_star_by_hand
    original, kept = dit.transformer.forward, {}

    def forward(*args, **kwargs):
        out = original(*args, **kwargs)[0]
        level = float(kwargs["timestep"].flatten()[0]) / dit.family.timestep_scale
        z = kwargs["hidden_states"].double().numpy()
        if dit.family.rows == "batched":
            u, c = out.double().numpy()
            made = formula(c, u, z[0], level, s, eta, norm)
            return (torch.stack([out[0], torch.tensor(u + (made - u) / s).float()]),)
        text = kwargs["encoder_hidden_states"]
        if text is kept.setdefault("text", text):
            kept["c"] = out.double().numpy()[0]
            return (out,)
        made = formula(kept["c"], out.double().numpy()[0], z[0], level, s, eta, norm)
        return (torch.tensor((s * kept["c"] - made) / (s - 1)).float()[None],)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", forward)
        theirs, base = run(dit, PROMPT, guidance=dg.CFG(s), **CALL)
    ours, count = run(dit, PROMPT, guidance=guider, **CALL)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4
    assert count.block_calls == base.block_calls
    assert not torch.allclose(ours, run(dit, PROMPT, guidance=dg.CFG(s), **CALL)[0], rtol=1e-2)


def test_combinations_at_their_neutral_settings_are_cfg(dit):
    plain = run(dit, PROMPT, guidance=dg.CFG(3.0), **CALL)[0]
    neutral = run(dit, PROMPT, guidance=APG(3.0, eta=1.0), **CALL)[0]
    assert (neutral - plain).abs().max() / plain.abs().max() < 1e-4
    half = CFGZeroStar(3.0, zero_steps=1)
    first: list[torch.Tensor] = []

    def after(pipeline, step, timestep, tensors):
        first.append(tensors["latents"])
        return tensors

    run(dit, PROMPT, guidance=half, callback_on_step_end=after, **CALL)
    noise = dit.arguments(PROMPT, **CALL)["generator"]
    start = torch.randn(first[0].numel(), generator=noise)
    assert torch.allclose(first[0].norm(), start.norm(), rtol=1e-5)  # step 0 moved nothing


def test_apg_is_diffusers_on_pictures_and_forgets_between_runs(dits):
    dit = dits("sd3")
    guider = APG(3.0, eta=0.2, norm=4.0, momentum=-0.5)
    from dg_tools.guidance.base import Seen

    theirs = AdaptiveProjectedGuidance(2.0, -0.5, 4.0, eta=0.2, use_original_formulation=True)
    chance = torch.Generator().manual_seed(0)
    for step, sigma in enumerate((1.0, 0.6)):
        z, c, u = torch.randn(3, 2, 4, 6, 8, generator=chance)
        theirs.set_state(step, 2, torch.tensor(0))
        theirs.prepare_inputs({})
        guider.seen = Seen(z, sigma, step, 2)
        expected = theirs.forward(z - sigma * c, z - sigma * u).pred
        assert torch.allclose(z - sigma * guider.forward(c, u).pred, expected, atol=1e-4)
    once = run(dit, PROMPT, guidance=guider, **CALL)[0]
    assert torch.equal(run(dit, PROMPT, guidance=guider, **CALL)[0], once)
    with dg.detail_guidance(dit.pipeline, guider):  # two runs of one context
        for _ in range(2):
            assert torch.allclose(run(dit, PROMPT, guidance=dg.CFG(3.0), **CALL)[0], once, atol=1e-5)


@pytest.mark.parametrize("name", ["sd35-medium", "flux"])
@pytest.mark.parametrize(
    "guider", [make("PAG", 3.0), make("SEG", 3.0), make("blur", 3.0), APG(3.0, norm=4.0, momentum=-0.4)]
)
def test_a_batch_gives_each_its_own(dits, name, guider):
    words, seeds = ["a red apple", "a tree"], [1, 2]
    both, _ = run(dits(name), words, seed=seeds, guidance=guider, **CALL)
    for i in range(2):
        alone, _ = run(dits(name), words[i], seed=seeds[i], guidance=guider, **CALL)
        assert (both[i] - alone[0]).abs().max() / alone.abs().max() < 1e-4


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_before_any_forward(dits):
    dit = dits("sd3")
    for message, build in (
        ("w is at least 0", lambda: PAG(3.0, -1.0, blocks=1)),
        ("at least 1", lambda: SLG(0.5, 1.0, blocks=1)),
        ("at least one block, and each once", lambda: SLG(3.0, 1.0, blocks=[])),
        ("at least one block, and each once", lambda: SEG(3.0, 1.0, blocks=[1, 1])),
        ("outside 0..1", lambda: PAG(3.0, 1.0, blocks=1, window=(0.5, 0.2))),
        ("image tokens", lambda: SEG(3.0, 1.0, blocks=1, sigma=0.0)),
        ("latent pixels", lambda: Blurred(3.0, 1.0, sigma=-1.0)),
        ("more than 0", lambda: AutoGuidance(3.0, 1.0, noise=0.0)),
        ("above 1", lambda: APG(1.0)),
        ("0 to 1", lambda: APG(3.0, eta=2.0)),
        ("left out is at least 0", lambda: CFGZeroStar(3.0, zero_steps=-1)),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    for message, guider in (
        ("no step of 2", PAG(3.0, 1.0, blocks=1, window=(0.6, 0.9))),
        ("model itself", AutoGuidance(3.0, 1.0, weak_model=dit.transformer)),
        ("weak_model is a Linear", AutoGuidance(3.0, 1.0, weak_model=torch.nn.Linear(2, 2))),
        ("no step is left", CFGZeroStar(3.0, zero_steps=2)),
        ("above 1", APG()),
    ):
        with pytest.raises(ValueError, match=message):
            dg.generate(dit, PROMPT, guidance=guider, progress=False, **CALL)
    with pytest.raises(IndexError, match="there are 0 to 3"):
        dg.generate(dit, PROMPT, guidance=PAG(3.0, 1.0, blocks=9), progress=False, **CALL)
    with pytest.raises(RuntimeError, match="modular pipeline takes"):
        PAG(3.0, 1.0, blocks=1).prepare_models(dit.transformer)


def test_a_family_without_the_layout_is_refused():
    dit = dg.load(tiny.families()["pixart"].pipeline())
    for guider in (PAG(3.0, blocks=1), SLG(3.0, blocks=1), SEG(3.0, blocks=1), Blurred(3.0), APG(3.0)):
        with pytest.raises(ValueError, match=r"family 'pixart'"):
            guider.check(dit)
    AutoGuidance(3.0).check(dit)


# -- why not diffusers' own -------------------------------------------------------------------------------------------


def by_guider(guider, steps: int = 4) -> dict[str, torch.Tensor]:
    """The passes of step 1, as a modular pipeline runs them, on a model that may be spoilt."""
    dit = dg.load(tiny.sd3())
    caught: list[dict] = []
    handle = dit.transformer.register_forward_pre_hook(lambda m, a, k: caught.append(k), with_kwargs=True)
    run(dit, PROMPT, guidance=dg.CFG(3.0), **{**CALL, "steps": 1})
    handle.remove()
    given = {k: v for k, v in caught[0].items() if k in dit.family.row_inputs}
    guider.set_state(step=1, num_inference_steps=steps, timestep=torch.tensor(500.0))
    made = {}
    for batch in guider.prepare_inputs({k: (v[1:], v[:1]) for k, v in given.items()}):
        inputs = {k: getattr(batch, k) for k in given}
        guider.prepare_models(dit.transformer)
        made[batch.__guidance_identifier__] = dit.transformer(**inputs, return_dict=False)[0]
        guider.cleanup_models(dit.transformer)
    return made


@torch.no_grad()
def test_diffusers_guiders_fail_on_sd3_as_the_table_says():
    """When one of these works, diffusers has mended it: use it, and drop ours."""
    skip = {"indices": [1], "fqn": "transformer_blocks"}
    scores = LayerSkipConfig(**skip, skip_attention=False, skip_attention_scores=True, skip_ff=False)
    always = {"perturbed_guidance_start": 0.0, "perturbed_guidance_stop": 1.0}
    with pytest.raises(ValueError, match="not registered"):
        by_guider(guiders.PerturbedAttentionGuidance(3.0, **always, perturbed_guidance_config=scores))
    always = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    swapped = "normalized_shape|must match|size"  # text goes where the image belongs
    with pytest.raises(RuntimeError, match=swapped):
        by_guider(guiders.SkipLayerGuidance(3.0, **always, skip_layer_config=LayerSkipConfig(**skip)))
    with pytest.raises(RuntimeError, match=swapped):
        by_guider(guiders.AutoGuidance(3.0, auto_guidance_config=LayerSkipConfig(**skip)))
    made = by_guider(guiders.SmoothedEnergyGuidance(3.0, seg_guidance_layers=[1]))
    assert torch.equal(made["pred_cond_seg"], made["pred_cond"])  # no hook was ever set
