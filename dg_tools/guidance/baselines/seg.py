"""Smoothed-energy guidance (Hong, arXiv 2408.00760): the weak model's attention is blurred over neighbouring places.

The attention scores (before the softmax) are blurred over the query places. They are linear in the queries, so blurring
the image queries on their grid gives the same; with an infinite blur every place has the mean query. The queries are
blurred as they enter the product, after norms and rotary positions; blurred before these, they would not give the
paper's blurred scores. Text queries are kept. Edges are mirrored, and the kernel ends at three sigmas or half the side,
as in the author's code; the picture need not be square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.attention import changed
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.guidance.baselines.smooth import gaussian_blur
from dg_tools.models.dit import DiT


class SEG(InBlocks):
    """Smoothed-energy guidance: `SEG(3.0, 1.0, blocks=[6])`.

    Args:
        sigma: standard deviation of the blur, in image tokens; None: infinite, the author's default.
        guidance_scale, weight, blocks, others: as in `InBlocks`; the author's weight is 3.

    Raises:
        ValueError: sigma that is not positive.
    """

    short = "SEG"

    def __init__(
        self,
        guidance_scale: float | None = None,
        weight: float = 1.0,
        *,
        blocks: int | Sequence[int] = (),
        sigma: float | None = None,
        **others: Any,
    ) -> None:
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma={sigma}; a width in image tokens, more than 0, or None for an endless blur")
        super().__init__(guidance_scale, weight, blocks=blocks, sigma=sigma, **others)
        self.sigma = None if sigma is None or math.isinf(sigma) else sigma

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """Image queries are blurred."""
        height, width = dit.family.grid(dit.transformer, rows)

        def blur(inputs: dict[str, Any]) -> dict[str, Any]:
            query = inputs["query"].clone()
            part = query[..., dit.family.image_rows(query.shape[-2], height * width), :]
            if self.sigma is None:
                part[:] = part.mean(-2, keepdim=True)
            else:
                field = part.flatten(0, 1).transpose(1, 2).unflatten(2, (height, width))
                smooth = gaussian_blur(field, self.sigma, truncate=3.0, mode="reflect")
                part[:] = smooth.flatten(2).transpose(1, 2).view_as(part)
            return {**inputs, "query": query}

        with changed(dit, self.blocks, blur):
            yield
