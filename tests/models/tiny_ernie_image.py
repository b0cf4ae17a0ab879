"""A tiny ERNIE-Image: 4 layers over 8 x 12 image tokens and then the text, as (tokens, rows, channels)."""

import tiny
import tiny_flux2
import tiny_ovis_image
import torch
from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel, FlowMatchEulerDiscreteScheduler

PROMPTS = ("a red apple", "two teapots, both of them of tin")
SIZE = tiny.SIZE
CALL = {"steps": 3}
STOCK = {"use_pe": False}
HALVES = "uncond, cond"
HIDDEN = "x"


def zero(output, channels, tokens):
    """One sequence that begins with `tokens` image tokens."""
    changed = output.clone()
    changed[:tokens, :, channels] = 0
    return changed


def rows_first(output):
    """(rows, tokens, channels) of what a block takes or returns."""
    return output.transpose(0, 1)


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        transformer = ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=4,
            ffn_hidden_size=32,
            in_channels=16,
            out_channels=16,
            text_in_dim=32,
            rope_axes_dim=(4, 6, 6),
        )
        made = ErnieImagePipeline(
            transformer=tiny.enliven(transformer),
            vae=tiny_flux2.vae(),
            text_encoder=tiny_ovis_image.qwen3(tokenizer, layers=2),
            tokenizer=tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    made.set_progress_bar_config(disable=True)
    return made
