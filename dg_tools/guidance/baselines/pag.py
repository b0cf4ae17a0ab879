"""Perturbed-attention guidance (Ahn et al., arXiv 2403.17377): the weak model's image tokens do not see each other.

In a U-Net the paper replaces a self-attention map by the identity: every place gets its own value. In a DiT, text and
image share one attention, and only its image-image part becomes the identity: an image token sees itself and the text,
but no other image token; text tokens see everything. The softmax runs over the keys that are left, as in the SD3
pipeline of PAG's authors in diffusers. Where a block has a second attention of the image alone (SD3.5-medium), that is
the plain identity, so that no image-image attention is left in the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.attention import changed
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.models.dit import DiT


class PAG(InBlocks):
    """Perturbed-attention guidance: `PAG(3.0, 1.0, blocks=[6])`; arguments as in `InBlocks`.

    w is the paper's s: c + w (c - degraded). Its authors use a scale of 3 without CFG, in a middle block.
    """

    short = "PAG"

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """Image-image attention is the identity."""
        assert call.image_tokens is not None
        image_tokens: int = call.image_tokens

        def identity(inputs: dict[str, Any]) -> dict[str, Any]:
            tokens, mask = inputs["query"].shape[-2], inputs.get("attn_mask")
            image = dit.family.image_rows(tokens, image_tokens)
            visible = torch.ones(tokens, tokens, dtype=torch.bool, device=inputs["query"].device)
            visible[image, image] = torch.eye(image_tokens, dtype=torch.bool, device=visible.device)
            if mask is not None:
                visible = mask & visible if mask.dtype == torch.bool else mask.masked_fill(~visible, -torch.inf)
            return {**inputs, "attn_mask": visible}

        with changed(dit, self.blocks, identity):
            yield
