"""A tiny Ovis-Image: 2 double and 3 single blocks, 8 x 12 tokens; a template of its own."""

import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, OvisImagePipeline, OvisImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

PROMPTS = ("a red apple", "two teapots, both of them of tin")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 16}
STOCK = {}
HALVES = None
zero = tiny.zero_second


def qwen3(tokenizer, layers=1):
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return Qwen3Model(config).eval()


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        tokenizer.chat_template = "sys{{ messages[0]['content'] }}."
        transformer = OvisImageTransformer2DModel(
            in_channels=16,
            out_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        )
        made = OvisImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(),
            text_encoder=qwen3(tokenizer),
            tokenizer=tokenizer,
            transformer=tiny.enliven(transformer),
        )
    made.system_prompt, made.user_prompt_begin_id = "", 3
    made.set_progress_bar_config(disable=True)
    return made
