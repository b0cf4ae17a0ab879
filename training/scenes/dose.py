"""Dose: when in training does a large channel begin to govern the amount of detail, and does its sign ever turn?

At ten log-spaced steps, on fixed scenes: by block the image channel with the largest mean |x| over tokens, and what one
denoising step does when that channel is multiplied by rho at the block's output. Logged for the reader of the record;
nothing about the training is chosen by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from training.scenes.state import State
from training.scenes.validate import Group

RHOS = (0.0, 0.5, 1.5, 2.0)
SIGMAS = (0.3, 0.7)
LOW, HIGH = 1 / 8, 1 / 4  # cycles per latent cell: below, and from here on


def due(steps: int) -> set[int]:
    """Ten log-spaced steps, the last one `steps`.

    Example:
        >>> sorted(due(24000))[:3]
        [120, 216, 390]
    """
    return {round(s) for s in np.geomspace(max(1, steps // 200), steps, 10)}


def band_power(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Power of (N, channels, h, w) in the low and in the high band, the mean left out; each (N,)."""
    height, width = latents.shape[-2:]
    f = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    f = f.to(latents.device)
    power = torch.fft.fft2(latents, norm="ortho").abs().square().sum(1)
    return power[:, (f > 0) & (f < LOW)].sum(1), power[:, f >= HIGH].sum(1)


@torch.no_grad()
def dose(state: State, group: Group, count: int = 4) -> list[dict[str, Any]]:
    """Rows of step, sigma, block, channel, its ratio to the median channel, rho, and log2 power ratios to rho = 1.

    Args:
        state: with the averaged weights in place.
        group: fixed scenes.
        count: of them that are used.
    """
    model = state.transformer
    text = state.text([s.caption for s in group.scenes[:count]], state.device)
    latents, noise = (x[:count].float().to(state.device) for x in (group.latents, group.noise))
    rows: list[dict[str, Any]] = []
    for sigma in SIGMAS:
        noised, time = (
            (1 - sigma) * latents + sigma * noise,
            torch.full((len(latents),), 1000 * sigma, device=state.device),
        )

        def run(hook: Any = None, block: int = 0, noised: Any = noised, time: Any = time, sigma: Any = sigma) -> Any:
            handle = model.transformer_blocks[block].register_forward_hook(hook) if hook else None
            try:
                velocity = model(noised, text[0], text[1], time, return_dict=False)[0]
            finally:
                if handle:
                    handle.remove()
            return band_power(noised - sigma * velocity)

        low, high = run()
        for block in range(len(model.transformer_blocks)):
            sizes: list[torch.Tensor] = []
            run(lambda m, i, o, sizes=sizes: sizes.append(o[1].abs().mean((0, 1))), block)
            size = sizes[0]
            channel = int(size.argmax())
            for rho in RHOS:

                def scaled(m: Any, i: Any, o: Any, channel: int = channel, rho: float = rho) -> Any:
                    image = o[1].clone()
                    image[..., channel] *= rho
                    return o[0], image

                changed = run(scaled, block)
                rows.append(
                    {
                        "step": state.step,
                        "sigma": sigma,
                        "block": block,
                        "channel": channel,
                        "ratio": round(float(size[channel] / size.median()), 2),
                        "rho": rho,
                        "low": round(float((changed[0] / low).log2().mean()), 4),
                        "high": round(float((changed[1] / high).log2().mean()), 4),
                    }
                )
    return rows
