"""A tiny Wan 2.1: 4 blocks, one frame of 8 x 12 tokens, and the multistep solver of its pipeline."""

import tiny
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

MODULAR = "WanBlocks"
PROMPTS = ("a red apple", "two teapots")
SIZE = {"height": 128, "width": 192}
CALL = {"steps": 3, "max_sequence_length": 8}
STOCK = {"num_frames": 1}
HALVES = None
zero = tiny.zero_tensor


WITHOUT = ("text_encoder",)  # it needs ftfy, which nothing else here does


def embeds(pipe):
    """What the text encoder's step would give."""
    prompt, negative = pipe.encode_prompt(PROMPTS[0], "", True, max_sequence_length=8)
    return {"prompt_embeds": prompt, "negative_prompt_embeds": negative}


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.t5_tokenizer()
        config = UMT5Config(
            vocab_size=len(tokenizer), d_model=tiny.JOINT, d_kv=16, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0
        )
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            text_dim=tiny.JOINT,
            freq_dim=16,
            ffn_dim=32,
            num_layers=4,
            rope_max_seq_len=64,
        )
        vae = AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.2, 2.0],
        )
        made = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=UMT5EncoderModel(config).eval(),
            vae=vae.eval(),
            scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
            transformer=tiny.enliven(transformer),
        )
    made.set_progress_bar_config(disable=True)
    return made
