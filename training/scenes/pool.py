"""Pool: latents of scenes that are always new, drawn in shards while training goes on.

A shard is a function of seed, size and number. It is kept on disk while it is in use, so a run that is taken up again
need not encode it a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from training.recipe import write_safely
from training.scenes.recipe import SceneRecipe
from training.scenes.scene import Scene, Scenes

FAR = 100_000  # numbers of shards by stage are this far apart


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor, size: int) -> torch.Tensor:
    """(N, channels, h, w): latents of pictures (N, 3, H, W) in [-1, 1], first reduced to `size` by area."""
    factor = pictures.shape[-1] // size
    small = (F.avg_pool2d(pictures, factor) if factor > 1 else pictures).to(vae.device)
    parts = [vae.encode(p).latent_dist.mode() for p in small.contiguous(memory_format=torch.channels_last).split(4)]
    return torch.cat(parts).contiguous().cpu()


class Pool:
    """Training batches; `batch(step)` is a function of the recipe's seed and the step alone.

    Args:
        scenes: draws the pictures.
        vae: encodes them.
        recipe: stages, shares and sizes.
        folder: keeps the shards in use.
        asked: whether to give up between two pictures (a stop was requested).
    """

    def __init__(
        self,
        scenes: Scenes,
        vae: AutoencoderKL,
        recipe: SceneRecipe,
        folder: Path,
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.scenes = scenes
        self.vae = vae
        self.recipe = recipe
        self.folder = folder
        self.asked = asked
        self.shards: dict[tuple[int, int], tuple[torch.Tensor, list[Scene]]] = {}

    def shard(self, size: int, number: int) -> tuple[torch.Tensor, list[Scene]]:
        """Latents (shard, channels, h, w) and their scenes; of pictures of `size` pixels.

        Raises:
            InterruptedError: a stop was requested while the shard was drawn.
        """
        key = (size, number)
        if key not in self.shards:
            scenes = self.scenes.drawn(self.recipe.pool.shard, self.recipe.scenes, (self.recipe.seed, 41, number))
            file = self.folder / f"{size}-{number}.safetensors"
            if file.is_file():
                latents = load_file(file)["latents"]
            else:
                parts = []
                for i in range(0, len(scenes), 4):
                    if self.asked():
                        raise InterruptedError("stopped while a shard was drawn")
                    parts.append(encode(self.vae, self.scenes.pictures(scenes[i : i + 4]), size).half())
                latents = torch.cat(parts)
                write_safely(file, lambda p: save_file({"latents": latents}, p))
            self.shards[key] = (latents, scenes)
        return self.shards[key]

    def batch(self, step: int) -> tuple[torch.Tensor, list[Scene]]:
        """Latents and scenes of one training step."""
        stage, first = self.recipe.stage(step)
        pool = self.recipe.pool
        newest = (step - first) * stage.batch // (pool.shard * pool.reuse)
        oldest = max(0, newest - pool.window + 1)
        base = self.recipe.stages.index(stage) * FAR
        self._drop(stage.size, base + oldest)
        chance = np.random.default_rng((self.recipe.seed, 43, step))
        latents, scenes = [], []
        for _ in range(stage.batch):
            encoded, shown = self.shard(stage.size, base + int(chance.integers(oldest, newest + 1)))
            row = int(chance.integers(len(shown)))
            latents.append(encoded[row])
            scenes.append(shown[row])
        return torch.stack(latents).float(), scenes

    def _drop(self, size: int, oldest: int) -> None:
        """Forget shards that no later step uses."""
        for key in [k for k in self.shards if k[0] != size or k[1] < oldest]:
            del self.shards[key]
            (self.folder / f"{key[0]}-{key[1]}.safetensors").unlink(missing_ok=True)
