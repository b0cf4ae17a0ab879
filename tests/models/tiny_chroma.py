"""A tiny Chroma: 2 double and 3 single blocks, 8 x 12 tokens."""

import tiny
import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 8}
STOCK = {}
HALVES = None
zero = tiny.zero_last_tokens


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.t5_tokenizer()
        transformer = ChromaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.JOINT,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
        made = ChromaPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(),
            text_encoder=tiny.t5(tokenizer),
            tokenizer=tokenizer,
            transformer=tiny.enliven(transformer),
        )
    made.set_progress_bar_config(disable=True)
    return made
