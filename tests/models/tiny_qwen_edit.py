"""A tiny Qwen-Image-Edit: Qwen-Image's transformer, 8 x 12 tokens and 8 x 16 of the one to edit."""

import tiny
import tiny_qwen
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageEditPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from PIL import Image
from transformers import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
PICTURE = Image.effect_noise((48, 32), 100).convert("RGB")
CALL = {"steps": 3, "image": PICTURE}
STOCK = {}
SCALE = "true_cfg_scale"
HALVES = None
REFERENCES = 8 * 16  # tokens
SINGLE = True  # one prompt a call: one picture to edit belongs to it
PAD = "<|image_pad|>"
zero, afterwards = tiny.zero_second, tiny_qwen.afterwards


def smaller(area, ratio):
    """The pipeline brings each picture to a megapixel: here to 32 x 64."""
    return 64, 32, None


pipeline_qwenimage_edit.calculate_dimensions = smaller


class Processor:
    """In the place of Qwen2VLProcessor, whose part for videos needs torchvision; the other parts are real."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.image_processor = Qwen2VLImageProcessorPil()

    def __call__(self, text, images, padding, return_tensors):
        pictures = self.image_processor(images=images, return_tensors=return_tensors)
        counts = iter(pictures["image_grid_thw"].prod(1) // self.image_processor.merge_size**2)
        filled = []
        for words in text:
            first, *rest = words.split(PAD)
            filled.append(first + "".join(PAD * int(next(counts)) + part for part in rest))
        tokens = self.tokenizer(filled, padding=padding, return_tensors=return_tensors)
        return BatchFeature({**tokens, **pictures})


def built(kind, template):
    """A tiny pipeline of one of the classes that edit."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": [PAD]})
        made = kind(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_qwen.vae(),
            text_encoder=tiny_qwen.text_encoder(tokenizer, image_token_id=tokenizer.convert_tokens_to_ids(PAD)),
            tokenizer=tokenizer,
            processor=Processor(tokenizer),
            transformer=tiny_qwen.transformer(),
        )
    made.prompt_template_encode, made.prompt_template_encode_start_idx = template, 3
    made.set_progress_bar_config(disable=True)
    return made


def pipeline():
    return built(QwenImageEditPipeline, f"draw {PAD} {{}}.")
