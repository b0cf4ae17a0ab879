"""A tiny FLUX.2 Klein: 2 double and 3 single blocks, 8 x 12 tokens."""

import tiny
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from transformers import Qwen3Config, Qwen3ForCausalLM

MODULAR = "Flux2KleinBaseAutoBlocks"
PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 16, "text_encoder_out_layers": (0, 1, 1)}
STOCK = {}
HALVES = None
NEGATIVE = False
zero = tiny.zero_last_tokens


TRANSFORMER = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 96,
    "timestep_guidance_channels": 16,
    "axes_dims_rope": (4, 4, 4, 4),
}


def vae():
    made = AutoencoderKLFlux2(
        block_out_channels=[8, 8],
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        mid_block_add_attention=False,
    )
    made.bn.running_mean.normal_()
    made.bn.running_var.uniform_(0.5, 2.0)
    return made.eval()


def quieter(transformer):
    """The blocks share large modulations: rounding would grow over the steps."""
    for parameter in transformer.parameters():
        parameter.data *= 0.6
    return transformer


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
        transformer = Flux2Transformer2DModel(**TRANSFORMER, guidance_embeds=False)
        made = Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=vae(),
            text_encoder=Qwen3ForCausalLM(config).eval(),
            tokenizer=tokenizer,
            transformer=quieter(tiny.enliven(transformer)),
        )
    made.set_progress_bar_config(disable=True)
    return made
