"""Folders with tiny CLIP and DINOv2 models, transformers' real classes with random weights."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
)

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def images() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def clip(folder: Path) -> Path:
    tokenizer = tiny.clip_tokenizer()
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    text = {**SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": 16, **ids}
    config = CLIPConfig(text_config=text, vision_config={**SHAPE, "image_size": 32, "patch_size": 8}, projection_dim=8)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(images(), tokenizer).save_pretrained(folder)
    return folder


def dino(folder: Path) -> Path:
    torch.manual_seed(0)
    shape = {k: v for k, v in SHAPE.items() if k != "intermediate_size"}
    Dinov2Model(Dinov2Config(**shape, image_size=32, patch_size=8)).save_pretrained(folder)
    images().save_pretrained(folder)
    return folder
