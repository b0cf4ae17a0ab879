"""diffusers' step caches: refused by name before the first forward; a plain run keeps them."""

from __future__ import annotations

import diffusers.hooks as hooks
import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg

CALL = {"num_inference_steps": 8, "max_sequence_length": 8, "output_type": "latent", **tiny.SIZE}
OFF = dg.Disrupt([3, 7], 1)
LISTS = ("transformer_blocks", "single_transformer_blocks")
SKIP = {
    "spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": (0, 1000),
    "current_timestep_callback": lambda: 500, "spatial_attention_block_identifiers": LISTS,
}  # fmt: skip
CACHES = {
    "FirstBlockCache": (lambda: hooks.FirstBlockCacheConfig(threshold=1e9), hooks.apply_first_block_cache),
    "MagCache": (
        lambda: hooks.MagCacheConfig(num_inference_steps=8, mag_ratios=[1.0] * 8, threshold=0.5), hooks.apply_mag_cache
    ),
    "TaylorSeer": (
        lambda: hooks.TaylorSeerCacheConfig(cache_interval=2, max_order=1, disable_cache_before_step=2),
        hooks.apply_taylorseer_cache,
    ),
    "PyramidAttentionBroadcast": (
        lambda: hooks.PyramidAttentionBroadcastConfig(**SKIP), hooks.apply_pyramid_attention_broadcast
    ),
    "FasterCache": (
        lambda: hooks.FasterCacheConfig(
            **SKIP, tensor_format="BCHW", is_guidance_distilled=True, attention_weight_callback=lambda _: 0.5
        ),
        hooks.apply_faster_cache,
    ),
    "SeaCache": (lambda: hooks.SeaCacheConfig(raw_vision_callback=lambda *a, **k: None), hooks.apply_sea_cache),
    "TextKVCache": (hooks.TextKVCacheConfig, hooks.apply_text_kv_cache),
}  # fmt: skip


def cached(name, family):
    """A pipeline whose transformer has the cache, and how it was switched on."""
    pipeline = tiny.PIPELINES[family]()
    config, apply = CACHES[name]
    if hasattr(pipeline.transformer, "enable_cache"):
        pipeline.transformer.enable_cache(config())
    else:  # SD3 has no enable_cache; diffusers' functions work on any transformer
        apply(pipeline.transformer, config())
    return pipeline


def guided(pipeline, guider):
    with dg.detail_guidance(pipeline, guider):
        pipeline("red apple", **CALL)


def edited(pipeline):
    with OFF.on(pipeline):
        pipeline("red apple", **CALL)


def traced(pipeline):
    dit = dg.load(pipeline)
    with dit.trace("red apple", **{**tiny.CALL, "output_type": "latent"}) as run:
        for _ in run.steps:
            dit.blocks[1].image[:] = 0


def one_step(pipeline):
    from dg_tools.onestep import velocity

    velocity(dg.load(pipeline), torch.zeros(1, 4, 16, 24), 0.5, {})


USES = {
    "guidance": lambda p: guided(p, dg.DetailGuidance(detail_guidance_scale=0.5, disrupt=OFF)),
    "auto": lambda p: guided(p, dg.DetailGuidance(detail_guidance_scale=0.5, disrupt="auto")),
    "baseline": lambda p: guided(p, dg.baselines.SLG(weight=0.5, blocks=[2])),
    "generate": lambda p: dg.generate(
        dg.load(p), "red apple", guidance=dg.DetailGuidance(2.0, 0.5, OFF), progress=False, **tiny.CALL
    ),
    "generate with auto": lambda p: dg.generate(
        dg.load(p), "red apple", guidance=dg.DetailGuidance(2.0, 0.5, "auto"), progress=False, **tiny.CALL
    ),
    "edits": lambda p: dg.generate(dg.load(p), "red apple", edits=OFF, progress=False, **tiny.CALL),
    "on": edited,
    "capture": lambda p: dg.capture(dg.load(p), "red apple", progress=False, **tiny.CALL),
    "capture_image": lambda p: dg.capture_image(
        dg.load(p), np.zeros((32, 48, 3), np.uint8), progress=False, max_sequence_length=8
    ),
    "trace": traced,
    "one step": one_step,
}


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("name", CACHES)
def test_a_cache_is_refused_by_name_before_the_first_forward(name, family):
    pipeline = cached(name, family)
    own = pipeline.transformer.forward
    pipeline.transformer.forward = lambda *args, **kwargs: pytest.fail("a forward ran")
    for use in USES.values():
        with pytest.raises(ValueError, match=rf"{name} is on for this transformer: .*disable_cache\(\)"):
            use(pipeline)
    pipeline.transformer.forward = own


@pytest.mark.parametrize("name", ["FirstBlockCache", "MagCache", "TaylorSeer", "PyramidAttentionBroadcast"])
def test_a_plain_run_keeps_the_cache(name):
    """The same latents as the pipeline's own, which are not those without a cache."""
    arguments = {**CALL, "generator": torch.Generator().manual_seed(0)}
    theirs, clean = (p("red apple", **arguments | {"generator": torch.Generator().manual_seed(0)})[0]
                     for p in (cached(name, "flux"), tiny.flux()))  # fmt: skip
    dit = dg.load(cached(name, "flux"))
    made = dg.generate(dit, "red apple", **{**tiny.CALL, "steps": 8}, progress=False).latents
    from dg_tools.models.pictures import spatial

    assert torch.equal(made, spatial(dit, theirs, *tiny.SIZE.values())) and not torch.equal(theirs, clean)


def test_guidance_works_again_once_the_cache_is_off():
    pipeline, guider = cached("FirstBlockCache", "flux"), dg.DetailGuidance(detail_guidance_scale=0.5, disrupt=OFF)
    pipeline.transformer.disable_cache()
    guided(pipeline, guider)
