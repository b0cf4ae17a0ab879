"""Ring: pictures of 8 bits, latents and captions' token ids that stay on the GPU, and random batches of them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from training.scenes.recipe import SceneRecipe
from training.scenes.render import SAID


def as_pictures(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in [-1, 1], channels last, from (N, H, W, 3) uint8."""
    return (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2)


def random_crops(pixels: torch.Tensor, batch: int, side: int) -> torch.Tensor:
    """(batch, 3, side, side) in [-1, 1] from pictures (N, H, W, 3) uint8, corners on multiples of 4."""
    device, room = pixels.device, (pixels.shape[1] - side) // 4
    row = torch.randint(len(pixels), (batch, 1, 1), device=device)
    y, x = (4 * torch.randint(room + 1, (batch, 1), device=device) + torch.arange(side, device=device) for _ in "yx")
    return as_pictures(pixels[row, y[:, :, None], x[:, None, :]])


class Ring:
    """Latents and token ids of the newest pictures, on the GPU; `batch` draws from them at random, and captions too.

    Args:
        vae: encodes the pictures.
        room: pictures that it holds; the oldest are replaced.
    """

    def __init__(self, vae: AutoencoderKL, recipe: SceneRecipe, room: int) -> None:
        self.vae, self.recipe, self.device, self.room = vae, recipe, str(vae.device), room
        side, dit = recipe.latent_size, recipe.dit
        shape = (room, recipe.vae.latent_channels, side, side)
        self.latents = torch.zeros(shape, dtype=torch.float16, device=self.device)
        self.clip = torch.zeros(room, len(SAID) + 1, dit.clip_length, dtype=torch.int16, device=self.device)
        self.t5 = torch.zeros(room, len(SAID) + 1, dit.t5_length, dtype=torch.int16, device=self.device)
        self.held = torch.zeros((), device=self.device)  # a tensor, so that a recorded step sees it grow
        self.made = 0

    @torch.no_grad()
    def add(self, shard: dict[str, torch.Tensor]) -> None:
        """Encode a shard and put it in the place of the oldest."""
        pixels = shard["pictures"].to(self.device)
        latents = torch.cat([self.vae.encode(as_pictures(p)).latent_dist.mode() for p in pixels.split(64)])
        place = (self.made + torch.arange(len(latents), device=self.device)) % self.room
        self.latents[place] = latents.half()
        for ring, ids in ((self.clip, shard["clip"]), (self.t5, shard["t5"])):
            ring[place] = ids.to(self.device)
        self.made += len(latents)
        self.held.fill_(min(self.made, self.room))

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents (count, channels, h, w) and the ids of what is said of each: all of it, a part, or nothing."""
        row = (torch.rand(count, device=self.device) * self.held).long()
        style, background, anything = torch.rand(3, count, device=self.device)
        scenes = self.recipe.scenes
        way = (style >= scenes.style_said) + 2 * (background >= scenes.background_said).long()
        way = torch.where(anything < self.recipe.dit.unconditional, len(SAID), way)
        return self.latents[row].float(), self.clip[row, way].long(), self.t5[row, way].long()
