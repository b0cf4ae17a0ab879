"""A tiny DiT-XL/2: 4 blocks, 4 x 4 tokens. The null class is 1000, so that there are 1000 others."""

import tiny
import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

PROMPTS = (207, 3)
SIZE = {}  # the pipeline makes one size
CALL = {"steps": 3}
STOCK = {}
HALVES = "cond, uncond"
zero = tiny.zero_tensor


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=8,
            num_layers=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
        made = DiTPipeline(
            transformer=tiny.enliven(transformer),
            vae=tiny.vae(),
            scheduler=DDIMScheduler(clip_sample=False),
            id2label={"207": "golden retriever, retriever"},
        )
    made.set_progress_bar_config(disable=True)
    return made
