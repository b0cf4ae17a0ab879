"""From pictures to latents and back, in the pipeline's own scale and layout."""

from __future__ import annotations

from typing import Any

import torch

from dg_tools.models import DiT


def spatial(dit: DiT, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Latents as (N, C, H, W); FLUX pipelines pack 2 x 2 of them into tokens."""
    if latents.ndim == 4:
        return latents
    return dit.pipeline._unpack_latents(latents, height, width, dit.pipeline.vae_scale_factor)


@torch.no_grad()
def decode(dit: DiT, latents: torch.Tensor, output_type: str = "pil") -> Any:
    """Pictures of latents (N, C, H, W), by the pipeline's own steps."""
    config = dit.pipeline.vae.config
    scaled = latents / config.scaling_factor + config.shift_factor
    decoded = dit.pipeline.vae.decode(scaled.to(dit.pipeline.vae.dtype), return_dict=False)[0]
    return dit.pipeline.image_processor.postprocess(decoded, output_type=output_type)


@torch.no_grad()
def encode(dit: DiT, pictures: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, h, w) of pictures (N, 3, H, W) in [-1, 1]: the posterior mean, as the transformer takes it."""
    vae = dit.pipeline.vae
    mean = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mode()
    return (mean - vae.config.shift_factor) * vae.config.scaling_factor


def packed(dit: DiT, latents: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, H, W) as the transformer takes them; `spatial` undoes it."""
    given = latents.to(dit.dtype)
    return dit.pipeline._pack_latents(given, *given.shape) if dit.family.packing else given
