"""nnsight views against plain hooks, and each silent trap that the API could let through."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg


def trace_arguments(**kwargs):
    return {**tiny.SIZE, "steps": 3, "max_sequence_length": 8, "seed": 5, **kwargs}


def hooked(dit, **kwargs):
    """(step, block) -> block output by plain hooks, in call order; and the latents."""
    seen, handles = [], []
    for block in dit.blocks:
        handles.append(block.module.register_forward_hook(lambda m, i, o: seen.append(tuple(o))))
    try:
        arguments = dit.arguments("apple", **trace_arguments(**kwargs))
        latents = dit.pipeline(**arguments, output_type="latent").images
    finally:
        for handle in handles:
            handle.remove()
    n = len(dit.blocks)
    return [seen[i : i + n] for i in range(0, len(seen), n)], latents


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_views_equal_plain_hooks(dit, s):
    calls, latents = hooked(dit, guidance_scale=s)
    image, text, gates, steps, out = [], [], [], [], []
    with dit.trace("apple", output_type="latent", **trace_arguments(guidance_scale=s)) as run:
        for step in run.steps:
            steps.append((int(step), step.branch))
            row = [[], [], []]
            for block in dit.blocks:
                row[2].append({k: v.clone() for k, v in block.gates.items()})
                row[0].append(block.image.clone())
                row[1].append(None if block.text is None else block.text.clone())
            image.append(row[0]), text.append(row[1]), gates.append(row[2])
        out.append(run.result.images.clone())
    assert torch.equal(out[0], latents)
    assert len(image) == len(calls)
    for call, images, texts in zip(calls, image, text, strict=True):
        for raw, a, b, block in zip(call, images, texts, dit.blocks, strict=True):
            assert torch.equal(raw[block.record.image], a)
            assert (b is None) == (raw[block.record.text] is None)
            assert b is None or torch.equal(raw[block.record.text], b)
    branches = {b for _, b in steps}
    if s == 1.0:
        assert branches == {"cond"} and [i for i, _ in steps] == [0, 1, 2]
    elif dit.family.rows == "batched":
        assert branches == {"both"} and [i for i, _ in steps] == [0, 1, 2]
    else:  # two calls a step, the conditional one first: visits are not steps
        assert [i for i, _ in steps] == [0, 0, 1, 1, 2, 2] and [b for _, b in steps] == ["cond", "uncond"] * 3


def test_gates_equal_the_adaln_module(dits):
    dit = dits("sd3")
    seen = []
    handle = dit.blocks[1].module.norm1.register_forward_hook(lambda m, i, o: seen.append(o[1]))
    gates = []
    try:
        with dit.trace("apple", **trace_arguments()) as run:
            for step in run.steps:
                gates.append(dit.blocks[1].gates["gate_msa"].clone())
    finally:
        handle.remove()
    assert len(gates) == 3 and all(torch.equal(a, b) for a, b in zip(gates, seen, strict=True))


def head_inputs(dit, block):
    """(module, pre-hook or hook, reads) of what the heads give side by side, before they are mixed."""
    attn = dit.blocks[block].module.attn
    return attn.to_out[0] if hasattr(attn, "to_out") and attn.to_out is not None else attn


@pytest.mark.parametrize("edit", ["read", "in place", "assign"])
def test_heads_are_read_and_edited_as_plain_hooks_do(dit, edit):
    """Head 1 of the first and the last block: what it gives, and the picture without it."""
    blocks, tokens = (0, len(dit.blocks) - 1), 96
    seen: list[torch.Tensor] = []

    def without(value):
        image = value[:, -tokens:].unflatten(-1, (2, 16))
        seen.append(image.clone())
        if edit != "read":
            image[:, :, 1] = 0

    handles = []
    for block in blocks:
        module = head_inputs(dit, block)
        if module is dit.blocks[block].module.attn:
            handles.append(module.register_forward_hook(lambda m, a, o: without(o)))
        else:
            handles.append(module.register_forward_pre_hook(lambda m, a: without(a[0])))
    try:
        arguments = dit.arguments("apple", **trace_arguments(guidance_scale=3.0))
        known = dit.pipeline(**arguments, output_type="latent").images
    finally:
        for handle in handles:
            handle.remove()
    read, out = [], []
    with dit.trace("apple", output_type="latent", **trace_arguments(guidance_scale=3.0)) as run:
        for step in run.steps:
            for block in blocks:
                heads = dit.blocks[block].heads
                read.append(heads.clone())
                if edit == "in place":
                    heads[:, :, 1] = 0
                if edit == "assign":
                    changed = heads.clone()
                    changed[:, :, 1] = 0
                    dit.blocks[block].heads = changed
        out.append(run.result.images.clone())
    assert torch.equal(out[0], known)
    assert read[0].shape[1:] == (tokens, 2, 16) and len(read) == len(seen)
    assert all(torch.equal(a, b) for a, b in zip(read, seen, strict=True))


def test_heads_are_not_had_everywhere():
    dit = dg.load(tiny.families()["sana"].pipeline())
    with pytest.raises(AttributeError, match="family 'sana' names no attention products"):
        _ = dit.blocks[0].heads


def test_an_edit_in_place_is_not_lost(dit):
    """Views are copies, so `view[...] = 0` must be written back whole: tuple, strides and all."""
    for block in (0, len(dit.blocks) - 1):
        with dg.Disrupt([2, 5], block).on(dit):
            _, theirs = hooked(dit, guidance_scale=3.0)
        out = []
        with dit.trace("apple", output_type="latent", **trace_arguments(guidance_scale=3.0)) as run:
            for step in run.steps:
                dit.blocks[block].image[..., [2, 5]] = 0
            out.append(run.result.images.clone())
        assert torch.equal(out[0], theirs)
        _, clean = hooked(dit, guidance_scale=3.0)
        assert not torch.equal(clean, theirs)


def test_a_replaced_view_and_the_text_stream(dits):
    dit = dits("sd3")
    _, clean = hooked(dit)
    for stream in ("image", "text"):
        out = []
        with dit.trace("apple", output_type="latent", **trace_arguments()) as run:
            for step in run.steps:
                setattr(dit.blocks[1], stream, getattr(dit.blocks[1], stream) * 0.5)
            out.append(run.result.images.clone())
        with dg.Disrupt(range(tiny.WIDTH), 1, "scale", rho=0.5, stream=stream).on(dit):
            _, theirs = hooked(dit)
        assert torch.equal(out[0], theirs) and not torch.equal(out[0], clean)


def test_reads_out_of_order_are_refused(dits):
    dit = dits("sd3")
    with pytest.raises(Exception, match="read in execution order"):
        with dit.trace("apple", **trace_arguments()) as run:
            for step in run.steps:
                dit.blocks[2].image.mean()
                dit.blocks[0].image.mean()
    with pytest.raises(Exception, match="read in execution order"):
        with dit.trace("apple", **trace_arguments()) as run:
            for step in run.steps:
                dit.blocks[2].image.mean()
                dit.blocks[2].gates["gate_msa"].mean()
    with pytest.raises(RuntimeError, match="outside of"):
        dit.blocks[0].image
    assert dit.tracer is None


def test_a_kept_clone_does_not_alias_later_edits(dits):
    """What is cloned before an edit stays; what the model computes later never reaches a kept view."""
    dit = dits("sd3")
    before, view = [], []
    with dit.trace("apple", **trace_arguments()) as run:
        for step in run.steps:
            view.append(dit.blocks[0].image)
            before.append(dit.blocks[1].image.clone())
            dit.blocks[1].image[..., 3] = 0
    calls, _ = hooked(dit)
    assert torch.equal(before[0], calls[0][1][1]) and before[0][..., 3].abs().max() > 0
    assert torch.equal(view[0], calls[0][0][1])


def test_the_step_comes_from_the_timestep_not_from_a_count(dits):
    """A callback that calls the transformer adds visits, not steps."""
    dit = dits("sd3")
    embeds, _, pooled, _ = dit.pipeline.encode_prompt(
        "x", None, None, do_classifier_free_guidance=False, max_sequence_length=8
    )

    def meddle(pipeline, step, timestep, tensors):
        pipeline.transformer(
            hidden_states=tensors["latents"],
            timestep=torch.tensor([123.456]),
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
        )
        return tensors

    steps = []
    with dit.trace("apple", callback_on_step_end=meddle, **trace_arguments()) as run:
        for step in run.steps:
            steps.append((int(step), round(step.sigma, 4)))
    assert [i for i, _ in steps] == [0, 1, 2]
    assert steps[0][1] == 1.0 and steps[0][1] > steps[1][1] > steps[2][1]


def test_grad_mode_and_modules_are_left_as_they_were():
    dit = dg.load(tiny.sd3())
    module = dit.blocks[0].module
    forward = module.forward
    before = dit.pipeline(**dit.arguments("apple", **trace_arguments()), output_type="latent").images
    for fail in (False, True):
        try:
            with dit.trace("apple", **trace_arguments()) as run:
                for step in run.steps:
                    dit.blocks[0].image[..., 0] = 0
                    if fail:
                        raise ZeroDivisionError
        except Exception as error:
            assert fail and "ZeroDivisionError" in repr(error) + str(type(error))
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    after = dit.pipeline(**dit.arguments("apple", **trace_arguments()), output_type="latent").images
    assert torch.equal(before, after)
    dit.unwrap()
    assert "forward" not in module.__dict__ and "__nnsight__" not in module.__dict__
    assert module.forward == forward
    dit.unwrap()  # twice is fine


def test_a_wrapped_model_is_traced_inside_a_guidance():
    """The guidance stands in the place of the transformer's forward, and stays there."""
    dit = dg.load(tiny.sd3())
    plain, guided = [], []

    def trace(kept):
        with dit.trace("apple", **trace_arguments()) as run:
            for step in run.steps:
                if step.branch != "other":
                    kept.append(dit.blocks[3].image.mean().item())

    trace(plain)
    with dg.detail_guidance(dit, dg.DetailGuidance(detail_guidance_scale=0.8, disrupt=dg.Disrupt([3], 1)), way="whole"):
        trace(guided)
    assert plain[0] == guided[0] and len(guided) == len(plain) == 3
    assert abs(plain[2] - guided[2]) > 1e-4
