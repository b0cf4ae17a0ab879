"""Sizes of a DiT's pictures, latents and image tokens, and which tokens a region of a picture holds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.forward.region import Region
from dg_tools.numbers import integer, is_several


@cache
def parameters(pipeline: type) -> Mapping[str, inspect.Parameter]:
    """The parameters of a pipeline's call, by name; read many times in a run."""
    return {k: v for k, v in inspect.signature(pipeline.__call__).parameters.items() if k != "self"}


class Sizes:
    """The part of `DiT` that knows its sizes.

    Attributes:
        pipeline: the diffusers pipeline.
        transformer: its transformer.
        family: the family record.
        call: arguments that the model card asks to pass in every pipeline call.
    """

    pipeline: Any
    transformer: Any
    family: Family
    call: dict[str, Any]

    @property
    def pixels_per_token(self) -> int:
        """Pixels along one side of an image token."""
        return self.vae_scale_factor * self.family.patch(self.transformer)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along one side of a latent cell."""
        for name in ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio"):
            if hasattr(self.pipeline, name):
                factor: int = getattr(self.pipeline, name)
                return factor // self.family.patch(self.transformer) if self.family.scale_per_token else factor
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    def picture_size(self, latents: torch.Tensor) -> tuple[int, int]:
        """Height and width in pixels of the picture that latents (N, C, h, w) are decoded to."""
        height, width = latents.shape[-2:]
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    @property
    def takes(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the pipeline's call, by name."""
        return parameters(type(self.pipeline))  # type: ignore[arg-type]  # mypy on `cache` and classes

    def default_side(self, which: str) -> int:
        """The default height or width in pixels: the model card's, else the pipeline's."""
        stated = self.call.get(which) or (self.takes[which].default if which in self.takes else None)
        stated = stated or dict(zip(("height", "width"), self.family.defaults.pixels or (), strict=False)).get(which)
        if stated:
            return stated
        size: int = getattr(self.pipeline, "default_sample_size", 0) or self.transformer.config.sample_size
        counted = self.family.patch(self.transformer) if self.family.scale_per_token else 1  # it counts in these
        return size * self.vae_scale_factor * counted

    def size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width in pixels, the model card's or the pipeline's default where None.

        Raises:
            TypeError: a side that is not a whole number.
            ValueError: a size that is not a multiple of the token size, gives more tokens than the position table
                holds, or differs from the only size that the pipeline makes.
        """
        defaults = self.default_side("height"), self.default_side("width")
        height = defaults[0] if height is None else integer(height, "height")
        width = defaults[1] if width is None else integer(width, "width")
        if "height" not in self.takes and (height, width) != defaults:
            raise ValueError(
                f"size {height} x {width} requested; {type(self.pipeline).__name__} makes {defaults[0]} x "
                f"{defaults[1]} only: leave height and width out"
            )
        step = self.pixels_per_token
        if height % step or width % step or height < step or width < step:
            raise ValueError(
                f"size {height} x {width} requested; both sides must be multiples of {step} pixels (one image token), "
                f"such as {max(step, height // step * step)} x {max(step, width // step * step)}"
            )
        most = self.family.most_tokens(self.transformer)
        if most and max(height, width) > most * step:
            raise ValueError(f"size {height} x {width} requested; this transformer's positions end at {most * step}")
        made = self.family.fit(self.pipeline, height, width) if self.family.fit else (height, width)
        if made != (height, width):
            raise ValueError(
                f"size {height} x {width} requested; {type(self.pipeline).__name__} would make {made[0]} x "
                f"{made[1]}: request that size"
            )
        return height, width

    def grid(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Image tokens as (rows, columns); token y * columns + x is the patch at (y, x)."""
        height, width = self.size(height, width)
        return height // self.pixels_per_token, width // self.pixels_per_token

    def tokens(
        self,
        boxes: Sequence[tuple[float, float, float, float]] = (),
        mask: torch.Tensor | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        frames: Sequence[int] = (0,),
    ) -> Region:
        """Image tokens of a region, for `Disrupt(tokens=...)`: tokens that lie at least half inside it.

        Args:
            boxes: (left, top, right, bottom) in pixels of the picture; several are joined.
            mask: (height, width), larger than 0.5 inside; joined with the boxes.
            height, width: of the picture; the pipeline's default where None.
            frames: of a video, the latent frames that the region is in, counted from 0 (Wan: frame 0 is the first
                picture, and each further one four pictures).

        Raises:
            ValueError: a box outside the picture, a mask of another size, or a region that holds no token.
        """
        height, width = self.size(height, width)
        inside = torch.zeros(height, width)
        for box in boxes:
            if isinstance(box, str) or not is_several(box) or len(box) != 4:
                raise TypeError(f"boxes={boxes!r}; a list of (left, top, right, bottom) in pixels is needed")
            left, top, right, bottom = box
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise ValueError(
                    f"box ({left}, {top}, {right}, {bottom}) requested; (left, top, right, bottom) must lie within "
                    f"(0, 0, {width}, {height})"
                )
            inside[round(top) : round(bottom), round(left) : round(right)] = 1
        if mask is not None:
            if tuple(mask.shape) != (height, width):
                raise ValueError(f"the mask is {tuple(mask.shape)}; the picture is ({height}, {width})")
            inside[mask > 0.5] = 1
        side = self.pixels_per_token
        share = torch.nn.functional.avg_pool2d(inside[None, None], side).flatten()
        tokens = (share >= 0.5).nonzero().flatten().tolist()
        if not tokens:
            raise ValueError(
                f"no image token lies at least half in this region: tokens are {side} x {side} pixels, so make it "
                "larger"
            )
        rows, columns = self.grid(height, width)
        return Region([frame * rows * columns + t for frame in frames for t in tokens], (rows, columns))

    def frames(self, num_frames: int | None = None) -> int:
        """Latent frames of a call that makes `num_frames` pictures; 1 where the pipeline makes single pictures."""
        pictures: int = num_frames or self.family.call.get("num_frames", 1)
        names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
        factor: int = next((getattr(self.pipeline, name) for name in names if hasattr(self.pipeline, name)), 1)
        return (pictures - 1) // factor + 1

    @property
    def has_cfg(self) -> bool:
        """Whether the pipeline has classifier-free guidance."""
        return self.family.guidance_argument in self.takes or bool(self.family.guiders)

    @property
    def default_steps(self) -> int:
        """Denoising steps of the pipeline's own call."""
        return self.takes["num_inference_steps"].default
