"""A Gaussian blur over the last two dimensions, by two passes."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def gaussian_blur(x: torch.Tensor, sigma: float, truncate: float = 4.0, mode: str = "replicate") -> torch.Tensor:
    """Gaussian blur over the last two dimensions of (N, C, h, w).

    Args:
        x: fields.
        sigma: in pixels.
        truncate: the kernel is cut at this many sigmas; where `mode` is `reflect`, at half the side too.
        mode: what lies beyond the edges: `replicate` repeats them, `reflect` mirrors.
    """
    for axis in (-2, -1):
        reach = int(truncate * sigma + 0.5)
        if mode == "reflect":
            reach = min(reach, (x.shape[axis] - 1) // 2)
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(x)
        padding = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
        shape = (1, 1, -1, 1) if axis == -2 else (1, 1, 1, -1)
        channels = x.shape[1]
        x = F.conv2d(F.pad(x, padding, mode=mode), kernel.view(shape).expand(channels, *(-1,) * 3), groups=channels)
    return x
