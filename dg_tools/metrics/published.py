"""Metrics that others defined, from the libraries that keep them; imported on first use."""

from __future__ import annotations

import numpy as np
import torch

from dg_tools.metrics.bands import same_shape
from dg_tools.metrics.pictures import luminance


def structural_similarity(x: torch.Tensor, reference: torch.Tensor, *, scale: float = 2.0) -> torch.Tensor:
    """SSIM of each picture, (N,), at most 1 (Wang et al. 2004); torchmetrics, 11-pixel Gaussian window.

    Args:
        x: pictures (N, C, H, W), sides of at least 11.
        reference: same shape.
        scale: span of the values: 2 for [-1, 1].
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    same_shape(x, reference)
    values = ssim(x.float(), reference.float(), data_range=scale, reduction="none")
    return torch.as_tensor(values).reshape(len(x))


def blur_effect(x: torch.Tensor) -> torch.Tensor:
    """Perceptual blur of each picture's luminance, (N,), 0 sharp to 1 (Crete et al. 2007); scikit-image.

    It needs no reference, and takes speckle for sharpness as Laplacian variance does.
    """
    from skimage.measure import blur_effect as measure

    return torch.tensor(np.array([measure(grey) for grey in luminance(x).double().cpu().numpy()]))
