"""Pictures and masks of any form as tensors: from PIL, numpy, torch, or the path of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

FORMS = "PIL, a path, numpy (H, W, 3) of bytes, or a tensor (3, H, W) in [-1, 1]"


def as_picture(image: Any) -> torch.Tensor:
    """A picture as (3, H, W) in [-1, 1], float32 on the CPU.

    Args:
        image: PIL, the path of a picture file, numpy (H, W, 3) of bytes, or a tensor or array (3, H, W) in [-1, 1].

    Raises:
        TypeError, ValueError: something else.
        FileNotFoundError: no file at the path.
    """
    if isinstance(image, str | Path):
        image = opened(image)
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                f"a tensor {tuple(image.shape)} of {image.dtype} is not a picture; pass (3, H, W) in [-1, 1]"
            )
        if not (image.isfinite().all() and image.abs().max() <= 1.01):
            low, high = image.min().item(), image.max().item()
            raise ValueError(f"the picture's values run from {low:g} to {high:g}; they must lie in [-1, 1]")
        return image.detach().float().cpu()
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"a {type(image).__name__} is not a picture: pass {FORMS}")
    if image.dtype != np.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return as_picture(torch.from_numpy(np.ascontiguousarray(image)))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an array {image.shape} of {image.dtype} is not a picture; pass (H, W, 3) of bytes")
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1


def as_pictures(images: Any) -> torch.Tensor:
    """One picture or several of one size, in any form, as (N, 3, H, W) in [-1, 1].

    Raises:
        TypeError, ValueError, FileNotFoundError: as `as_picture`; an empty list; pictures of different sizes.
    """
    stacked = isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4
    several = list(images) if isinstance(images, list | tuple) or stacked else [images]
    if not several:
        raise ValueError("an empty list of pictures: nothing to look at")
    return stack([as_picture(image) for image in several])


def stack(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pictures (3, H, W) as (N, 3, H, W).

    Raises:
        ValueError: pictures of different sizes.
    """
    sizes = {tuple(p.shape[1:]) for p in pictures}
    if len(sizes) > 1:
        raise ValueError(
            f"pictures of sizes {sorted(sizes)} (height, width); one shape (3, H, W) is needed: bring them to one size "
            "first"
        )
    return torch.stack(list(pictures))


def as_mask(mask: Any) -> torch.Tensor:
    """How much of each pixel the object covers, (H, W) from 0 to 1.

    Args:
        mask: a tensor or array (H, W) from 0 to 1, or a greyscale picture (PIL or a path; white is the object).

    Raises:
        ValueError: another shape or other values.
        FileNotFoundError: no file at the path.
    """
    if isinstance(mask, str | Path):
        mask = opened(mask)
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L")) / np.float32(255)
    values = torch.as_tensor(mask).float()
    if values.ndim != 2 or not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"masks of {tuple(values.shape)}; (H, W) of the pictures is needed, values 0 to 1")
    return values


def opened(path: str | Path) -> Image.Image:
    """The picture in a file.

    Raises:
        FileNotFoundError: no file at the path.
        ValueError: a file that does not hold a picture.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such picture file")
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except OSError as error:
        raise ValueError(f"{path} does not hold a picture: {error}") from None
