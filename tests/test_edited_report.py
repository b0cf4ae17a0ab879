"""What an edited run says of itself, against plain hooks."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.interventions.report import Edited

CHANNELS = [3, 7]


def call(pipe, s=1.0, steps=3):
    prompts = {"prompt": "a", **({"negative_prompt": "b"} if s > 1 else {})}
    return pipe(
        **prompts, guidance_scale=s, num_inference_steps=steps, output_type="latent", max_sequence_length=8,
        generator=torch.Generator().manual_seed(3), **tiny.SIZE,
    )[0]  # fmt: skip


def shares(pipe, block, stream, rows=slice(None)):
    """By call, the norm of the channels over the norm of the block's output, from a hook after the edit's own."""
    numbers = []

    def hook(module, args, output):
        before = output[stream].double()
        edited = before.clone()
        edited[rows, :, CHANNELS] = 0
        numbers.append(((edited - before).norm() / before.norm()).item())
        return tuple(edited.to(x) if i == stream else x for i, x in enumerate(output))

    handle = pipe.transformer.transformer_blocks[block].register_forward_hook(hook)
    return numbers, handle


@pytest.mark.parametrize("stream", ["text", "image"])
@pytest.mark.parametrize("rows", ["all", "cond"])
def test_the_numbers_are_those_of_plain_hooks(dits, stream, rows):
    pipe = dits("sd3").pipeline
    edit = dg.Disrupt(CHANNELS, 1, stream=stream, rows=rows)
    with edit.on(pipe) as run:
        latents = call(pipe, 3.0)
    half = slice(1, 2) if rows == "cond" else slice(None)
    numbers, handle = shares(pipe, 1, ("text", "image").index(stream), half)
    assert torch.equal(call(pipe, 3.0), latents)
    handle.remove()
    assert run.report.edits == (edit.sentence(),) and run.report.calls == (3,)
    assert run.report.change == pytest.approx((sum(numbers) / 3,), rel=1e-5) and numbers[0] > 0.01
    share = f"{run.report.change[0]:.3g}"
    assert str(run.report) == f"{edit.sentence()}: 3 block outputs, ||edited - output|| / ||output|| {share}"


def test_each_block_that_is_changed_counts(dits):
    pipe = dits("sd3").pipeline
    with dg.Disrupt(CHANNELS, (0, 2), steps=[1, 2]).on(pipe) as run:
        call(pipe)
    assert run.report.calls == (4,) and run.report.to_json()["calls"] == (4,)


def test_a_change_of_nothing_is_reported(dits):
    pipe = dits("flux").pipeline
    with dg.Disrupt(CHANNELS, 1, "scale", rho=1.0).on(pipe) as run:
        call(pipe)
    assert run.report.calls == (3,) and run.report.change == (0.0,)


def test_gates_are_reported(dits):
    pipe = dits("sd3").pipeline
    with dg.Disrupt(CHANNELS, 1, "gate").on(pipe) as run:
        call(pipe)
    assert run.report.calls == (3,) and 0 < run.report.change[0] < 1


def test_nothing_has_run_yet(dits):
    with pytest.raises(RuntimeError, match="touched nothing"), dg.Disrupt(CHANNELS, 1).on(dits("sd3").pipeline) as run:
        assert run.report.calls == (0,) and run.report.change == (0.0,)
    assert str(Edited()) == ""
