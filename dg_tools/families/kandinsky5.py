"""Kandinsky 5 Image: one stream that attends to the text; self- and cross-attention each with AdaLN and a gate.

Latents are (rows, frames, height, width, channels), with one frame. The blocks that read only the text are not covered.
Only sizes in the pipeline's list are allowed. The forward's end reshapes to the rows it began with, so that there is no
fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.inputs import Inputs
from dg_tools.families.latents import Latents
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class ChannelsLast(Latents):
    """(N, 1, H, W, C) for the transformer; no shift in the VAE's scale."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return latents.permute(0, 2, 3, 1)[:, None].contiguous()

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latents[:, 0].permute(0, 3, 1, 2).contiguous() if latents.ndim == 5 else latents

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return latents / pipeline.vae.config.scaling_factor

    def from_vae(self, pipeline: Any, encoded: torch.Tensor) -> torch.Tensor:
        return encoded * pipeline.vae.config.scaling_factor


def listed(pipeline: Any, height: int, width: int) -> tuple[int, int]:
    """The size of the pipeline's list that its call makes of this one: that of the nearest aspect ratio."""
    if (width, height) in pipeline.resolutions:
        return height, width
    made: tuple[int, int] = min(pipeline.resolutions, key=lambda size: abs(size[0] / size[1] - width / height))
    return made[1], made[0]


FAMILY = Family(
    name="kandinsky5",
    transformer="Kandinsky5Transformer3DModel",
    lists=(
        BlockList(
            "visual_transformer_blocks",
            returns="tensor",
            hidden="visual_embed",
            adaln="visual_modulation.out_layer",
            modulation=(
                *("shift_msa", "scale_msa", "gate_msa"),
                *("shift_msa2", "scale_msa2", "gate_msa2"),
                *("shift_mlp", "scale_mlp", "gate_mlp"),
            ),
            attn="self_attention",
            attn_dual="cross_attention",
            mlp="feed_forward",
            text_only=(),
            length="num_visual_blocks",
        ),
    ),
    rows="sequential",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
    conditioning=("text_embed", "time_embed", "rope"),
    embedding="time_embed",
    tail="out_layer",
    fork=False,
    inputs=Inputs(),  # what it returns is a tensor, where others return a tuple
    pipelines=("Kandinsky5T2IPipeline",),
    config=(("visual_cond", False), ("attention_type", "regular")),
    latents=ChannelsLast(),
    fit=listed,
    layout="nfhwc",
    defaults=Defaults(steps=50, pixels=(1024, 1024), text=(0, 512)),
    width_config="model_dim",
    input_sizes=("in_visual_dim", "out_visual_dim", "patch_size", "in_text_dim", "in_text_dim2"),
)
