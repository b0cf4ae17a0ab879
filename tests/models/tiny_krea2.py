"""A tiny Krea 2: 4 blocks over 16 text and then 8 x 12 image tokens; a template of its own."""

import tiny
import tiny_qwen
import tiny_qwen21
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel

PROMPTS = ("a red apple", "teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 16}
STOCK = {}
HALVES = None
OFFSET = 1.0  # of the usual scale: its sum is c + g (c - u)
zero = tiny.zero_last_tokens


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        transformer = Krea2Transformer2DModel(
            in_channels=16,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=32,
            num_text_layers=3,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        )
        made = Krea2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_qwen.vae(),
            text_encoder=tiny_qwen21.text_encoder(tokenizer).model,
            tokenizer=tokenizer,
            transformer=tiny.enliven(transformer),
            text_encoder_select_layers=(0, 1, 1),
        )
    made.prompt_template_encode_prefix, made.prompt_template_encode_suffix = "dra", "."
    made.prompt_template_encode_start_idx, made.prompt_template_encode_num_suffix_tokens = 3, 1
    made.set_progress_bar_config(disable=True)
    return made
