"""From pictures to latents and back, in the pipeline's own scale and layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dg_tools.models.dit import DiT


def spatial(dit: DiT, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The transformer's input or output as latents (N, C, H, W); height and width are the picture's, in pixels."""
    return dit.family.latents.unpack(dit.pipeline, latents, height, width)


@torch.no_grad()
def decode(dit: DiT, latents: torch.Tensor, output_type: str = "pil") -> Any:
    """Pictures of latents (N, C, H, W), by the pipeline's own steps; the first frame of (N, C, frames, H, W)."""
    from diffusers.image_processor import VaeImageProcessor

    processor = getattr(dit.pipeline, "image_processor", None) or VaeImageProcessor()
    decoded = dit.family.latents.decode(dit.pipeline, latents)
    decoded = decoded[:, :, 0] if decoded.ndim == 5 else decoded
    return processor.postprocess(decoded, output_type=output_type)


@torch.no_grad()
def decode_frames(dit: DiT, latents: torch.Tensor) -> list[list[Any]]:
    """The frames of videos as PIL pictures, of latents (N, C, frames, H, W); one frame each of (N, C, H, W)."""
    from diffusers.image_processor import VaeImageProcessor

    decoded = dit.family.latents.decode(dit.pipeline, latents)
    decoded = decoded if decoded.ndim == 5 else decoded[:, :, None]
    return [VaeImageProcessor().postprocess(video.transpose(0, 1), output_type="pil") for video in decoded]


def pictures(dit: DiT, latents: torch.Tensor, *, batch: int = 32) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [-1, 1], float32 on the CPU, of latents (N, C, h, w): what metrics are computed on.

    Args:
        dit: the model whose VAE decodes.
        latents: (N, C, h, w), as a scheduler leaves them (`spatial` unpacks FLUX.1's), or a predicted x0.
        batch: how many are decoded at once.
    """
    parts = [decode(dit, part, output_type="pt").cpu().float() * 2 - 1 for part in latents.split(batch)]
    return torch.cat(parts)


@torch.no_grad()
def encode(dit: DiT, pictures: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, h, w) of pictures (N, 3, H, W) in [-1, 1]: the posterior mean, as the transformer takes it."""
    vae = dit.pipeline.vae
    return dit.family.latents.encode(dit.pipeline, pictures.to(vae.device, vae.dtype))


def packed(dit: DiT, latents: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, H, W) as the transformer takes them; `spatial` undoes it."""
    return dit.family.latents.pack(dit.pipeline, latents.to(dit.dtype))


def on_grid(
    dit: DiT, inputs: Mapping[str, Any], x: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`change` of what the transformer gives, as (N, C, h, w), in the transformer's layout again.

    Args:
        dit: the model.
        inputs: the transformer's, which say how its tokens lie.
        x: what it gives: latents, or tokens (N, tokens, channels); those of reference pictures are left as they are.
        change: of float fields (N, C, h, w), or (N, C, frames, h, w).

    Raises:
        ValueError: tokens whose places the inputs do not tell.
    """
    if x.ndim != 3:
        return change(x)
    grid = dit.family.picture_grid(dit.transformer, inputs)
    if grid is None:
        raise ValueError(f"family {dit.family.name!r}: the inputs do not say where the image tokens lie")
    own, (height, width) = grid[0] * grid[1], (dit.pixels_per_token * side for side in grid)
    changed = change(dit.family.latents.unpack(dit.pipeline, x[:, :own], height, width))
    return torch.cat([dit.family.latents.pack(dit.pipeline, changed).to(x.dtype), x[:, own:]], dim=1)
