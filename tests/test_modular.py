"""DetailGuidance as the guider of a modular pipeline: the same pictures as the context manager's, clean afterwards."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

import dg_tools as dg
from dg_tools.forward.restart import Stored
from dg_tools.guidance import DetailGuidance

PROMPT = "a red apple"
OFF = dg.Disrupt([3, 7], 1)


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.sd3())


@pytest.fixture(scope="module")
def modular(dit):
    made = StableDiffusion3AutoBlocks().init_pipeline()
    made.update_components(**dit.pipeline.components)
    made.set_progress_bar_config(disable=True)
    return made


def sample(modular, guider, steps=3, **kwargs):
    modular.update_components(guider=guider)
    arguments = {"negative_prompt": ""} if guider.guidance_scale > 1 else {}
    made = modular(
        prompt=PROMPT, **tiny.SIZE, num_inference_steps=steps, max_sequence_length=8, output="latents",
        generator=torch.Generator().manual_seed(5), **arguments, **kwargs,
    )  # fmt: skip
    return made


@pytest.mark.parametrize("s", [1.0, 3.0])
@pytest.mark.parametrize("w", [0.0, 0.8])
def test_equals_the_context_manager(dit, modular, s, w):
    counts, calls = [0], [0]
    handles = [dit.transformer.register_forward_hook(lambda m, i, o: counts.__setitem__(0, counts[0] + 1))]
    for block in dit.blocks:
        count = lambda m, i, o: calls.__setitem__(0, calls[0] + (not isinstance(m, Stored)))  # noqa: E731
        handles.append(block.module.register_forward_hook(count))
    ours = sample(modular, dg.DetailGuidance(s, w, OFF))
    for handle in handles:
        handle.remove()
    assert counts[0] == 3 * (1 + (s > 1) + (w > 0))
    blocks = len(dit.blocks)
    assert calls[0] == 3 * (blocks * (1 + (s > 1)) + (blocks - OFF.block - 1) * (w > 0))
    theirs = dg.generate(
        dit, PROMPT, seed=5, guidance=dg.DetailGuidance(s, w, OFF), progress=False, **tiny.CALL
    ).latents
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_a_crash_in_the_disrupted_pass_leaves_nothing(dit, modular, error):
    before = sample(modular, dg.CFG(3.0))
    calls = [0]

    def crash(module, inputs, output):
        calls[0] += 1
        if calls[0] == 3:  # the third pass of the first step is the disrupted one
            raise error("in a block")

    handle = dit.blocks[2].module.register_forward_hook(crash)
    with pytest.raises(error):
        sample(modular, dg.DetailGuidance(3.0, 0.8, OFF))
    handle.remove()
    assert "forward" not in dit.transformer.__dict__
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in dit.transformer.modules())
    assert torch.equal(sample(modular, dg.CFG(3.0)), before)


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_the_guiders_own_report_is_that_of_the_context_manager(dit, modular, s):
    guider = dg.DetailGuidance(s, 0.8, OFF, detail_guidance_stop=0.7)
    assert guider.report is None
    sample(modular, guider)
    theirs = dg.generate(dit, PROMPT, seed=5, guidance=guider, progress=False, **tiny.CALL).guided[0]
    ours = modular.guider.report
    assert (ours.steps, ours.planned, ours.guided, ours.finished) == (3, (0, 1, 2), (0, 1, 2), True)
    for name in ("push", "change", "at_block"):
        assert list(getattr(ours, name)) == pytest.approx(list(getattr(theirs, name)), rel=1e-3)
    sample(modular, guider, steps=2)
    assert modular.guider.report.steps == 2
    assert "_log" not in modular.guider.config and modular.guider.new().report is None


@pytest.mark.parametrize("missed", [0, 2])
def test_a_planned_pass_that_did_not_act_is_named_at_that_step(dit, modular, missed, monkeypatch):
    own, forwards = DetailGuidance._arm, []

    def arm(guider, denoiser, disrupt, disrupted):
        if not disrupted or guider._step != missed:
            own(guider, denoiser, disrupt, disrupted)

    monkeypatch.setattr(DetailGuidance, "_arm", arm)
    handle = dit.transformer.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(RuntimeError, match=f"step {missed} of 3 should have been guided and was not"):
        sample(modular, dg.DetailGuidance(3.0, 0.8, OFF))
    handle.remove()
    assert len(forwards) == 3 * (missed + 1) and "forward" not in vars(dit.transformer)
    assert modular.guider.report.guided == tuple(range(missed)) and not modular.guider.report.finished


def test_a_push_of_nothing_is_an_error_here_too(modular):
    with pytest.raises(RuntimeError, match="the guidance changed nothing"):
        sample(modular, dg.DetailGuidance(1.0, 0.8, dg.Disrupt([3, 7], 1, "scale", rho=1.0)))
    sample(modular, dg.DetailGuidance(1.0, 0.0, OFF))
    assert str(modular.guider.report) == "guided 0 of 0 steps (3 run)"


def test_bad_settings_are_refused_before_the_first_forward(dit, modular):
    def forward(*args, **kwargs):
        raise AssertionError("a forward ran before the error")

    handle = dit.transformer.register_forward_pre_hook(forward)
    try:
        with pytest.raises(IndexError, match="block 9 requested; there are 0 to 3"):
            sample(modular, dg.DetailGuidance(3.0, 0.8, dg.Disrupt([3], 9)))
        with pytest.raises(ValueError, match="no step of 3 lies in"):
            sample(modular, dg.DetailGuidance(3.0, 0.8, OFF, detail_guidance_start=0.9))
        modular.update_components(guider=dg.DetailGuidance(3.0, 0.8, OFF))
    finally:
        handle.remove()


def test_a_modular_pipeline_needs_no_context_manager(modular):
    with pytest.raises(TypeError, match=r"takes a guider itself: pipe\.update_components"):
        with dg.detail_guidance(modular, dg.DetailGuidance(3.0, 0.8, OFF)):
            pass
    with pytest.raises(TypeError, match="an? int is not a model"):
        dg.load(3)


def test_a_step_cache_is_refused_by_name_before_the_first_forward(modular):
    transformer, calls = tiny.sd3().transformer, []
    apply_first_block_cache(transformer, FirstBlockCacheConfig(threshold=1e9))
    transformer.forward = lambda *args, **kwargs: calls.append(1)
    own = modular.transformer
    modular.update_components(transformer=transformer)
    try:
        for w in (0.8, 0.0):
            with pytest.raises(ValueError, match=r"FirstBlockCache is on for this transformer: .*disable_cache\(\)"):
                sample(modular, dg.DetailGuidance(3.0, w, OFF))
    finally:
        modular.update_components(transformer=own)
    assert not calls


@pytest.mark.parametrize("baseline", [dg.baselines.PAG(3.0, 0.8, blocks=1), dg.baselines.APG(3.0)])
def test_a_baseline_refuses_a_modular_pipeline(dit, modular, baseline):
    handle = dit.transformer.register_forward_pre_hook(lambda *_: pytest.fail("a forward ran before the error"))
    try:
        with pytest.raises(RuntimeError, match=r"works in classic pipelines, .*; a modular pipeline takes"):
            sample(modular, baseline)
    finally:
        handle.remove()
