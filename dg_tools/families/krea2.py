"""Krea 2: one sequence, text first and then the image tokens; AdaLN from one vector and a table in each block.

Its CFG is c + g (c - u): g is the usual scale less one. The text has a fixed length, padding included. (FLUX.1
Krea is a `FluxPipeline`, of family `flux`.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.latents import Standardised
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class PackedStandardised(Standardised):
    """Patches as tokens, by the pipeline's own functions."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return pipeline._pack_latents(latents, *latents.shape)

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latents if latents.ndim != 3 else pipeline._unpack_latents(latents, height, width).squeeze(2)


FAMILY = Family(
    name="krea2",
    transformer="Krea2Transformer2DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            returns="sequence",
            adaln=None,
            given="temb",
            table="scale_shift_table",
            modulation=("scale_msa", "shift_msa", "gate_msa", "scale_mlp", "shift_mlp", "gate_mlp"),
            mlp_is_concatenated=True,
            text_only=(),
        ),
    ),
    rows="sequential",
    timestep_scale=1.0,
    packing=2,
    partial_forward=True,
    guidance_argument="guidance_scale",
    scale_offset=1.0,
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    conditioning=("temb", "attention_mask"),
    embedding="",
    tail="final_layer",
    layer_norms=False,
    pipelines=("Krea2Pipeline",),
    pipeline_config=(("patch_size", 2),),
    latents=PackedStandardised(),
    positions="position_ids",
    defaults=Defaults(steps=28, pixels=(1024, 1024)),
    input_sizes=("in_channels", "num_text_layers", "text_hidden_dim"),
)
