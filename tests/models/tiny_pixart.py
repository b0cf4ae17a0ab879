"""A tiny PixArt-Sigma: 4 blocks, 8 x 12 tokens."""

import tiny
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 8, "clean_caption": False}
STOCK = {"use_resolution_binning": False}
HALVES = "uncond, cond"
zero = tiny.zero_tensor


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.t5_tokenizer()
        transformer = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=4,
            cross_attention_dim=32,
            sample_size=16,
            caption_channels=tiny.JOINT,
            use_additional_conditions=False,
        )
        made = PixArtSigmaPipeline(
            tokenizer=tokenizer,
            text_encoder=tiny.t5(tokenizer),
            vae=tiny.vae(),
            transformer=tiny.enliven(transformer),
            scheduler=DPMSolverMultistepScheduler(),
        )
    made.vae.register_to_config(shift_factor=None)
    made.set_progress_bar_config(disable=True)
    return made
