"""A tiny Qwen-Image: 4 blocks, 8 x 12 tokens; a template of its own, as the real one is 200 bytes long."""

import tiny
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.modular_pipelines.qwenimage.prompt_templates import (
    QWENIMAGE_PROMPT_TEMPLATE,
    QWENIMAGE_PROMPT_TEMPLATE_START_IDX,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

MODULAR = "QwenImageAutoBlocks"
PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3}
STOCK = {}
SCALE = "true_cfg_scale"
HALVES = None
MEAN, STD = [0.1, -0.2, 0.3, 0.0], [1.5, 0.8, 1.2, 2.0]
zero = tiny.zero_second


def afterwards(guided, cond):
    """What the pipeline does to a guided prediction."""
    return guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


def as_modular(pipe):
    """The modular pipeline has its own copy of the real template."""
    pipe.prompt_template_encode = QWENIMAGE_PROMPT_TEMPLATE
    pipe.prompt_template_encode_start_idx = QWENIMAGE_PROMPT_TEMPLATE_START_IDX


def modular_latents(latents):
    """The modular pipeline returns them in the VAE's scale."""
    return latents * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def text_encoder(tokenizer, layers=1, **config):
    """A tiny Qwen2.5-VL."""
    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "eos_token_id": 256,
        "bos_token_id": 256,
        "rope_theta": 10000.0,
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
    }
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32, "fullatt_block_indexes": [0]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **config)).eval()


def vae():
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=MEAN,
        latents_std=STD,
    ).eval()


def transformer():
    made = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    return tiny.enliven(made)


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        made = QwenImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(),
            text_encoder=text_encoder(tokenizer),
            tokenizer=tokenizer,
            transformer=transformer(),
        )
    made.prompt_template_encode, made.prompt_template_encode_start_idx = "draw {}.", 3
    made.set_progress_bar_config(disable=True)
    return made
