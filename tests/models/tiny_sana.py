"""A tiny Sana: 4 blocks, 4 x 6 tokens of one latent pixel, a 16x VAE, and the multistep solver of its pipeline."""

import tiny
import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from transformers import Gemma2Config, Gemma2Model

PROMPTS = ("a red apple", "two teapots")
SIZE = {"height": 64, "width": 96}
CALL = {"steps": 3, "max_sequence_length": 8, "complex_human_instruction": None}
STOCK = {"use_resolution_binning": False}
HALVES = "uncond, cond"
zero = tiny.zero_tensor


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        config = Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=tiny.JOINT,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
        )
        transformer = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=tiny.JOINT,
            sample_size=32,
        )
        vae = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=(*["ResBlock"] * 4, "EfficientViTBlock"),
            decoder_block_types=(*["ResBlock"] * 4, "EfficientViTBlock"),
            encoder_block_out_channels=(8,) * 5,
            decoder_block_out_channels=(8,) * 5,
            encoder_qkv_multiscales=(*[()] * 4, (5,)),
            decoder_qkv_multiscales=(*[()] * 4, (5,)),
            encoder_layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.4,
        )
        made = SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=Gemma2Model(config).eval(),
            vae=vae.eval(),
            transformer=tiny.enliven(transformer),
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    made.set_progress_bar_config(disable=True)
    return made
