"""A tiny LongCat-Image: 2 double and 3 single blocks, 8 x 12 tokens; its pipeline states 16 channels of latents."""

import tiny
import tiny_qwen
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LongCatImagePipeline, LongCatImageTransformer2DModel

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3}
STOCK = {"enable_prompt_rewrite": False}
HALVES = None
CHANNELS = 16
LIVE = True  # its loop reads the pipeline's own scale at each step
zero = tiny.zero_second


def afterwards(guided, cond):
    """What the pipeline does to a guided prediction."""
    return guided * (cond.norm(dim=-1, keepdim=True) / (guided.norm(dim=-1, keepdim=True) + 1e-8)).clamp(0, 1)


class Processor:
    """In the place of the one that rewrites prompts, which is not asked for."""


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        transformer = LongCatImageTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 6, 6],
        )
        made = LongCatImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(channels=CHANNELS),
            text_encoder=tiny_qwen.text_encoder(tokenizer),
            tokenizer=tokenizer,
            text_processor=Processor(),
            transformer=tiny.enliven(transformer),
        )
    made.tokenizer_max_length = 16
    made.prompt_template_encode_prefix, made.prompt_template_encode_suffix = "draw ", "."
    made.set_progress_bar_config(disable=True)
    return made
