"""Published metrics (SSIM, blur), from libraries that are imported on first use."""

from __future__ import annotations

import numpy as np
import torch

from dg_tools.metrics.bands import same_shape
from dg_tools.metrics.pictures import luminance


def structural_similarity(
    x: torch.Tensor, reference: torch.Tensor, *, span: tuple[float, float] = (-1.0, 1.0)
) -> torch.Tensor:
    """SSIM of each picture, (N,), -1..1 and 1 for a copy (Wang et al. 2004); torchmetrics, 11-pixel Gaussian window.

    Args:
        x: pictures (N, C, H, W), sides of at least 11.
        reference: same shape.
        span: lowest and highest value of the scale. SSIM compares means as ratios, which needs values from zero up. So
            the pictures are shifted first: on [-1, 1] a negative would count as similar.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    same_shape(x, reference)
    low, high = span
    values = ssim(x.float() - low, reference.float() - low, data_range=high - low, reduction="none")
    return torch.as_tensor(values).reshape(len(x))


def blur_effect(x: torch.Tensor) -> torch.Tensor:
    """Perceptual blur of each picture's luminance, (N,), 0 sharp to 1 (Crete et al. 2007); scikit-image.

    It needs no reference. Like Laplacian variance, it counts speckle as sharpness.
    """
    from skimage.measure import blur_effect as measure

    return torch.tensor(np.array([measure(grey) for grey in luminance(x).double().cpu().numpy()]))
