"""What else a pipeline does with rows: IP-Adapters, hooks and processors below the blocks, a third row of PAG."""

from __future__ import annotations

import copy
import inspect
from contextlib import contextmanager

import pytest
import tiny
import torch
from diffusers import StableDiffusion3PAGImg2ImgPipeline, StableDiffusion3PAGPipeline
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterTimeImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from hand import by_hand, near

import dg_tools as dg

CHANNELS, W = [3, 7], 0.7
WAYS = ["fork", "partial", "whole"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def enliven(module, names):
    """Large random weights where the name has one of these parts."""
    torch.manual_seed(3)
    for name, parameter in module.named_parameters():
        if any(part in name for part in names) and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)


def flux_with_adapter():
    pipe = tiny.PIPELINES["flux"]()
    transformer = pipe.transformer
    adapter = lambda: FluxIPAdapterAttnProcessor(32, 32, num_tokens=(4,), scale=1.0)  # noqa: E731
    own = transformer.attn_processors
    transformer.set_attn_processor({n: type(p)() if n.startswith("single") else adapter() for n, p in own.items()})
    projection = ImageProjection(cross_attention_dim=32, image_embed_dim=24, num_image_text_embeds=4)
    transformer.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    enliven(transformer, ("_ip", "encoder_hid"))
    return pipe


def sd3_with_adapter():
    pipe = tiny.PIPELINES["sd3"]()
    transformer = pipe.transformer
    adapter = lambda: SD3IPAdapterJointAttnProcessor2_0(32, 32, 16, timesteps_emb_dim=32)  # noqa: E731
    transformer.set_attn_processor({name: adapter() for name in transformer.attn_processors})
    transformer.image_proj = IPAdapterTimeImageProjection(
        embed_dim=24, output_dim=32, hidden_dim=32, depth=1, dim_head=16, heads=2, num_queries=4, timestep_in_dim=16
    )
    enliven(transformer, ("processor", "image_proj"))
    return pipe


def agree(pipe, run, scale, block, way):
    plain = run()
    sequential = type(pipe).__name__.startswith("Flux")
    with by_hand(pipe.transformer, scale, weight=W, channels=CHANNELS, block=block, sequential=sequential):
        theirs = run()
    guider = dg.DetailGuidance(detail_guidance_scale=W, disrupt=dg.Disrupt(CHANNELS, block))
    with dg.detail_guidance(pipe, guider, way=way) as record:
        ours = run()
    near(ours, theirs, plain)
    assert record.report.guided == record.report.planned


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("block", [0, 1])
def test_ip_adapter_on_flux(way, scale, block):
    pipe = flux_with_adapter()
    images = {f"{part}ip_adapter_image_embeds": [torch.randn(1, 1, 24, generator=generator(5 + len(part)))]
              for part in ("", "negative_")}  # fmt: skip

    def run():
        return pipe("red apple", num_inference_steps=2, max_sequence_length=8, output_type="latent", **tiny.SIZE,
                    generator=generator(), true_cfg_scale=scale, negative_prompt="" if scale > 1 else None,
                    **images)[0]  # fmt: skip

    agree(pipe, run, scale, block, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("block", [0, 1])
def test_ip_adapter_on_sd3(way, scale, block):
    pipe = sd3_with_adapter()
    images = torch.randn(2 if scale > 1 else 1, 5, 24, generator=generator(5))

    def run():
        return pipe("red apple", num_inference_steps=2, max_sequence_length=8, output_type="latent", **tiny.SIZE,
                    generator=generator(), guidance_scale=scale, ip_adapter_image_embeds=images)[0]  # fmt: skip

    agree(pipe, run, scale, block, way)


@pytest.mark.parametrize("kind", [StableDiffusion3PAGPipeline, StableDiffusion3PAGImg2ImgPipeline])
def test_pag_pipelines_are_refused_by_name(kind):
    parts, takes = tiny.PIPELINES["sd3"]().components, inspect.signature(kind.__init__).parameters
    pipe = kind(**{name: part for name, part in parts.items() if name in takes}, pag_applied_layers=["blocks.2"])
    guider = dg.DetailGuidance(detail_guidance_scale=0.5, disrupt=dg.Disrupt(CHANNELS, 1))
    words = f"a {kind.__name__} adds a third, perturbed row .*dg.baselines.PAG"
    with pytest.raises(ValueError, match=words), dg.detail_guidance(pipe, guider):
        raise AssertionError
    with pytest.raises(ValueError, match=words):
        dg.load(pipe)


class Halves:
    """An attention processor that acts on the second half of the rows."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, attn, hidden_states, *args, **kwargs):
        hidden_states = hidden_states.clone()
        hidden_states[hidden_states.shape[0] // 2 :] *= 0.8
        return self.inner(attn, hidden_states, *args, **kwargs)


@contextmanager
def interfered(pipe, how):
    """Something of the user's own below the blocks, which acts on some rows only."""
    transformer = pipe.transformer
    block = transformer.transformer_blocks[0]
    own = transformer.attn_processors

    def output(module, args, output):
        first = output[0] if isinstance(output, tuple) else output
        first = first.clone()
        first[-1] *= 0.2
        return (first, *output[1:]) if isinstance(output, tuple) else first

    def inputs(module, args, kwargs):
        return args, {**kwargs, "hidden_states": torch.cat([kwargs["hidden_states"][:-1],
                                                            0.5 * kwargs["hidden_states"][-1:]])}  # fmt: skip

    handles = []
    if how == "hook on attention":
        handles = [block.attn.register_forward_hook(output)]
    if how == "hook on a linear layer":
        handles = [transformer.transformer_blocks[2].attn.to_q.register_forward_hook(output)]
    if how == "pre-hook":
        handles = [transformer.transformer_blocks[2].attn.register_forward_pre_hook(inputs, with_kwargs=True)]
    if how == "processor":
        transformer.set_attn_processor({name: Halves(p) for name, p in own.items()})
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        transformer.set_attn_processor(own)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["hook on attention", "hook on a linear layer", "pre-hook", "processor"])
def test_hooks_and_processors_below_the_blocks(how, way):
    pipe = tiny.PIPELINES["sd3"]()
    prompts = ["red apple", "owl"]

    def run():
        return pipe(prompts, num_inference_steps=2, max_sequence_length=8, output_type="latent", **tiny.SIZE,
                    generator=generator(), guidance_scale=4.0)[0]  # fmt: skip

    with interfered(pipe, how):
        agree(pipe, run, 4.0, 1, way)


@pytest.mark.parametrize("how", ["hook", "processor"])
def test_what_a_callback_puts_below_the_blocks_is_seen_at_the_next_step(how):
    pipe, rows = tiny.PIPELINES["sd3"](), []
    part = pipe.transformer.transformer_blocks[2].attn

    def put(pipeline, step, timestep, tensors):
        if step == 0 and how == "hook":
            part.register_forward_hook(lambda *_: None)
        if step == 0 and how == "processor":
            part.processor = Halves(part.processor)
        return tensors

    pipe.transformer.norm_out.register_forward_hook(lambda m, a, output: rows.append(len(output)))
    with dg.detail_guidance(pipe, dg.DetailGuidance(None, W, dg.Disrupt(CHANNELS, 1))):
        pipe("a", guidance_scale=3.0, num_inference_steps=2, callback_on_step_end=put, max_sequence_length=8,
             output_type="latent", **tiny.SIZE)  # fmt: skip
    assert rows == [3, 2, 2]  # one fork; then a rerun of all rows


def test_a_part_that_is_replaced_between_two_runs_is_seen():
    pipe, rows = tiny.PIPELINES["sd3"](), []
    part = pipe.transformer.transformer_blocks[2].attn
    pipe.transformer.norm_out.register_forward_hook(lambda m, a, output: rows.append(len(output)))
    with dg.detail_guidance(pipe, dg.DetailGuidance(None, W, dg.Disrupt(CHANNELS, 1))):
        for _ in range(2):
            pipe("a", guidance_scale=3.0, num_inference_steps=1, max_sequence_length=8, output_type="latent",
                 **tiny.SIZE)  # fmt: skip
            part.to_q = copy.deepcopy(part.to_q)
            part.to_q.register_forward_hook(lambda *_: None)
    assert rows == [3, 2, 2]
