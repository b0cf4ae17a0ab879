"""What the pipelines of further families do of their own: truncation, rescaling, sizes, padding; one of each."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import AutoencoderKLLTXVideo

import dg_tools as dg
from dg_tools import experiments
from dg_tools.generation.sampling import run

ABOUT = tiny.families()
CHANNELS, BLOCK, WEIGHT = [3, 7], 1, 0.8
OFF = dg.Disrupt(CHANNELS, BLOCK)


@pytest.fixture(scope="module")
def loaded():
    """Tiny DiTs by name, built on first use."""
    dits = {}

    def get(name):
        if name not in dits:
            dits[name] = dg.load(ABOUT[name].pipeline())
        return dits[name]

    return get


def called(dit, name, prompt="a red apple", **call):
    about = ABOUT[name]
    settings = {**about.SIZE, **about.CALL, **about.STOCK, **call}
    steps = settings.pop("steps")
    generator = torch.Generator().manual_seed(5)
    return dit.pipeline(prompt, num_inference_steps=steps, generator=generator, output_type="latent", **settings)[0]


def by_hand(dit, name, scales, **call):
    """The pipeline's call with w (c - d) added in the conditional calls; `scales`: of the sum at each of the steps."""
    forward, order = dit.transformer.forward, []
    module, tokens = dit.blocks[BLOCK].module, 8 * 12
    calls = [(s, branch) for s in scales for branch in ("cond", "uncond")[: 2 if s > 1 else 1]]

    def stand_in(*args, **kwargs):
        s, branch = calls[len(order)]
        order.append(branch)
        prediction = forward(*args, **kwargs)[0]
        if branch == "uncond":
            return (prediction,)
        handle = module.register_forward_hook(lambda m, a, o: ABOUT[name].zero(o, CHANNELS, tokens))
        degraded = forward(*args, **kwargs)[0]
        handle.remove()
        return (prediction + WEIGHT / s * (prediction - degraded),)

    dit.transformer.forward = stand_in
    try:
        made = called(dit, name, **call)
    finally:
        del dit.transformer.forward
    assert len(order) == len(calls)
    return made


@pytest.mark.parametrize(
    ("name", "scales", "call"),
    [
        ("lumina2", (3.0, 1.0, 1.0), {"cfg_normalization": False, "cfg_trunc_ratio": 0.5}),
        ("longcat_image", (3.0, 3.0, 3.0), {"enable_cfg_renorm": False}),
    ],
)
def test_guidance_where_the_pipeline_does_not_rescale(loaded, name, scales, call):
    """Its rescaling is off, and nothing is said of it; Lumina2 ends its CFG before the last step."""
    dit = loaded(name)
    theirs = by_hand(dit, name, scales, guidance_scale=3.0, **call)
    plain = called(dit, name, guidance_scale=3.0, **call)
    with dg.detail_guidance(dit.pipeline, dg.DetailGuidance(None, WEIGHT, OFF)) as guided:
        ours = called(dit, name, guidance_scale=3.0, **call)
    assert guided.report.guided == (0, 1, 2) and guided.report.notes == ()
    assert (ours - theirs).norm() < 1e-3 * (theirs - plain).norm()
    assert torch.equal(called(dit, name, guidance_scale=3.0, **call), plain)


def test_a_knob_is_not_told_of_detail_guidance(loaded):
    """What it gives is rescaled as without it; of Detail Guidance the size is lost, which its report says."""
    dit, about = loaded("longcat_image"), ABOUT["longcat_image"]
    call = {**about.SIZE, **about.CALL, "seed": 5}
    _, knob = run(dit, "apple", guidance=dg.DetailKnob(CHANNELS, BLOCK, rho=2.0, guidance_scale=3.0), **call)
    _, guided = run(dit, "apple", guidance=dg.DetailGuidance(3.0, WEIGHT, OFF), **call)
    assert knob.guided.notes == () and guided.guided.notes == (dit.family.rescaling,)


def test_texts_of_different_lengths_in_one_call(loaded):
    """Lumina2 puts a row's image tokens after its own text."""
    dit = loaded("lumina2")
    with pytest.raises(ValueError, match="have 29, 37 text tokens; .* one by one"), OFF.on(dit.pipeline):
        called(dit, "lumina2", ["an apple", "a yellow teapot."], guidance_scale=1.0)
    about = ABOUT["lumina2"]
    made = dg.generate(dit, ["an apple", "a yellow teapot."], progress=False, **about.SIZE, **about.CALL)
    assert len(made.images) == 2


def test_what_changes_the_guided_prediction_is_refused(loaded):
    dit = loaded("bria")
    for setting in ({"normalize": True}, {"clip_value": 2.0}):
        with pytest.raises(ValueError, match="given; with a guidance, family 'bria' needs"):
            with dg.detail_guidance(dit.pipeline, dg.DetailGuidance(None, WEIGHT, OFF)):
                called(dit, "bria", guidance_scale=3.0, **setting)


def test_sizes_that_the_pipeline_would_change(loaded):
    with pytest.raises(ValueError, match="32 x 48 requested; HiDreamImagePipeline would make 36 x 56: request"):
        loaded("hidream").size(32, 48)
    with pytest.raises(ValueError, match="128 x 256 requested; Kandinsky5T2IPipeline would make 128 x 192: request"):
        loaded("kandinsky5").size(128, 256)


@pytest.mark.parametrize("block", [1, 3])
def test_padding_belongs_to_no_stream(loaded, block):
    """HiDream pads the tokens of a picture that is not square: an edit leaves the padding, a capture leaves it out."""
    dit, about, seen = loaded("hidream"), ABOUT["hidream"], []
    image = lambda output: output[0] if isinstance(output, tuple) else output  # noqa: E731
    with dg.Disrupt(list(range(dit.width)), block).on(dit.pipeline):
        handle = dit.blocks[block].module.register_forward_hook(lambda m, a, o: seen.append(image(o)))
        called(dit, "hidream", guidance_scale=1.0)
        handle.remove()
    edited = seen[-1]
    assert edited.shape[1] >= 196 and (edited[:, :144] == 0).all() and (edited[:, 144:196] != 0).any()
    acts = dg.capture(dit, "apple", progress=False, **about.SIZE, **about.CALL).data
    tokens = acts["token_norm"].sel(stream="image").isel(site=block, step=0, prompt=0, seed=0, branch=0)
    assert int(tokens.notnull().sum()) == 144


@pytest.mark.parametrize("name", ["longcat_image", "krea2"])
def test_the_grid_of_the_picture(loaded, name):
    """From positions that begin elsewhere, or after those of the text: a region of another grid is refused."""
    dit, given = loaded(name), []
    hook = lambda module, args, kwargs: given.append(kwargs)  # noqa: E731
    handle = dit.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    called(dit, name, guidance_scale=1.0 - dit.family.scale_offset)
    handle.remove()
    assert dit.family.picture_grid(dit.transformer, given[0]) == dit.family.grid(dit.transformer, given[0]) == (8, 12)
    region = dit.tokens([(0, 0, 24, 16)], height=48, width=32)
    with pytest.raises(ValueError, match="12 x 8"), dg.Disrupt(CHANNELS, BLOCK, tokens=region).on(dit.pipeline):
        called(dit, name, guidance_scale=1.0 - dit.family.scale_offset)


def test_swaps_need_conditioning_by_row(loaded):
    """ERNIE-Image's blocks are given chunks by token."""
    with pytest.raises(ValueError, match="blocks that receive their conditioning per row; 'ernie-image' has none"):
        experiments.timestep(loaded("ernie_image"), ["apple", "owl"], channels=CHANNELS, block=BLOCK)


@pytest.mark.parametrize("half", [0, 1])
def test_each_half_of_the_chunks_goes_to_its_own_norm(loaded, half):
    """CogVideoX: the first half comes from `norm1`'s linear layer, the second from `norm2`'s."""
    dit = loaded("cogvideox")
    block = dit.blocks[BLOCK]
    linear = block.module.get_submodule(("norm1", "norm2")[half]).get_submodule("linear")

    def zeroed(chunks):
        first, second = chunks.clone().chunk(2, dim=1)
        return torch.cat([0 * first, second] if half == 0 else [first, 0 * second], dim=1)

    handle = linear.register_forward_hook(lambda module, args, output: 0 * output)
    expected = called(dit, "cogvideox", guidance_scale=3.0)
    handle.remove()
    handles = block.record.on_modulation(block.module, zeroed)
    made = called(dit, "cogvideox", guidance_scale=3.0)
    handles.remove()
    assert made.equal(expected)
    assert not made.equal(called(dit, "cogvideox", guidance_scale=3.0))


def test_a_vae_that_is_told_a_noise_level_decodes_at_zero():
    """LTX's newer VAE: the picture of the pipeline with `decode_timestep=0`, and not that of another level."""
    pipeline = ABOUT["ltx"].pipeline()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = {k: v for k, v in pipeline.vae.config.items() if not k.startswith("_")}
        pipeline.vae = tiny.enliven(AutoencoderKLLTXVideo(**{**config, "timestep_conditioning": True}))
    dit = dg.load(pipeline)
    latents = called(dit, "ltx")
    seen = dit.family.latents.unpack(pipeline, latents, **ABOUT["ltx"].SIZE)
    with torch.no_grad():
        own = dit.family.latents.decode(pipeline, seen)

    def stock(level):
        made = pipeline(
            "a red apple", num_inference_steps=3, generator=torch.Generator().manual_seed(5), output_type="pt",
            max_sequence_length=16, num_frames=1, decode_timestep=level, decode_noise_scale=0.0, **ABOUT["ltx"].SIZE,
        )[0]  # fmt: skip
        return made[:, 0]

    shown = (own / 2 + 0.5).clamp(0, 1)
    assert (shown - stock(0.0)).abs().max() < 1e-5
    assert (shown - stock(0.5)).abs().max() > 1e-3
