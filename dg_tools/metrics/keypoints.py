"""Nearest-neighbour matches by cosine, and the share of keypoints that they get right.

Places are (row, column) in units of tokens: token (0, 0) has its centre at (0, 0), its neighbour below at (1, 0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def token_centres(rows: int, columns: int) -> torch.Tensor:
    """Places (tokens, 2) of a grid's tokens, row by row."""
    return torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).flatten(0, 1)


def nearest_tokens(query: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """For each query token the target token with the largest cosine.

    Args:
        query: features (..., N, tokens, channels).
        target: features (N, tokens, channels).

    Returns:
        (..., N, query tokens), indices.
    """
    return (F.normalize(query, dim=-1) @ F.normalize(target, dim=-1).mT).argmax(-1)


def match_distance(found: torch.Tensor, truth: torch.Tensor, columns: int) -> torch.Tensor:
    """Distance in tokens between matched tokens (..., tokens), as indices, and the true places (..., tokens, 2)."""
    place = torch.stack([found // columns, found % columns], -1)
    return (place - truth).square().sum(-1).sqrt()


def correct_keypoints(distance: torch.Tensor, keypoints: torch.Tensor, threshold: float) -> torch.Tensor:
    """PCK: percentage of keypoints matched within a threshold, (...); NaN where a picture has no keypoint.

    Args:
        distance: (..., tokens), in tokens.
        keypoints: (..., tokens), which tokens count.
        threshold: largest distance that is right, in tokens.
    """
    right = (distance <= threshold) & keypoints
    return 100 * right.sum(-1) / keypoints.sum(-1)


def chance_level(
    truth: torch.Tensor, keypoints: torch.Tensor, rows: int, columns: int, threshold: float
) -> torch.Tensor:
    """Expected PCK of a token drawn at random for every keypoint, (N,); computed exactly, without draws."""
    away = (token_centres(rows, columns) - truth[:, :, None]).square().sum(-1).sqrt()  # (N, keypoint, token)
    return 100 * ((away <= threshold).float().mean(-1) * keypoints).sum(-1) / keypoints.sum(-1)
