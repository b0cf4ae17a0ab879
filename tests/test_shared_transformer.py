"""What acts belongs to the transformer: two threads, two DiTs, another order of closing, a replaced transformer."""

from __future__ import annotations

import copy
import threading

import pytest
import tiny
import torch

import dg_tools as dg

CALL = {"num_inference_steps": 3, "max_sequence_length": 8, "output_type": "latent", **tiny.SIZE}
OFF = dg.Disrupt([3, 7], 1)


def guider():
    return dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF)


def latents(pipeline):
    scale = {"true_cfg_scale" if "Flux" in type(pipeline).__name__ else "guidance_scale": 3.0, "negative_prompt": ""}
    return pipeline("red apple", generator=torch.Generator().manual_seed(0), **scale, **CALL)[0]


def left(pipeline):
    """What an instance has that only its class should."""
    modules = pipeline.transformer.modules()
    hooks = [m for m in modules if m._forward_hooks or m._forward_pre_hooks]
    names = {"forward", "cache_context"} & set(vars(pipeline.transformer))
    return [*hooks, *names, *({"step"} & set(vars(pipeline.scheduler)))]


@pytest.fixture(params=["sd3", "flux"])
def pipeline(request):
    return tiny.PIPELINES[request.param]()


def test_two_threads_over_one_pipeline_take_turns(pipeline):
    base = latents(pipeline)
    with dg.detail_guidance(pipeline, guider()):
        expected = latents(pipeline)
    made: list[torch.Tensor | Exception] = []

    def work():
        for _ in range(3):
            try:
                with dg.detail_guidance(pipeline, guider()):
                    made.append(latents(pipeline))
            except Exception as error:
                made.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert len(made) == 6 and all(isinstance(x, torch.Tensor) and torch.equal(x, expected) for x in made)
    assert torch.equal(latents(pipeline), base) and not left(pipeline)


def test_two_dits_over_one_transformer(pipeline):
    first, second = dg.load(pipeline), dg.load(type(pipeline)(**pipeline.components))
    assert first.active is second.active
    with dg.detail_guidance(first, guider()):
        expected = latents(pipeline)
        assert torch.equal(latents(second.pipeline), expected)
        with pytest.raises((ValueError, RuntimeError), match="on for this transformer already"):
            with dg.detail_guidance(second, guider()):
                latents(pipeline)
    with dg.detail_guidance(second, guider()):
        assert torch.equal(latents(second.pipeline), expected)
    assert not left(pipeline) and not left(second.pipeline)


def test_contexts_that_are_closed_in_another_order_are_an_error_and_leave_nothing(pipeline):
    base = latents(pipeline)
    outer, inner = dg.Disrupt([5], 0).on(pipeline), dg.detail_guidance(pipeline, guider())
    outer.__enter__()
    inner.__enter__()
    latents(pipeline)
    with pytest.raises(RuntimeError, match="closed in another order"):
        outer.__exit__(None, None, None)
    try:
        inner.__exit__(None, None, None)
    except RuntimeError as error:
        assert "closed in another order" in str(error)
    assert not left(pipeline) and torch.equal(latents(pipeline), base) and dg.load(pipeline).active.guidance is None


def test_a_transformer_that_was_replaced_after_load_is_an_error(pipeline):
    dit = dg.load(pipeline)
    pipeline.transformer = copy.deepcopy(pipeline.transformer)
    settings = {"progress": False, **tiny.CALL}
    for use in (
        lambda: dg.detail_guidance(dit, guider()).__enter__(),
        lambda: OFF.on(dit).__enter__(),
        lambda: dg.generate(dit, "a", **settings),
        lambda: dg.generate(dit, "a", guidance=guider(), **settings),
        lambda: dg.capture(dit, "a", **settings),
    ):
        with pytest.raises(RuntimeError, match=r"was replaced after dg.load, .* dg.load\(pipeline\)"):
            use()
    before = latents(pipeline)
    with dg.detail_guidance(pipeline, guider()):
        assert not torch.equal(latents(pipeline), before)
