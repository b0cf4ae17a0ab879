"""FLUX.2 Klein: double and single blocks with AdaLN chunks from the model itself, the same for all blocks of a list.

Single blocks return one sequence, text first. Noise is added to latents as 2 x 2 patches, standardised by the VAE's own
batch norm. Tokens of reference pictures come after the picture's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.latents import Latents
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class Patches(Latents):
    """2 x 2 latent pixels make a token; the VAE's batch norm converts between the VAE's scale and the transformer's."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return pipeline._pack_latents(pipeline._patchify_latents(latents))

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if latents.ndim == 3:
            side = pipeline.vae_scale_factor * 2
            latents = latents.transpose(1, 2).reshape(len(latents), -1, height // side, width // side)
        elif latents.shape[1] == pipeline.vae.config.latent_channels:
            return latents
        return pipeline._unpatchify_latents(latents)

    def scale(self, pipeline: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of patches, as (1, 4 C, 1, 1)."""
        norm, epsilon = pipeline.vae.bn, pipeline.vae.config.batch_norm_eps
        mean, variance = (x.view(1, -1, 1, 1) for x in (norm.running_mean, norm.running_var))
        return mean.to(like), (variance + epsilon).sqrt().to(like)

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        patches = pipeline._patchify_latents(latents)
        mean, deviation = self.scale(pipeline, patches)
        return pipeline._unpatchify_latents(patches * deviation + mean)

    def from_vae(self, pipeline: Any, encoded: torch.Tensor) -> torch.Tensor:
        patches = pipeline._patchify_latents(encoded)
        mean, deviation = self.scale(pipeline, patches)
        return pipeline._unpatchify_latents((patches - mean) / deviation)


FAMILY = Family(
    name="flux2",
    transformer="Flux2Transformer2DModel",
    lists=(
        BlockList("transformer_blocks", label="double", adaln=None, given="temb_mod_img"),
        BlockList(
            "single_transformer_blocks",
            label="single",
            length="num_single_layers",
            returns="sequence",
            adaln=None,
            given="temb_mod",
            modulation=("shift", "scale", "gate"),
            attn=None,
            mlp="attn.to_out",
            mlp_gate="gate",
            mlp_is_concatenated=True,
        ),
    ),
    rows="sequential",
    timestep_scale=1.0,
    packing=2,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "guidance"),
    conditioning=("temb_mod_img", "temb_mod_txt", "temb_mod"),
    embedding="",
    negative_prompt=False,
    pipelines=("Flux2KleinPipeline",),
    latents=Patches(),
    positions="img_ids",
    defaults=Defaults(steps=50, latent_side=128),
)
