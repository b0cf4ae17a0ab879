"""Tokens: an SD3 transformer on all image tokens or on some of them, and where each token is.

Dropping most tokens makes a step of training several times cheaper. What is dropped is neither seen nor asked for: the
loss is that of the tokens that are kept, and each keeps its own position.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel

FAST = 0.25  # height of the fast waves: small beside the stock ones, so that a warm start is not upset
CENTRE, STRIDE = 3.75, 0.25  # of the stock positions that an 8 x 8 grid has where 16 x 16 is the largest: 2, 2.5 .. 5.5


def positions(side: int, tokens: int, width: int) -> torch.Tensor:
    """Position embeddings of a grid of `side` x `side` tokens that covers the same picture as `tokens` x `tokens`.

    Stock sines and cosines at the places at which `emoji-sd3` learned them, so that a token in the middle of the
    picture is in the middle at any size, and its weights can be the start. Half of the stock frequencies are so slow
    that they are constant over a picture this small; their sines (zero there) are replaced by faster waves, by which
    neighbours can be told apart.

    Args:
        side: tokens along a side of this grid.
        tokens: tokens along a side of the full grid, in which places are counted.
        width: of an embedding; a multiple of 4.

    Returns:
        (1, side * side, width) float32.

    Example:
        >>> positions(8, 16, 144).shape
        torch.Size([1, 64, 144])
    """
    place = (torch.arange(side, dtype=torch.float64) + 0.5) * tokens / side - 0.5  # in tokens of the full grid
    return _grid(_axis(place, tokens, width // 2))


def buffer(largest: int, tokens: int, width: int) -> torch.Tensor:
    """What a model with `pos_embed_max_size=largest` keeps: a larger grid, whose middle is that of `tokens` tokens.

    Args:
        largest: tokens along a side of the largest picture.
        tokens, width: as of `positions`.

    Returns:
        (1, largest * largest, width) float32.
    """
    place = torch.arange(largest, dtype=torch.float64) - (largest - tokens) // 2
    return _grid(_axis(place, tokens, width // 2))


def _grid(axis: torch.Tensor) -> torch.Tensor:
    """(1, side * side, 2 * width) from the embeddings (side, width) of one coordinate; x first, as stock."""
    side, width = axis.shape
    columns, rows = axis[None].expand(side, side, width), axis[:, None].expand(side, side, width)
    return torch.cat([columns, rows], dim=-1).reshape(1, side * side, 2 * width).float()


def _axis(place: torch.Tensor, tokens: int, width: int) -> torch.Tensor:
    """(side, width): sines, then cosines, of one coordinate."""
    half = width // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    stock = CENTRE + STRIDE * (place - (tokens - 1) / 2) * 16 / tokens
    angle = stock[:, None] * omega
    sine, cosine = angle.sin(), angle.cos()
    slow = half - half // 2  # from here on the stock sine is constant
    waves = (half - slow) // 2
    fast = place[:, None] * (math.pi * torch.arange(1, waves + 1, dtype=torch.float64) / (waves + 1))
    sine[:, slow : slow + waves] = FAST * fast.sin()
    sine[:, slow + waves : slow + 2 * waves] = FAST * fast.cos()
    return torch.cat([sine, cosine], dim=1)


def patches(latents: torch.Tensor, patch: int) -> torch.Tensor:
    """(batch, tokens, patch * patch * channels): latents (batch, channels, h, w) cut as the transformer's output is."""
    batch, channels, height, width = latents.shape
    cut = latents.view(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def kept(
    batch: int, side: int, keep: float, cell: int, generator: torch.Generator | None, device: str = "cpu"
) -> torch.Tensor | None:
    """Which tokens each picture keeps, (batch, count) int64; None keeps all.

    Args:
        batch: pictures.
        side: tokens along a side.
        keep: share that is kept.
        cell: tokens are kept in squares of cell x cell.
        generator: draws the squares, other ones for each picture; None is the device's own.
        device: where the index is.
    """
    if keep >= 1:
        return None
    squares = side // cell
    count = max(1, round(keep * squares**2))
    chosen_squares = torch.rand(batch, squares**2, generator=generator, device=device).argsort(1)[:, :count]
    row, column = chosen_squares // squares * cell, chosen_squares % squares * cell
    offset = torch.arange(cell, device=device)
    index = (row[..., None, None] + offset[:, None]) * side + column[..., None, None] + offset
    return index.flatten(1)


def predict(
    model: SD3Transformer2DModel,
    latents: torch.Tensor,
    text: tuple[torch.Tensor, torch.Tensor],
    sigma: torch.Tensor,
    places: torch.Tensor,
    index: torch.Tensor | None = None,
) -> torch.Tensor:
    """The predicted velocity noise - x as patches, of all tokens or of those in `index`.

    Equal to the model's own forward where all tokens are kept and `places` are the model's own positions (a test).

    Args:
        model: an `SD3Transformer2DModel`.
        latents: (batch, channels, h, w), noised.
        text: prompt embeddings and pooled embeddings.
        sigma: (batch,), 0 to 1.
        places: `positions` of this grid.
        index: `kept` tokens.

    Returns:
        (batch, tokens, patch * patch * channels).
    """
    parts: Any = model
    hidden = parts.pos_embed.proj(latents).flatten(2).transpose(1, 2) + places
    if index is not None:
        hidden = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
    hidden = hidden.contiguous()
    embeds, pooled = text
    temb = parts.time_text_embed(sigma * 1000, pooled)
    context = parts.context_embedder(embeds)
    for block in parts.transformer_blocks:
        context, hidden = block(hidden_states=hidden, encoder_hidden_states=context, temb=temb)
    return parts.proj_out(parts.norm_out(hidden, temb))


def flow_loss(
    model: SD3Transformer2DModel,
    latents: torch.Tensor,
    noise: torch.Tensor,
    sigma: torch.Tensor,
    text: tuple[torch.Tensor, torch.Tensor],
    places: torch.Tensor,
    index: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity noise - x, over all tokens or those in `index`.

    Args:
        model, text, sigma, places, index: as of `predict`.
        latents, noise: (batch, channels, h, w); what is predicted for is (1 - sigma) latents + sigma noise.
    """
    patch, level = model.config.patch_size, sigma[:, None, None, None]
    target = patches(noise - latents, patch)
    if index is not None:
        target = target.gather(1, index[..., None].expand(-1, -1, target.shape[-1]))
    noised = (1 - level) * latents + level * noise
    return F.mse_loss(predict(model, noised, text, sigma, places, index).float(), target)
