"""A tiny CogVideoX: 4 blocks, one frame of 8 x 12 tokens."""

import tiny
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

PROMPTS = ("a red apple", "two teapots")
SIZE = {"height": 128, "width": 192}
CALL = {"steps": 3, "max_sequence_length": 16}
STOCK = {"num_frames": 1, "use_dynamic_cfg": False}
HALVES = "uncond, cond"
LIVE = True  # its loop reads the pipeline's own scale at each step
zero = tiny.zero_first


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.t5_tokenizer()
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=16,
            text_embed_dim=tiny.JOINT,
            num_layers=4,
            sample_width=24,
            sample_height=16,
            sample_frames=9,
            max_text_seq_length=16,
        )
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        )
        made = CogVideoXPipeline(
            tokenizer=tokenizer,
            text_encoder=tiny.t5(tokenizer),
            vae=vae.eval(),
            transformer=tiny.enliven(transformer),
            scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
        )
    made.set_progress_bar_config(disable=True)
    return made
