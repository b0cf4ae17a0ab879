"""How do latents reach the transformer and the VAE? Each layout is one small class, named in a family's record.

Everywhere else latents are (N, C, H, W), in the scale of the noise that the pipeline begins with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a record is read without torch
    import torch


class Latents:
    """Latents that the transformer takes as they are; the VAE's scale and shift from its configuration."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) as the transformer takes them."""
        return latents

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(N, C, H, W) of what the transformer takes or gives; height and width are the picture's, in pixels."""
        return latents

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """What the VAE decodes. The order of operations is the pipelines' own, to the last bit."""
        config = pipeline.vae.config
        scaled = latents / config.scaling_factor
        shift = getattr(config, "shift_factor", None)
        return scaled if shift is None else scaled + shift

    def from_vae(self, pipeline: Any, encoded: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) of what the VAE encoded a picture to."""
        config = pipeline.vae.config
        return (encoded - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor

    def decode(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] of latents (N, C, H, W)."""
        return pipeline.vae.decode(self.to_vae(pipeline, latents).to(pipeline.vae.dtype), return_dict=False)[0]

    def encode(self, pipeline: Any, pictures: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, H, W) of pictures (N, 3, H, W) in [-1, 1]: the posterior mean where there is a posterior."""
        code = pipeline.vae.encode(pictures)
        return self.from_vae(pipeline, code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latent)


class Packed(Latents):
    """2 x 2 latent pixels make a token, by the pipeline's own functions (FLUX.1)."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return pipeline._pack_latents(latents, *latents.shape)

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if latents.ndim != 3:
            return latents
        return pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)


class Standardised(Latents):
    """Latents of a VAE of videos, (N, C, 1, H, W) for a picture, with a mean and a deviation for each channel.

    Those of several frames stay (N, C, frames, H, W).
    """

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return with_frames(latents)

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latents.squeeze(2) if latents.ndim == 5 else latents

    def scale(self, pipeline: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean, and one over the deviation, as (1, C, 1, 1), or with one dimension more for several frames."""
        import torch

        config, shape = pipeline.vae.config, (1, -1, *[1] * (like.ndim - 2))
        mean, deviation = (torch.tensor(x).view(shape) for x in (config.latents_mean, config.latents_std))
        return mean.to(like), (1.0 / deviation).to(like)

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        mean, factor = self.scale(pipeline, latents)
        return with_frames(latents / factor + mean)

    def from_vae(self, pipeline: Any, encoded: torch.Tensor) -> torch.Tensor:
        encoded = encoded.squeeze(2)
        mean, factor = self.scale(pipeline, encoded)
        return (encoded - mean) * factor

    def decode(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) of latents of one frame; videos (N, 3, frames, H, W) of several."""
        return super().decode(pipeline, latents).squeeze(2)

    def encode(self, pipeline: Any, pictures: torch.Tensor) -> torch.Tensor:
        return super().encode(pipeline, with_frames(pictures))


def with_frames(latents: torch.Tensor) -> torch.Tensor:
    """(N, C, frames, H, W), where the dimension of frames is left out of those of one frame."""
    return latents[:, :, None] if latents.ndim == 4 else latents


PLAIN, PACKED = Latents(), Packed()
