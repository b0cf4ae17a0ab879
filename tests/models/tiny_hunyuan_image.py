"""A tiny HunyuanImage 2.1: 2 double and 3 single blocks, 16 x 24 tokens of one latent pixel, CFG in its guider."""

import tiny
import tiny_qwen
import torch
from diffusers import (
    AutoencoderKLHunyuanImage,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

PROMPTS = ("a red apple", 'two teapots, "tea"')  # words in quotes are for the second text encoder
SIZE = {"height": 16, "width": 24}
CALL = {"steps": 3}
STOCK = {}
SCALE = None  # of its call; see `set_scale`
HALVES = None
zero = tiny.zero_first


def set_scale(pipe, scale):
    """The CFG scale of the pipeline's next calls."""
    pipe.guider = ClassifierFreeGuidance(scale) if scale > 1 else None


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer, glyphs = tiny.byte_tokenizer(), ByT5Tokenizer()
        encoder = tiny_qwen.text_encoder(tokenizer, layers=2)
        config = T5Config(
            vocab_size=len(glyphs), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0
        )
        transformer = HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_single_layers=3,
            num_refiner_layers=1,
            patch_size=(1, 1),
            text_embed_dim=32,
            text_embed_2_dim=16,
            rope_axes_dim=(8, 8),
        )
        vae = AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            spatial_compression_ratio=2,
            sample_size=32,
            scaling_factor=0.75,
        )
        made = HunyuanImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae.eval(),
            text_encoder=encoder,
            tokenizer=tokenizer,
            text_encoder_2=T5EncoderModel(config).eval(),
            tokenizer_2=glyphs,
            transformer=tiny.enliven(transformer),
        )
    made.tokenizer_max_length, made.tokenizer_2_max_length = 24, 8
    made.prompt_template_encode, made.prompt_template_encode_start_idx = "draw {}.", 3
    made.set_progress_bar_config(disable=True)
    return made
