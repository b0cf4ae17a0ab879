"""Convert pictures and masks from PIL, numpy, torch or a file path to tensors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from dg_tools.kinds import kind_of

SPAN = (-1.0, 1.0)  # of the values of a picture in this package
SPANS = (SPAN, (0.0, 1.0), (0.0, 255.0))
ROOM = 0.005  # of a span: values that far outside still count as inside
DARK = 16  # of 255: a picture of which no value is larger is not taken for one in 0..255
SURE = -0.1  # a value below says that a picture is in -1..1; resizing one in 0..1 leaves some just below 0
FORMS = (
    "PIL, the path of a picture file, bytes (H, W, 3) or (3, H, W), floats (H, W, 3) in 0..1, 0..255 or -1..1, or "
    "floats (3, H, W) in -1..1 or 0..255"
)
SIMPLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "La", "RGBa")  # of 8 bits
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def as_picture(image: Any, span: tuple[float, float] | None = None) -> torch.Tensor:
    """A picture as (3, H, W) in [-1, 1], float32 on the CPU.

    Bytes (uint8) are 0..255. The scale of other numbers is inferred: with values below -0.1 it is -1..1, with values
    above 16 it is 0..255. Values that all lie in 0..1 are on that scale if the channels come last, as scikit-image,
    matplotlib and diffusers' "np" write them. If the channels come first, they could also be a bright picture in -1..1:
    then `span` must say which.

    Args:
        image: PIL, the path of a picture file, or a numpy array or tensor, (H, W, 3) or (3, H, W). If both fit, an
            array is read as (H, W, 3) and a tensor as (3, H, W).
        span: the values of black and white in an array or a tensor: (-1, 1), (0, 1) or (0, 255); None: as above.

    Raises:
        TypeError, ValueError: anything else; values outside `span`; values in 0..1 that could be on either scale.
        FileNotFoundError: no file at the path.

    Example:
        >>> as_picture(torch.rand(3, 64, 48), span=(0, 1)).shape
        torch.Size([3, 64, 48])
    """
    if span is not None and tuple(span) not in SPANS:
        raise ValueError(f"span={span}: pass (-1, 1), (0, 1) or (0, 255), the values of black and white")
    if isinstance(image, str | Path):
        image = from_file(image)
    if isinstance(image, Image.Image):
        return of_bytes(np.asarray(as_rgb(image)))
    if isinstance(image, np.ndarray):
        last = image.ndim == 3 and image.shape[2] == 3
        values = torch.from_numpy(np.ascontiguousarray(image)) if image.dtype.kind in "fiub" else None
    elif isinstance(image, torch.Tensor):
        last = image.ndim == 3 and image.shape[2] == 3 and image.shape[0] != 3
        values = None if image.is_complex() else image.detach().cpu()
    else:
        raise TypeError(f"{kind_of(image)} is not a picture: pass {FORMS}")
    if values is None or values.dtype == torch.bool or values.ndim != 3 or not (last or values.shape[0] == 3):
        kind = "a tensor" if isinstance(image, torch.Tensor) else "an array"
        raise ValueError(f"{kind} {tuple(image.shape)} of {image.dtype} is not a picture: pass {FORMS}")
    if not values.numel():
        raise ValueError(f"a picture of shape {tuple(image.shape)} is empty")
    values = values.permute(2, 0, 1) if last else values
    if values.dtype == torch.uint8 and span in (None, SPANS[2]):
        return of_bytes(values.permute(1, 2, 0).numpy())
    values = values.float()
    black, white = span_of(values, last) if span is None else checked(values, span)
    if (black, white) == SPAN:
        return values.contiguous()
    return ((values - black) / (white - black) * 2 - 1).clamp(-1, 1).contiguous()


def of_bytes(image: np.ndarray) -> torch.Tensor:
    """Bytes (H, W, 3) as (3, H, W) in [-1, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1


def span_of(values: torch.Tensor, channels_last: bool) -> tuple[float, float]:
    """The values of black and white in a picture (3, H, W), inferred from its values.

    Raises:
        ValueError: values that fit none of `SPANS`, or two of them.
    """
    low, high = values.min().item(), values.max().item()
    if low >= 0 and high > DARK:
        return checked(values, SPANS[2])
    if low < SURE or high > 1 + ROOM or not values.isfinite().all():
        return checked(values, SPAN)
    if channels_last and low >= 0:
        return SPANS[1]
    raise ValueError(
        f"the picture's values run from {low:g} to {high:g}: that could be a picture in 0..1, or a bright "
        "one in -1..1; say which with span=(0, 1) or span=(-1, 1), as in Example(prompt, picture, span=(0, 1)), or "
        "pass PIL"
    )


def checked(values: torch.Tensor, span: tuple[float, float]) -> tuple[float, float]:
    """The span, where the values lie in it.

    Raises:
        ValueError: they do not.
    """
    low, high, room = values.min().item(), values.max().item(), ROOM * (span[1] - span[0])
    if not (values.isfinite().all() and low >= span[0] - room and high <= span[1] + room):
        allowed = f"[{span[0]:g}, {span[1]:g}]"
        raise ValueError(f"the picture's values run from {low:g} to {high:g}; they must lie in {allowed}")
    return span[0], span[1]


def as_pictures(images: Any, span: tuple[float, float] | None = None) -> torch.Tensor:
    """One picture or several of one size, in any form, as (N, 3, H, W) in [-1, 1].

    `span`: as for `as_picture`. In one array or tensor (N, 3, H, W), a picture with values below -0.1 shows that all
        are in -1..1.

    Raises:
        TypeError, ValueError, FileNotFoundError: as `as_picture`; an empty list; pictures of different sizes.
    """
    stacked = isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4
    several = list(images) if isinstance(images, list | tuple) or stacked else [images]
    if not several:
        raise ValueError("an empty list of pictures: nothing to look at")
    if stacked and span is None and images.min() < SURE:
        span = SPAN
    return stack([as_picture(image, span) for image in several])


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


def fitted(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A picture (C, H, W) cropped around its centre to the shape of `height` x `width`, then resized to it.

    It is resized by cubic interpolation, with smoothing if it shrinks; values stay in the picture's own range.

    Example:
        >>> fitted(torch.zeros(3, 100, 300), 64, 64).shape  # the middle 100 x 100
        torch.Size([3, 64, 64])
    """
    tall, wide = picture.shape[-2:]
    if (tall, wide) == (height, width):
        return picture
    inner_tall = min(tall, max(1, round(wide * height / width)))
    inner_wide = min(wide, max(1, round(tall * width / height)))
    top, left = (tall - inner_tall) // 2, (wide - inner_wide) // 2
    inner = picture[:, top : top + inner_tall, left : left + inner_wide]
    low, high = inner.min().item(), inner.max().item()
    made = F.interpolate(inner[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return made[0].clamp(low, high)


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


def as_rgb(image: Image.Image) -> Image.Image:
    """A PIL picture in colour, 8 bits per channel, transparent parts over white.

    Raises:
        ValueError: more than 8 bits per channel, which PIL would clip.
    """
    if image.mode not in SIMPLE:
        raise ValueError(
            f"a PIL picture of mode {image.mode!r} has more than 8 bits per channel: convert it to RGB yourself"
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def from_file(path: str | Path) -> Image.Image:
    """The picture in a file, in colour, 8 bits per channel.

    Raises:
        FileNotFoundError, ValueError: as `opened` and `as_rgb`, with the file's name.
    """
    image = opened(path)
    try:
        return as_rgb(image)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def opened(path: str | Path) -> Image.Image:
    """The picture in a file, PNG, JPEG, WebP, BMP, TIFF or GIF (its first), turned upright as its EXIF data say.

    Raises:
        FileNotFoundError: no file at the path.
        ValueError: a file that does not hold such a picture, or a damaged one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such picture file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} does not hold a picture that can be read ({', '.join(FORMATS)}): {error}") from None
