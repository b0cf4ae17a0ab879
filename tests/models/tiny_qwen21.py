"""A tiny Qwen-Image 2.1: 4 blocks over text and then 8 x 12 image tokens; a template of its own."""

import tiny
import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from transformers import BatchFeature, Qwen3VLConfig, Qwen3VLForConditionalGeneration

PROMPTS = ("a red apple", "two teapots")  # of one length: padding shifts the positions of the shorter one's picture
SIZE = {"height": 128, "width": 192}
CALL = {"steps": 3}
STOCK = {"use_kv_cache": False}
SCALE = "true_cfg_scale"
HALVES = None
PAD = "<|image_pad|>"
zero = tiny.zero_last_tokens


def prediction(sample):
    """Of the image tokens, which are the last."""
    return sample[:, -96:]


def shown(pictures):
    """Without alpha."""
    return pictures[..., :3]


class Processor:
    """In the place of Qwen3VLProcessor, whose part for videos needs torchvision; of text alone."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages, tokenize, return_dict):
        return [self.tokenizer.encode("sys")]

    def __call__(self, text, padding, padding_side, return_tensors):
        tokens = self.tokenizer(text, padding=padding, padding_side=padding_side, return_tensors=return_tensors)
        return BatchFeature(dict(tokens))


def text_encoder(tokenizer):
    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
              "deepstack_visual_indexes": [0]}  # fmt: skip
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision)).eval()


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": [PAD]})
        vae = AutoencoderKLQwenImage21(
            base_dim=8,
            decoder_base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False] * 4,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.2, 2.0],
        )
        transformer = QwenImage21Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=32,
            axes_dims_rope=(4, 6, 6),
        )
        made = QwenImage21Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae.eval(),
            text_encoder=text_encoder(tokenizer),
            processor=Processor(tokenizer),
            transformer=tiny.enliven(transformer),
        )
    made.prompt_template_t2i = "sysdraw {}."
    made.set_progress_bar_config(disable=True)
    return made
