"""Qwen-Image and Qwen-Image-Edit: two streams in a tuple, AdaLN in `img_mod`, latents standardised by channel.

Tokens of the pictures to edit come after the picture's own.
With classifier-free guidance the pipeline rescales every token of the guided prediction to the norm of the conditional
one. Detail Guidance is therefore put into the unconditional call, so that the norm stays that of the clean prediction,
as it does in the modular pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.latents import PACKED, Standardised
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class PackedStandardised(Standardised):
    """Tokens as in FLUX.1."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return PACKED.pack(pipeline, latents)

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return super().unpack(pipeline, PACKED.unpack(pipeline, latents, height, width), height, width)


FAMILY = Family(
    name="qwen",
    transformer="QwenImageTransformer2DModel",
    lists=(BlockList("transformer_blocks", adaln="img_mod.1", mlp="img_mlp", text_only=("txt_norm1", "txt_norm2")),),
    rows="sequential",
    timestep_scale=1.0,
    packing=2,
    partial_forward=True,
    guidance_argument="true_cfg_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_mask", "guidance"),
    conditioning=("temb", "encoder_hidden_states_mask"),
    pipelines=("QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline"),
    config=(("zero_cond_t", False), ("use_layer3d_rope", False)),
    latents=PackedStandardised(),
    rescaling=(
        "Qwen-Image's pipeline rescales every token of a guided prediction to the norm of the conditional one: of what "
        "a guidance adds the direction stays, not the size"
    ),
    defaults=Defaults(steps=50, latent_side=128),
    shapes="img_shapes",
)
