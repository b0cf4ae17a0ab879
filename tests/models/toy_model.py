"""A tiny model folder with its references beside it, as training.export would leave it: for tests of whole chains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tiny
from PIL import Image

from dg_tools.datasets.references import COLUMNS, STYLES, references

CARD = "---\ndg_tools:\n  call:\n    max_sequence_length: 8\n---\n\n# toy\n"
CHANNELS, BLOCK, VALUE = [3, 17], 1, 60.0  # planted


def write(folder: Path, names: int = 24, held_out: int = 5, family: str = "sd3") -> Path:
    """`folder / toy`, an SD3 pipeline with two planted massive channels, and `folder / emoji`, sprites of 32 pixels.

    Other families have nothing planted.
    """
    pipeline = tiny.PIPELINES[family]()
    if family == "sd3":
        tiny.plant(pipeline, BLOCK, CHANNELS, VALUE)
    model = folder / "toy"
    pipeline.save_pretrained(model)
    (model / "README.md").write_text(CARD, encoding="utf-8")
    source, sprites = references(), folder / "emoji"
    sprites.mkdir()
    chosen = source.names[:names]
    for style in STYLES:
        sheet = np.zeros((32, COLUMNS * 32, 4), np.uint8)
        for i in range(names):
            sheet[:, 32 * i : 32 * (i + 1)] = source.sprites[style][i][::2, ::2]
        Image.fromarray(sheet).save(sprites / f"{style}.webp", lossless=True)
    meta = {
        "names": chosen,
        "size": 32,
        "backgrounds": dict(list(source.backgrounds.items())[:4]),
        "held_out": [[name, STYLES[i % 2]] for i, name in enumerate(chosen[:held_out])],
    }
    (sprites / "names.json").write_text(json.dumps(meta), encoding="utf-8")
    return model
