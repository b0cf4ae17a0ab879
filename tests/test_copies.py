"""A copy of a pipeline that is guided, edited or captured is a plain pipeline, and the original goes on as it was."""

from __future__ import annotations

import copy
import pickle

import pytest
import tiny
import torch

import dg_tools as dg

CALL = {"num_inference_steps": 3, "max_sequence_length": 8, **tiny.SIZE}
OFF = dg.Disrupt([3, 7], 1)
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}
WAYS = [("sd3", "deepcopy"), ("flux", "pickle")]
CONTEXTS = {
    "guidance": lambda pipe: dg.detail_guidance(pipe, dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF)),
    "edit": lambda pipe: OFF.on(pipe),
    "gates and norms": lambda pipe: dg.Disrupt([3, 7], 1, "gate", norms="clean").on(pipe),
}


@pytest.fixture
def pipeline(family):
    return tiny.PIPELINES[family]()


def latents(pipe, **kwargs):
    scale = {"true_cfg_scale" if "Flux" in type(pipe).__name__ else "guidance_scale": 3.0, "negative_prompt": ""}
    settings = {"generator": torch.Generator().manual_seed(0), "output_type": "latent", **scale, **CALL}
    return pipe("red apple", **settings, **kwargs)[0]


def left(module):
    """Hooks and attributes on a module or its parts that a plain one does not have."""
    for part in module.modules():
        yield from (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        yield from (*part._forward_hooks_with_kwargs, *part._forward_pre_hooks_with_kwargs)
        yield from {"forward", "cache_context", "__getstate__"} & set(vars(part))


@pytest.mark.parametrize(("family", "way"), WAYS)
@pytest.mark.parametrize("kind", CONTEXTS)
def test_a_copy_made_inside_is_a_plain_pipeline(pipeline, family, kind, way):
    plain = latents(copy.deepcopy(pipeline))
    with CONTEXTS[kind](pipeline):
        acted = latents(pipeline)
    assert not torch.equal(acted, plain) and not list(left(pipeline.transformer))
    pipeline, during = tiny.PIPELINES[family](), []  # anew: text encoders that ran have hooks that cannot be pickled

    def keep(pipe, step, timestep, tensors):
        during.append(COPIES[way](pipe.transformer))
        return tensors

    with CONTEXTS[kind](pipeline) as run:
        before = COPIES[way](pipeline)
        assert torch.equal(latents(pipeline, callback_on_step_end=keep), acted)
        copied = latents(before)
    assert torch.equal(copied, plain) and "step" not in vars(before.scheduler)
    for transformer in (before.transformer, *during):
        assert not list(left(transformer))
    before.transformer = during[1]
    assert torch.equal(latents(before), plain)
    if kind == "guidance":
        assert run.report.guided == run.report.planned == (0, 1, 2) and run.report.finished
    else:
        assert run.report.calls[0] >= 3
    assert not list(left(pipeline.transformer))


@pytest.mark.parametrize(("family", "way"), WAYS)
def test_a_copy_made_during_a_capture_is_a_plain_transformer(pipeline, way):
    plain, during = latents(copy.deepcopy(pipeline)), []
    dit = dg.load(pipeline)

    def keep(pipe, step, timestep, tensors):
        during.append(COPIES[way](pipe.transformer))
        return tensors

    settings = {"edits": OFF, "guidance": dg.CFG(3.0), "progress": False, **tiny.CALL, "steps": 2}
    expected = dg.capture(dit, "a", **settings).data
    found = dg.capture(dit, "a", callback_on_step_end=keep, **settings).data
    assert found["mean"].equals(expected["mean"])
    dit.unwrap()
    other = copy.deepcopy(pipeline)
    other.transformer = during[0]
    assert not {hook for hook in left(during[0]) if hook != "forward"}  # nnsight's, which wraps a model once for all
    assert torch.equal(latents(other), plain)
