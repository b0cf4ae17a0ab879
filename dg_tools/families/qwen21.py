"""Qwen-Image 2.1: one stream of text and then image tokens, and one modulation for all blocks, by its own pipeline.

Each block scales its norms and closes its gates, which are tanhs, with the same four chunks; their last row is for the
text, at time 0; the text attends to no image token. The pipeline keeps the text's keys and values after the first step
and then gives the transformer image tokens alone: that cache is not used here, so every step computes the text tokens
again. Pictures have an alpha channel. It is not shown; a picture without one gets an alpha of 1. Reference
pictures, which come before the picture's own tokens, are refused. In one call with prompts of different lengths the
padding shifts the positions of the shorter ones' pictures, which is the pipeline's own doing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.inputs import ImageLast
from dg_tools.families.latents import Standardised, with_frames
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class Unpatched(Standardised):
    """Tokens of one latent pixel each, and a VAE of pictures with alpha."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return pipeline._pack_latents(latents, *latents.shape)

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if latents.ndim != 3:
            return latents
        return pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor).squeeze(2)

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        mean, factor = self.scale(pipeline, latents)
        return with_frames(latents * (1 / factor) + mean)

    def decode(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(pipeline, latents)[:, :3]

    def encode(self, pipeline: Any, pictures: torch.Tensor) -> torch.Tensor:
        import torch

        return super().encode(pipeline, torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1))


FAMILY = Family(
    name="qwen21",
    transformer="QwenImage21Transformer2DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            returns="sequence",
            adaln=None,
            given="modulation",
            still=True,
            modulation=("scale_msa", "gate_msa", "scale_mlp", "gate_mlp"),
            gate_is_tanh=True,
            mlp="img_mlp",
            mlp_is_concatenated=True,
            text_only=(),
        ),
    ),
    rows="sequential",
    timestep_scale=1.0,
    packing=None,
    partial_forward=True,
    guidance_argument="true_cfg_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_mask", "img_mask"),
    conditioning=("attention_mask", "key_valid"),
    embedding="",
    fork=False,
    inputs=ImageLast(),
    call={"use_kv_cache": False, "image": None},
    own_call=("use_kv_cache", "image"),
    pipelines=("QwenImage21Pipeline",),
    config=(("causal_condition", True), ("patch_size", 1)),
    latents=Unpatched(),
    defaults=Defaults(steps=40, pixels=(1024, 1024)),
    shapes="img_shapes",
    input_sizes=("in_channels", "context_in_dim"),
)
