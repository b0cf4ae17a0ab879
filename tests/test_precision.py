"""Half precision at FLUX.1-dev's schedule: every step is guided and captured, and what overflows is said."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import dg_tools as dg

DTYPES = [torch.bfloat16, torch.float16]


def flux(dtype):
    """FLUX.1-dev's schedule at 1024 x 1024, on a tiny transformer."""
    pipe = tiny.PIPELINES["flux-distilled"]().to(dtype)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=1.15, max_shift=1.15
    )
    return pipe


def run(pipe, steps):
    return pipe("red apple", num_inference_steps=steps, max_sequence_length=8, output_type="latent", **tiny.SIZE,
                generator=torch.Generator().manual_seed(0))[0]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_step_is_guided(dtype):
    pipe = flux(dtype)
    guider = dg.DetailGuidance(detail_guidance_scale=0.1, disrupt=dg.Disrupt([3, 7], 1))
    rows = []
    handle = pipe.transformer.norm_out.register_forward_hook(lambda m, a, o: rows.append(o.shape[0]))
    with dg.detail_guidance(pipe, guider) as record:
        run(pipe, 28)
    handle.remove()
    assert rows == [2] * 28 and record.report.guided == tuple(range(28)) == record.report.planned


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_step_of_an_embedded_model_is_captured_and_guided(dtype):
    dit = dg.load("emoji-flux", dtype=dtype)
    acts = dg.capture(dit, "red apple", steps=28, progress=False)
    means = acts.data["mean"].sel(stream="image")
    assert means.sizes["step"] == 28 and bool(means.notnull().all())
    rows = []
    handle = dit.transformer.norm_out.register_forward_hook(lambda m, a, o: rows.append(o.shape[0]))
    guider = dg.DetailGuidance(1.0, 0.5, disrupt=dg.Disrupt([41], 5))
    dg.generate(dit, "red apple", steps=28, guidance=guider, progress=False)
    handle.remove()
    assert rows == [2] * 28


@pytest.mark.parametrize("way", ["fork", "partial", "whole"])
def test_a_dose_that_overflows_is_an_error(way):
    pipe = flux(torch.float16)
    guider = dg.DetailGuidance(detail_guidance_scale=0.5, disrupt=dg.Disrupt([3, 7], 1, "scale", rho=1e7))
    with pytest.raises(RuntimeError, match="is not finite in step.* overflow this dtype"):
        with dg.detail_guidance(pipe, guider, way=way):
            run(pipe, 4)


OVERFLOW = dg.Disrupt([3, 7], 1, "scale", rho=1e7)
SAID = r"not finite from step 0 on under .*block 1, .* overflow torch.float16 .* take a smaller dose"


def test_an_edit_that_overflows_is_an_error():
    dit = dg.load(flux(torch.float16))
    call = {"steps": 3, "max_sequence_length": 8, "edits": [OVERFLOW], "progress": False, **tiny.SIZE}
    with pytest.raises(RuntimeError, match=SAID):
        dg.generate(dit, "red apple", **call)
    with pytest.raises(RuntimeError, match=SAID):
        dg.capture(dit, "red apple", **call)


def test_an_edit_that_overflows_in_a_pipeline_of_the_readers_own_is_an_error_at_the_end():
    pipe = flux(torch.float16)
    with pytest.raises(RuntimeError, match=SAID), OVERFLOW.on(pipe):
        assert not run(pipe, 3).isfinite().all()
    with pytest.raises(KeyError, match="own"), OVERFLOW.on(pipe):  # the reader's own error is not masked
        run(pipe, 1)
        raise KeyError("own")
    with dg.Disrupt([3, 7], 1, "scale", rho=2.0).on(pipe):
        assert run(pipe, 3).isfinite().all()
