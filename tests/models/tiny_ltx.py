"""A tiny LTX-Video: 4 blocks, one frame of 8 x 12 tokens."""

import tiny
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel

PROMPTS = ("a red apple", "two teapots")
SIZE = {"height": 128, "width": 192}
CALL = {"steps": 3, "max_sequence_length": 16}
STOCK = {"num_frames": 1}
HALVES = "uncond, cond"
LIVE = True  # its loop reads the pipeline's own scale at each step
zero = tiny.zero_tensor


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.t5_tokenizer()
        transformer = LTXVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=4,
            caption_channels=tiny.JOINT,
        )
        vae = AutoencoderKLLTXVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            scaling_factor=0.75,
        )
        vae.latents_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        vae.latents_std.copy_(torch.tensor([1.5, 0.8, 1.2, 2.0]))
        made = LTXPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae.eval(),
            text_encoder=tiny.t5(tokenizer),
            tokenizer=tokenizer,
            transformer=tiny.enliven(transformer),
        )
    made.set_progress_bar_config(disable=True)
    return made
