"""A tiny Lumina2: 4 layers over the text and then 8 x 12 image tokens."""

import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Config, Gemma2Model

PROMPTS = ("a red apple", "two teapots")  # of one length: others are refused in one call
SIZE = {"height": 128, "width": 192}
CALL = {"steps": 3, "max_sequence_length": 48, "system_prompt": "draw"}
STOCK = {}
HALVES = None
zero = tiny.zero_last_tokens


def given(inputs, latents, level):
    """A call with other latents, at a noise level that is given as its negative."""
    return {**inputs, "hidden_states": latents, "timestep": 1 + level}


def prediction(sample):
    """What the pipeline makes of what the transformer gives, as a velocity."""
    return -sample


def afterwards(guided, cond):
    """What the pipeline does to a guided prediction."""
    return guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        begin = ("<|endoftext|>", tokenizer.pad_token_id)  # Gemma's begin token: no text is empty
        tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
        config = Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
        )
        transformer = Lumina2Transformer2DModel(
            sample_size=16,
            in_channels=4,
            hidden_size=32,
            num_layers=4,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(64, 32, 32),
            cap_feat_dim=32,
        )
        made = Lumina2Pipeline(
            transformer=tiny.enliven(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(halvings=3),
            text_encoder=Gemma2Model(config).eval(),
            tokenizer=tokenizer,
        )
    made.set_progress_bar_config(disable=True)
    return made
