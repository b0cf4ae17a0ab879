"""Validation: loss on the same scenes, captions and noise every time, of the whole picture and by what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.scenes import keep
from training.scenes.materials import MATERIALS
from training.scenes.pool import encode
from training.scenes.recipe import SceneRecipe
from training.scenes.scene import Scene, Scenes
from training.scenes.state import State
from training.scenes.tokens import flow_loss

SIGMAS = (0.2, 0.5, 0.7, 0.9)
COUNT = 24  # scenes of each group


@dataclass
class Group:
    """Scenes of one kind with latents and noise."""

    scenes: list[Scene]
    latents: torch.Tensor
    noise: torch.Tensor


def chosen(scenes: Scenes, held_out: bool, count: int, seed: int) -> list[Scene]:
    """Different (name, style) pairs of one side of the split, on materials that training never drew."""
    chance = np.random.default_rng((seed, 51 + held_out))
    pairs, colours, materials = scenes.pairs(held_out), list(scenes.colours), list(MATERIALS)
    picked = [pairs[i] for i in chance.choice(len(pairs), min(count, len(pairs)), replace=False)]
    return [
        Scene(n, s, colours[chance.integers(len(colours))], materials[i % len(materials)], 2**31 + i)
        for i, (n, s) in enumerate(picked)
    ]


def groups(scenes: Scenes, vae: AutoencoderKL, recipe: SceneRecipe, file: Path) -> dict[str, Group]:
    """`trained` pairs, `held_out` pairs and bare `materials`; latents are kept in `file`."""
    colours = list(scenes.colours)
    by_group = {
        "trained": chosen(scenes, False, COUNT, recipe.seed),
        "held_out": chosen(scenes, True, COUNT, recipe.seed),
        "materials": [
            Scene(None, None, colours[i % len(colours)], m, 2**31 + 100 + i)
            for i, m in enumerate([*MATERIALS, *MATERIALS][:COUNT])
        ],
    }
    if file.is_file():
        latents, _ = keep.load(file)
    else:
        latents = {k: encode(vae, scenes.pictures(w), recipe.size) for k, w in by_group.items()}
        keep.save(file, latents, {})
    fixed = {}
    for k, w in by_group.items():
        generator = torch.Generator().manual_seed(recipe.seed + 7)
        fixed[k] = Group(w, latents[k], torch.randn(latents[k].shape, generator=generator))
    return fixed


@torch.no_grad()
def validate(state: State, fixed: dict[str, Group]) -> dict[str, float]:
    """Mean squared error of the velocity by group, over `SIGMAS`, all tokens, full captions."""
    result = {}
    for name, group in fixed.items():
        total = 0.0
        text = state.text([s.caption for s in group.scenes], state.device)
        latents, noise = group.latents.to(state.device), group.noise.to(state.device)
        for sigma in SIGMAS:
            level = torch.full((len(latents),), sigma, device=state.device)
            total += flow_loss(state.transformer, latents, noise, level, text, state.places).item()
        result[name] = round(total / len(SIGMAS), 5)
    return result
