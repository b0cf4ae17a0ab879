"""Generation against the stock pipelines, and guidance against a loop written by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.forward.fork import reads_any_rows
from dg_tools.generation.sampling import run

PROMPT = "a red apple"


def stock(dit, s: float = 1.0, **kwargs):
    """The pipeline's own call, with nothing of ours on it."""
    arguments = {"prompt": PROMPT, **tiny.SIZE, "num_inference_steps": 3, "max_sequence_length": 8, **kwargs}
    arguments[dit.family.guidance_argument] = s
    if s > 1:
        arguments["negative_prompt"] = ""
    return dit.pipeline(generator=torch.Generator().manual_seed(5), **arguments).images


def disrupting(record, channels):
    """An independent edit by a plain hook."""

    def hook(module, inputs, output):
        parts = list(output)
        parts[record.image] = parts[record.image].clone()
        parts[record.image][..., channels] = 0
        return tuple(parts)

    return hook


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_off_is_bit_equal_to_the_stock_pipeline(dit, s):
    off = dg.Disrupt([3, 7], 1)
    plain = stock(dit, s, output_type="latent")
    for guidance in (dg.CFG(s) if s > 1 else None, dg.DetailGuidance(s, 0.0, off), dg.DetailGuidance(s)):
        latents, _ = run(dit, PROMPT, seed=5, guidance=guidance, **tiny.CALL)
        assert torch.equal(latents, plain)
    for way in ("fork", "partial", "whole"):
        with dg.detail_guidance(dit.pipeline, dg.DetailGuidance(s, 0.0, off), force=True, way=way):
            assert torch.equal(stock(dit, s, output_type="latent"), plain)
    image = dg.generate(dit, PROMPT, seed=5, guidance=dg.DetailGuidance(s), progress=False, **tiny.CALL).images[0]
    assert np.array_equal(np.array(image), np.array(stock(dit, s)[0]))


@torch.no_grad()
def conditional(dit, latents, timestep):
    """The conditional prediction, by a call of the transformer."""
    pipeline, level = dit.pipeline, timestep.reshape(1) * dit.family.timestep_scale / 1000.0
    if dit.family.name == "sd3":
        embeds, _, pooled, _ = pipeline.encode_prompt(
            PROMPT, None, None, do_classifier_free_guidance=False, max_sequence_length=8
        )
        return dit.transformer(latents, embeds, pooled, level, return_dict=False)[0]
    embeds, pooled, ids = pipeline.encode_prompt(PROMPT, None, max_sequence_length=8)
    places = pipeline._prepare_latent_image_ids(1, 8, 12, "cpu", torch.float32)
    guidance = torch.tensor([3.5]) if dit.transformer.config.guidance_embeds else None
    return dit.transformer(
        latents, embeds, pooled, level, img_ids=places, txt_ids=ids, guidance=guidance, return_dict=False
    )[0]


def loop(dit, s: float, w: float, off: dg.Disrupt) -> torch.Tensor:
    """Detail Guidance written out: three calls of the transformer a step, plain hooks, an Euler step by hand."""
    pipeline, sd3 = dit.pipeline, dit.family.name == "sd3"
    height, width = tiny.SIZE["height"], tiny.SIZE["width"]
    noise = torch.Generator().manual_seed(5)

    def text(prompt):
        if sd3:
            embeds, _, pooled, _ = pipeline.encode_prompt(
                prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=8
            )
            return {"encoder_hidden_states": embeds, "pooled_projections": pooled}
        embeds, pooled, ids = pipeline.encode_prompt(prompt, None, max_sequence_length=8)
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled, "txt_ids": ids}

    cond, uncond, extra = text(PROMPT), text(""), {}
    if sd3:
        latents = torch.randn(1, 4, height // 2, width // 2, generator=noise)
    else:
        latents, ids = pipeline.prepare_latents(1, 4, height, width, torch.float32, torch.device("cpu"), noise)
        extra["img_ids"] = ids
        if dit.transformer.config.guidance_embeds:
            extra["guidance"] = torch.tensor([3.5])
    # both pipelines ask for sigmas from 1 to 1/n; the scheduler then shifts them
    sigmas = np.linspace(1.0, 1 / 3, 3)
    shift = pipeline.scheduler.config.shift
    if sd3:
        lowest = shift * 0.001 / (1 + (shift - 1) * 0.001)
        sigmas = np.linspace(1.0, lowest, 3)
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float32)

    def predict(sigma, text):
        level = torch.full((1,), float(sigma)) * dit.family.timestep_scale
        return dit.transformer(hidden_states=latents, timestep=level, **text, **extra, return_dict=False)[0]

    block = dit.blocks[off.block]
    with torch.no_grad():
        for now, after in pairwise(sigmas):
            c, u = predict(now, cond), predict(now, uncond)
            handle = block.module.register_forward_hook(disrupting(block.record, list(off.channels)))
            d = predict(now, cond)
            handle.remove()
            latents = latents + (after - now) * (c + (s - 1) * (c - u) + w * (c - d))
    return latents


@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("block", [0, 3])
def test_guidance_equals_a_loop_by_hand(dit, s, block):
    off = dg.Disrupt([3, 7], block)
    ours, count = run(dit, PROMPT, seed=5, guidance=dg.DetailGuidance(s, 0.8, off), **tiny.CALL)
    theirs = loop(dit, s, 0.8, off)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4
    plain, _ = run(dit, PROMPT, seed=5, guidance=dg.CFG(s) if s > 1 else None, **tiny.CALL)
    assert (ours - plain).abs().max() / plain.abs().max() > 1e-3
    assert count.forwards == 3 * (3 if s > 1 else 2)
    blocks, rows = len(dit.blocks), 2 if s > 1 else 1
    assert count.block_calls == 3 * (rows * blocks + blocks - block - 1)  # only what comes after the disrupted block


def test_edits_equal_a_plain_hook(dit):
    for block in range(len(dit.blocks)):
        record = dit.blocks[block].record
        handle = dit.blocks[block].module.register_forward_hook(disrupting(record, [2]))
        theirs = stock(dit, 3.0, output_type="latent")
        handle.remove()
        ours, _ = run(dit, PROMPT, seed=5, edits=[dg.Disrupt([2], block)], guidance=dg.CFG(3.0), **tiny.CALL)
        assert torch.equal(ours, theirs)
        with dg.Disrupt([2], block).on(dit.pipeline):
            assert torch.equal(stock(dit, 3.0, output_type="latent"), theirs)


def test_variants_share_noise_and_order(dits):
    dit = dits("sd3")
    off = dg.Disrupt([3], 1)
    made = dg.generate(
        dit,
        ["apple", "tree"],
        seed=[0, 1],
        edits=[None, off],
        guidance=[None, dg.CFG(2.0)],
        progress=False,
        **tiny.CALL,
    )
    assert len(made.images) == 16 and made.latents.shape == (16, 4, 16, 24)
    assert [s["guidance"] for s in made.settings[:4]] == ["cond", "CFG 2", "cond", "CFG 2"]
    alone = dg.generate(dit, "tree", seed=1, edits=off, guidance=dg.CFG(2.0), progress=False, **tiny.CALL)
    assert torch.equal(alone.latents[0], made.latents[-1])
    assert made.forwards[:2] == [3, 6]
    assert len(made.grid().axes) == 16


def test_guidance_window(dits):
    dit, off = dits("sd3"), dg.Disrupt([3], 1)
    half = dg.DetailGuidance(1.0, 1.0, off, detail_guidance_stop=0.5)
    _, count = run(dit, PROMPT, seed=5, guidance=half, **{**tiny.CALL, "steps": 4})
    assert count.forwards == 6  # 4 conditional, 2 disrupted: steps 0 and 1
    with pytest.raises(ValueError, match="no step of 2 lies in"):
        late = dg.DetailGuidance(1.0, 1.0, off, detail_guidance_start=0.6)
        run(dit, PROMPT, seed=5, guidance=late, **{**tiny.CALL, "steps": 2})


def test_guider_settings_round_trip(tmp_path):
    guider = dg.DetailGuidance(3.0, 0.5, dg.Disrupt([3, 4], 2, rows="cond"), detail_guidance_stop=0.8)
    guider.save_pretrained(tmp_path)
    again = dg.DetailGuidance.from_pretrained(tmp_path)
    assert again.disrupt == guider.disrupt and again.detail_guidance_stop == 0.8
    assert guider.new(detail_guidance_scale=1.0).detail_guidance_scale == 1.0
    for bad in (
        {"guidance_scale": 0.5},
        {"detail_guidance_scale": 1.0},
        {"detail_guidance_start": 0.5, "detail_guidance_stop": 0.5},
    ):
        with pytest.raises(ValueError):
            dg.DetailGuidance(**bad)


def test_cfg_is_diffusers_own_and_says_nothing(tmp_path, caplog):
    guider = dg.CFG(3.0, guidance_rescale=0.2)
    assert not caplog.records
    guider.save_pretrained(tmp_path)
    again = dg.CFG.from_pretrained(tmp_path)
    assert (again.guidance_scale, again.guidance_rescale) == (3.0, 0.2) and not caplog.records
    c, u = torch.randn(2, 1, 4, 8, 8)
    assert torch.equal(dg.CFG(3.0).forward(c, u).pred, u + 3.0 * (c - u))


def test_every_setting_of_cfg_is_honoured(dit):
    """A window, a rescale, the other formulation, enabled: as DetailGuidance with w = 0 has them."""
    plain, _ = run(dit, PROMPT, seed=5, guidance=dg.CFG(3.0), **tiny.CALL)
    for settings in ({"stop": 0.5}, {"start": 0.4}, {"guidance_rescale": 0.7}):
        ours, count = run(dit, PROMPT, seed=5, guidance=dg.CFG(3.0, **settings), **tiny.CALL)
        theirs, same = run(dit, PROMPT, seed=5, guidance=dg.DetailGuidance(3.0, **settings), **tiny.CALL)
        assert torch.equal(ours, theirs) and not torch.equal(ours, plain) and count == same
        assert count.forwards == {"stop": 5, "start": 4, "guidance_rescale": 6}[next(iter(settings))]
    other, _ = run(dit, PROMPT, seed=5, guidance=dg.CFG(2.0, use_original_formulation=True), **tiny.CALL)
    assert torch.equal(other, plain)
    off, count = run(dit, PROMPT, seed=5, guidance=dg.CFG(3.0, enabled=False), **tiny.CALL)
    assert torch.equal(off, run(dit, PROMPT, seed=5, **tiny.CALL)[0]) and count.forwards == 3


def test_the_formula():
    c, u, d = torch.randn(3, 1, 4, 8, 8)
    off = dg.Disrupt([3], 1)
    assert torch.equal(dg.DetailGuidance(1.0, 0.5, off).forward(c, None, d).pred, c + 0.5 * (c - d))
    both = dg.DetailGuidance(3.0, 0.5, off).forward(c, u, d).pred
    assert torch.allclose(both, c + 2.0 * (c - u) + 0.5 * (c - d), atol=1e-6)
    rescaled = dg.DetailGuidance(3.0, 0.5, off, guidance_rescale=1.0).forward(c, u, d).pred
    assert rescaled.std().item() == pytest.approx(c.std().item(), rel=1e-5)


def noise(dit) -> torch.Tensor:
    """What a run with seed 5 starts from."""
    height, width, generator = tiny.SIZE["height"], tiny.SIZE["width"], torch.Generator().manual_seed(5)
    if dit.family.name == "sd3":
        return torch.randn(1, 4, height // 2, width // 2, generator=generator)
    return dit.pipeline.prepare_latents(1, 4, height, width, torch.float32, torch.device("cpu"), generator)[0]


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_rescale_reaches_the_pipeline(dit, s):
    """The context manager's fold and the guider's own forward agree where the result is rescaled."""
    off, one = dg.Disrupt([3, 7], 1), {**tiny.CALL, "steps": 1}
    guider = dg.DetailGuidance(s, 0.8, off, guidance_rescale=0.7)
    start = noise(dit)  # one Euler step from sigma 1 to 0 subtracts the prediction

    def prediction(**kwargs):
        return start - run(dit, PROMPT, seed=5, **one, **kwargs)[0]

    c, d = prediction(), prediction(edits=[off])
    u = (3.0 * c - prediction(guidance=dg.CFG(3.0))) / 2.0
    wanted = guider.forward(c, u if s > 1 else None, d).pred
    ours = prediction(guidance=guider)
    assert (ours - wanted).abs().max() / wanted.abs().max() < 1e-4
    assert (ours - prediction(guidance=guider.new(guidance_rescale=0.0))).abs().max() / wanted.abs().max() > 1e-3


def test_outside_of_the_window_there_is_no_guidance_and_no_second_pass(dit):
    """Two of four steps with CFG and DG, then two of c alone; also where an edit keeps the rows as they are."""
    off, four = dg.Disrupt([3, 7], 1), {**tiny.CALL, "steps": 4}
    guider = dg.DetailGuidance(3.0, 0.8, off, stop=0.5)
    ours, count = run(dit, PROMPT, seed=5, guidance=guider, **four)
    assert count.forwards == 2 * 3 + 2
    assert count.block_calls == 4 * 2 * len(dit.blocks) - 2 * len(dit.blocks) + 2 * (len(dit.blocks) - 2)
    latents = {}

    def keep(pipeline, step, timestep, tensors):
        latents[step] = tensors["latents"]
        return tensors

    with dg.detail_guidance(dit.pipeline, dg.DetailGuidance(None, 0.8, off, detail_guidance_stop=0.5)):
        stock(dit, 3.0, num_inference_steps=4, output_type="latent", callback_on_step_end=keep)
    inside = latents[1]  # the first half as if there were no window
    scheduler, tail = dit.pipeline.scheduler, latents[1]
    with dg.detail_guidance(dit.pipeline, guider):
        stock(dit, 3.0, num_inference_steps=4, output_type="latent", callback_on_step_end=keep)
    assert torch.equal(latents[1], inside) and torch.equal(latents[3], ours)
    for i in (2, 3):  # the second half by hand, on the conditional prediction alone
        velocity = conditional(dit, tail, scheduler.timesteps[i])
        tail = tail + (scheduler.sigmas[i + 1] - scheduler.sigmas[i]) * velocity
    assert (tail - ours).abs().max() / ours.abs().max() < 1e-4
    edit = dg.Disrupt([5], 0, rows="cond").controls(1)[0]
    edited, _ = run(dit, PROMPT, seed=5, edits=[edit], guidance=guider, **four)
    assert not torch.allclose(edited, ours)


def test_the_callers_scale_is_read_and_a_different_one_refused(dit, monkeypatch):
    off = dg.Disrupt([3, 7], 1)
    for s in (1.0, 3.0):
        ours, _ = run(dit, PROMPT, seed=5, guidance=dg.DetailGuidance(s, 0.8, off), **tiny.CALL)
        with dg.detail_guidance(dit.pipeline, dg.DetailGuidance(detail_guidance_scale=0.8, disrupt=off)):
            assert torch.equal(stock(dit, s, output_type="latent"), ours)
    with monkeypatch.context() as patched:
        patched.setattr(dit.transformer, "forward", lambda *a, **k: pytest.fail("a forward ran before the error"))
        for mine, callers in ((3.0, 2.0), (3.0, 1.0), (1.0, 3.0)):
            with pytest.raises(ValueError, match=f"={callers:g}, and the guider has guidance_scale={mine:g}"):
                with dg.detail_guidance(dit.pipeline, dg.DetailGuidance(mine, 0.8, off)):
                    stock(dit, callers)


def test_fork_partial_and_whole_agree(dit):
    """What is left out changes nothing: within rounding, and within less in double precision."""
    wide = dg.load(tiny.PIPELINES[{"sd3": "sd3", "flux": "flux"}[dit.family.name]]().to(torch.float64))
    for model, tolerance in ((dit, 1e-4), (wide, 1e-12)):
        for block in (0, len(model.blocks) - 1):
            guider = dg.DetailGuidance(None, 0.8, dg.Disrupt([3, 7], block))
            made = {}
            for way in ("fork", "partial", "whole"):
                with dg.detail_guidance(model, guider, way=way):
                    made[way] = run(model, PROMPT, seed=5, guidance=dg.CFG(3.0), **tiny.CALL)
            (whole, many), (fork, few), (partial, same) = made["whole"], made["fork"], made["partial"]
            assert (partial - whole).abs().max() / whole.abs().max() < tolerance
            assert (fork - whole).abs().max() / whole.abs().max() < tolerance
            assert few.block_calls == same.block_calls == many.block_calls - 3 * (block + 1)
            assert few.forwards == same.forwards == many.forwards == 9


def test_a_forbidden_fork_falls_back_and_says_so(dits, caplog):
    """Skipped layers act between blocks: the disrupted pass is a whole one."""
    dit, off = dits("sd35-medium"), dg.Disrupt([3, 7], 1)
    arguments = {**tiny.CALL, "steps": 2, "skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0}
    with caplog.at_level("WARNING", logger="dg_tools"):
        run(dit, PROMPT, seed=5, guidance=dg.DetailGuidance(3.0, 0.8, off), **arguments)
    assert not [r for r in caplog.records if r.name == "dg_tools"]  # that pass is not ours: nothing is forbidden
    fold_input = {"block_controlnet_hidden_states": [torch.zeros(2, 96, tiny.WIDTH)]}
    guider = dg.DetailGuidance(None, 0.8, off)
    one = {**tiny.CALL, "steps": 1}
    plain = run(dit, PROMPT, seed=5, guidance=guider.new(guidance_scale=3.0), **one)[0]
    with dg.detail_guidance(dit, guider):
        inner = dit.transformer.forward
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(dit.transformer, "forward", lambda **kwargs: inner(**{**kwargs, **fold_input}))
            with caplog.at_level("WARNING", logger="dg_tools"):
                made, count = run(dit, PROMPT, seed=5, guidance=dg.CFG(3.0), **one)
    assert "runs whole, because block_controlnet_hidden_states" in caplog.text
    assert (made - plain).abs().max() / plain.abs().max() < 1e-4 and count.block_calls == 3 * len(dit.blocks)


def test_guidance_on_top_of_an_edit_at_the_same_block(dit):
    """The edit is in both passes, once; the disruption in one."""
    block, shift = 1, dg.Disrupt([5], 1).controls(1)[0]
    guider = dg.DetailGuidance(1.0, 0.8, dg.Disrupt([3], block))
    ours, _ = run(dit, PROMPT, seed=5, edits=[shift], guidance=guider, **{**tiny.CALL, "steps": 1})
    c, _ = run(dit, PROMPT, seed=5, edits=[shift], **{**tiny.CALL, "steps": 1})
    d, _ = run(dit, PROMPT, seed=5, edits=[shift, dg.Disrupt([3], block)], **{**tiny.CALL, "steps": 1})
    assert (ours - (c + 0.8 * (c - d))).abs().max() / ours.abs().max() < 1e-4
    with dg.detail_guidance(dit.pipeline, guider), shift.on(dit.pipeline):  # whichever was put on first
        again, _ = run(dit, PROMPT, seed=5, **{**tiny.CALL, "steps": 1})
    assert torch.equal(again, ours)


def test_a_disruption_with_steps_of_its_own(dits):
    dit = dits("sd3")
    guider = dg.DetailGuidance(1.0, 1.0, dg.Disrupt([3], 1, steps=[1]))
    _, count = run(dit, PROMPT, seed=5, guidance=guider, **tiny.CALL)
    assert count.forwards == 4


@pytest.mark.parametrize("way", ["fork", "partial", "whole"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_a_crash_in_the_disrupted_pass_leaves_nothing(dit, way, error):
    before, last = stock(dit, 3.0, output_type="latent"), dit.blocks[-1]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in dit.transformer.modules()]
    forward, seen = dit.transformer.__dict__.get("forward"), [0]

    @reads_any_rows
    def crash(module, inputs, output):
        seen[0] += output[1].shape[0]
        if seen[0] >= 3 + (dit.family.rows == "sequential"):  # in the second step at the latest
            raise error("simulated")

    handle = last.module.register_forward_hook(crash)
    guider = dg.DetailGuidance(None, 0.8, dg.Disrupt([3], 0))
    with pytest.raises(error, match="simulated"), dg.detail_guidance(dit.pipeline, guider, way=way):
        stock(dit, 3.0)
    handle.remove()
    assert dit.transformer.__dict__.get("forward") is forward
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in dit.transformer.modules()] == hooks
    assert [b.module for b in dit.blocks] == [module for _, _, module in dit.family.blocks(dit.transformer)]
    assert torch.equal(stock(dit, 3.0, output_type="latent"), before)


def test_two_runs_are_equal_and_nnsight_agrees(dit):
    """Guidance from two nnsight traces: for one step it is c + w (c - d) in the latents."""
    one, w, made = {**tiny.CALL, "steps": 1}, 0.8, []
    for edited in (False, True):
        with dit.trace(PROMPT, seed=5, output_type="latent", **one) as run_:
            for _ in run_.steps:
                if edited:
                    dit.blocks[1].image[..., [3, 7]] = 0
            made.append(run_.result.images.clone())
    c, d = made
    ours, again = (
        run(dit, PROMPT, seed=5, guidance=dg.DetailGuidance(1.0, w, dg.Disrupt([3, 7], 1)), **one) for _ in "ab"
    )
    assert torch.equal(ours[0], again[0])
    assert (ours[0] - (c + w * (c - d))).abs().max() / c.abs().max() < 1e-4


def test_the_pipelines_own_bar_is_hidden_and_comes_back():
    """A pipeline that its owner built shows a bar; with progress=False nothing does, also where a run breaks off."""
    pipeline, seen = tiny.PIPELINES["sd3"](), []
    pipeline.set_progress_bar_config(leave=False)
    dit = dg.load(pipeline)

    def look(module, args):
        seen.append(dict(pipeline._progress_bar_config))
        if len(seen) == 3:
            raise KeyboardInterrupt

    handle = pipeline.transformer.register_forward_pre_hook(look)
    with pytest.raises(KeyboardInterrupt):
        dg.generate(dit, PROMPT, steps=4, progress=False, **tiny.SIZE)
    handle.remove()
    assert seen == [{"leave": False, "disable": True}] * 3
    assert pipeline._progress_bar_config == {"leave": False}
