"""A tiny Kandinsky 5 Image: 4 blocks over 8 x 12 tokens; sizes of its own, and a template."""

import tiny
import tiny_qwen
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5T2IPipeline, Kandinsky5Transformer3DModel
from transformers import CLIPTextModel

PROMPTS = ("a red apple", "two teapots")
SIZE = {"height": 128, "width": 192}
CALL = {"steps": 3, "max_sequence_length": 16}
STOCK = {}
HALVES = None
HIDDEN = "visual_embed"
zero = tiny.zero_tensor


def prediction(sample):
    """Of the one row that was asked for."""
    return sample[None]


class Processor:
    """In the place of Qwen2VLProcessor, whose part for videos needs torchvision; of text alone."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, text, images, videos, **settings):
        return self.tokenizer(text, **settings)


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer, c_tok = tiny.byte_tokenizer(), tiny.clip_tokenizer()
        transformer = Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=32,
            in_text_dim2=16,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=4,
            axes_dims=(4, 6, 6),
        )
        made = Kandinsky5T2IPipeline(
            transformer=tiny.enliven(transformer),
            vae=tiny.vae(halvings=3),
            text_encoder=tiny_qwen.text_encoder(tokenizer),
            tokenizer=Processor(tokenizer),
            text_encoder_2=tiny.clip(c_tok, CLIPTextModel, positions=77),
            tokenizer_2=c_tok,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    made.prompt_template, made.prompt_template_encode_start_idx = "draw {}.", 3
    made.resolutions = [(192, 128), (128, 192), (128, 128), (1024, 1024)]
    made.set_progress_bar_config(disable=True)
    return made
