"""A tiny Bria: 2 double and 3 single blocks, 8 x 12 tokens."""

import tiny
import torch
from diffusers import BriaPipeline, BriaTransformer2DModel, FlowMatchEulerDiscreteScheduler

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 16}
STOCK = {"normalize": False, "clip_value": None}
HALVES = "uncond, cond"
LIVE = True  # its loop reads the pipeline's own scale at each step
zero = tiny.zero_second


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.t5_tokenizer()
        transformer = BriaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.JOINT,
            axes_dims_rope=[4, 6, 6],
        )
        made = BriaPipeline(
            transformer=tiny.enliven(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(),
            text_encoder=tiny.t5(tokenizer),
            tokenizer=tokenizer,
        )
    made.set_progress_bar_config(disable=True)
    return made
