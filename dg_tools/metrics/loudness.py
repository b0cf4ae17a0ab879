"""The gain of a tensor against a reference: the factor on the reference that is in the tensor."""

from __future__ import annotations

import torch

from dg_tools.metrics.bands import same_shape


def row_gain(cond: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """<c, d> / <c, c>, one number per row, in float32 at least: the shape of c with 1 in all dimensions but the first.

    Example:
        >>> c = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
        >>> row_gain(c, 0.8 * c).flatten().tolist()
        [0.800000011920929, 0.800000011920929]
    """
    c, d = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (cond, degraded))
    dims = tuple(range(1, c.ndim))
    return (c * d).sum(dims, keepdim=True) / c.square().sum(dims, keepdim=True).clamp_min(1e-30)


def gain(x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """`row_gain` in float64, (N,): the factor on the reference that is in x; NaN for a reference of zeros.

    x / gain minus the reference is orthogonal to the reference, so the rest of a change contains no gain.
    """
    same_shape(x, reference)
    a, b = x.flatten(1).double(), reference.flatten(1).double()
    return row_gain(b, a).flatten().masked_fill((b == 0).all(1), torch.nan)
