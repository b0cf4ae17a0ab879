"""LTX-Video: one stream that attends to the text, AdaLN from a table in each block; latents as tokens.

A picture is a video of one frame, which is the default here (`num_frames=1`); the tokens of several latent frames come
one frame after the other. Cross-attention has no gate. The forward's end reads the rows it began with, so that there is
no fork. A VAE that is told a noise level decodes at 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.latents import Latents, with_frames
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class Tokens(Latents):
    """A token for each latent pixel of each frame; latents have a mean and a deviation for each channel."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return pipeline._pack_latents(with_frames(latents), 1, 1)

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if latents.ndim != 3:
            return latents
        side = pipeline.vae_spatial_compression_ratio
        rows, columns = height // side, width // side
        frames = latents.shape[1] // (rows * columns)
        return pipeline._unpack_latents(latents, frames, rows, columns, 1, 1).squeeze(2)

    def scale(self, pipeline: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
        """What the pipeline's own functions take."""
        vae = pipeline.vae
        return vae.latents_mean, vae.latents_std, vae.config.scaling_factor

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return pipeline._denormalize_latents(with_frames(latents), *self.scale(pipeline))

    def from_vae(self, pipeline: Any, encoded: torch.Tensor) -> torch.Tensor:
        return pipeline._normalize_latents(encoded, *self.scale(pipeline)).squeeze(2)

    def decode(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) of latents of one frame; videos (N, 3, frames, H, W) of several."""
        vae, whole = pipeline.vae, self.to_vae(pipeline, latents)
        level = whole.new_zeros(len(whole)) if vae.config.timestep_conditioning else None
        return vae.decode(whole.to(vae.dtype), level, return_dict=False)[0].squeeze(2)

    def encode(self, pipeline: Any, pictures: torch.Tensor) -> torch.Tensor:
        return super().encode(pipeline, with_frames(pictures))


FAMILY = Family(
    name="ltx",
    transformer="LTXVideoTransformer3DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            returns="tensor",
            adaln=None,
            given="temb",
            table="scale_shift_table",
            attn="attn1",
            text_only=(),
        ),
    ),
    rows="batched",
    timestep_scale=1000.0,
    packing=1,
    partial_forward=True,
    guidance_argument="guidance_scale",
    live_scale="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    conditioning=("temb", "encoder_hidden_states", "encoder_attention_mask"),
    embedding="",
    fork=False,
    layer_norms=False,
    call={"num_frames": 1, "guidance_rescale": 0.0, "decode_timestep": 0.0, "decode_noise_scale": None},
    free_call=("num_frames",),
    own_call=("guidance_rescale",),
    pipelines=("LTXPipeline",),
    config=(("patch_size", 1), ("patch_size_t", 1)),
    latents=Tokens(),
    sizes=("num_frames", "height", "width"),
    defaults=Defaults(steps=50, pixels=(512, 704), text=(0, 128)),
    input_sizes=("in_channels", "out_channels", "caption_channels"),
)
