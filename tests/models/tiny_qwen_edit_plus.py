"""A tiny Qwen-Image-Edit-Plus: two pictures to edit, of 8 x 16 tokens each."""

import tiny
import tiny_qwen
import tiny_qwen_edit
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "image": [tiny_qwen_edit.PICTURE, tiny_qwen_edit.PICTURE.rotate(180)]}
STOCK = {}
SCALE = "true_cfg_scale"
HALVES = None
REFERENCES = 2 * 8 * 16
SINGLE = True
zero, afterwards = tiny.zero_second, tiny_qwen.afterwards

pipeline_qwenimage_edit_plus.calculate_dimensions = lambda area, ratio: tiny_qwen_edit.smaller(area, ratio)[:2]


def pipeline():
    return tiny_qwen_edit.built(QwenImageEditPlusPipeline, "draw {}.")
