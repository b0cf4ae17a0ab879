"""The family records against the full-size configurations, built on the meta device: no memory, no weights."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

import dg_tools as dg
from dg_tools.families import FAMILIES, family_of
from dg_tools.models import check_record

SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
}
CONFIGS = {  # class, configuration, blocks, width, first and last site
    "SD3-medium": (
        SD3Transformer2DModel,
        {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
        (24, 1536, "0", "23"),
    ),
    "SD3.5-medium": (
        SD3Transformer2DModel,
        {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
         "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
        (24, 1536, "0", "23"),
    ),
    "SD3.5-large": (
        SD3Transformer2DModel,
        {**SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192,
         "qk_norm": "rms_norm"},
        (38, 2432, "0", "37"),
    ),
    "FLUX.1-dev": (
        FluxTransformer2DModel,
        {"patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
         "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True},
        (57, 3072, "double.0", "single.37"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONFIGS))
def test_full_size_configurations(name):
    kind, config, (count, width, first, last) = CONFIGS[name]
    with torch.device("meta"):
        transformer = kind(**config)
    family = family_of(transformer)
    check_record(family, transformer)
    blocks = list(family.blocks(transformer))
    assert (len(blocks), blocks[0][0], blocks[-1][0]) == (count, first, last)
    for site, record, block in blocks:
        chunks = record.chunks(block)
        assert getattr(block, record.norm).linear.out_features == len(chunks) * width, site
        assert {record.mlp_gate} <= set(chunks) and (record.attn is None or record.attn_gate in chunks)


def test_dual_attention_is_told_apart():
    dit = dg.load(tiny.PIPELINES["sd35-medium"]())
    chunks = [len(b.record.chunks(b.module)) for b in dit.blocks]
    assert chunks == [9, 9, 6, 6]


def test_records_are_distinct_and_frozen():
    assert len({f.name for f in FAMILIES}) == len({f.transformer for f in FAMILIES}) == len(FAMILIES)
    with pytest.raises(AttributeError):
        FAMILIES[0].name = "other"


def test_a_record_of_ones_own():
    """A class without a record works as soon as its record is passed."""
    from dataclasses import replace

    pipeline = tiny.sd3()
    other = type("MyTransformer2DModel", (type(pipeline.transformer),), {})
    pipeline.transformer.__class__ = other
    with pytest.raises(ValueError, match="pass family="):
        dg.load(pipeline)
    mine = replace(FAMILIES[0], name="mine", transformer="MyTransformer2DModel")
    made = dg.generate(dg.load(pipeline, family=mine), "apple", edits=dg.Disrupt([3], 1), progress=False, **tiny.CALL)
    assert len(made.images) == 1
