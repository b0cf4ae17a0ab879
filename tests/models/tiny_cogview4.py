"""A tiny CogView4: 4 blocks, 8 x 12 tokens."""

import tiny
import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
from tokenizers.processors import TemplateProcessing
from transformers import GlmConfig, GlmModel

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 16}
STOCK = {}
HALVES = None
zero = tiny.zero_first


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        end = tokenizer.pad_token  # GLM's puts special tokens first, so that no prompt is empty
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{end} $A", special_tokens=[(end, 256)])
        config = GlmConfig(
            vocab_size=len(tokenizer),
            hidden_size=tiny.JOINT,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            pad_token_id=256,
            eos_token_id=256,
        )
        transformer = CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            text_embed_dim=tiny.JOINT,
            time_embed_dim=16,
            condition_dim=8,
            sample_size=16,
        )
        made = CogView4Pipeline(
            tokenizer=tokenizer,
            text_encoder=GlmModel(config).eval(),
            vae=tiny.vae(),
            transformer=tiny.enliven(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(
                base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
            ),
        )
    made.vae.register_to_config(shift_factor=None)
    made.set_progress_bar_config(disable=True)
    return made
