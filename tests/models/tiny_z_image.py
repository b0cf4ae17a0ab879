"""A tiny Z-Image: 4 layers over 8 x 12 image tokens and 32 or 64 of text, in one sequence with the image first."""

import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

PROMPTS = ("a red apple", "two teapots, and a text that is longer than 32 tokens")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 64}
STOCK = {"cfg_normalization": False}
HALVES = "cond, uncond"
OFFSET = 1.0  # of the usual scale: its sum is c + g (c - u)
HIDDEN = "x"
RAGGED = True  # a rerun has all rows of its call: their texts differ in length


def zero(output, channels, tokens):
    """One sequence that begins with `tokens` image tokens."""
    changed = output.clone()
    changed[:, :tokens, channels] = 0
    return changed


def state(inputs):
    """Latents of a call of the transformer."""
    return torch.stack(list(inputs["x"]))[:, :, 0]


def given(inputs, latents, level):
    """A call with other latents, at a noise level."""
    return {**inputs, "x": list(latents[:, :, None].unbind()), "t": 1 - level}


def prediction(sample):
    """What the pipeline makes of what the transformer gives, as a velocity."""
    return -torch.stack(list(sample))[:, :, 0]


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        tokenizer.chat_template = "{{ messages[0]['content'] }}."
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
        )
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=4,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 64, 64],
        )
        made = ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(),
            text_encoder=Qwen3Model(config).eval(),
            tokenizer=tokenizer,
            transformer=tiny.enliven(transformer),
        )
    made.set_progress_bar_config(disable=True)
    return made
