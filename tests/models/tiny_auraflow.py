"""A tiny AuraFlow: 2 joint and 3 single blocks, 8 x 12 tokens."""

import tiny
import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 8}
STOCK = {}
HALVES = "uncond, cond"
zero = tiny.zero_last_tokens


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.t5_tokenizer()
        transformer = AuraFlowTransformer2DModel(
            sample_size=16,
            num_mmdit_layers=2,
            num_single_dit_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.JOINT,
            caption_projection_dim=32,
            pos_embed_max_size=256**2,  # the default size, 1024 x 1024 pixels, must fit
        )
        made = AuraFlowPipeline(
            tokenizer=tokenizer,
            text_encoder=tiny.t5(tokenizer),
            vae=tiny.vae(),
            transformer=tiny.enliven(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        )
    made.vae.register_to_config(shift_factor=None)
    made.set_progress_bar_config(disable=True)
    return made
