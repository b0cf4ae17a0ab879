"""Statistics of hidden states: reductions over tokens and channels, a few hundred tokens at a time.

A full-size stream at 1024 pixels is 25 MB in float32, and a copy of it would be the largest thing a capture holds. So
tokens are taken a few hundred at a time; temporaries then stay in the processor's cache, which is also faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

TOP = 3  # how many of the largest values are kept with channel and token
BITE = 2**18  # values at once: 1 MiB in float32
BITE_ELSEWHERE = 2**20  # on an accelerator, where launches cost more
BITS = 5  # leading mantissa bits that a histogram bin keeps: 32 bins an octave
CHANNEL = ("mean", "abs_mean", "variance", "positive", "abs_max")  # statistics by channel, over tokens


def bite(hidden: torch.Tensor) -> int:
    """How many values are reduced at once, where these hidden states are."""
    return BITE if hidden.device.type == "cpu" else BITE_ELSEWHERE


def bites(hidden: torch.Tensor) -> Sequence[torch.Tensor]:
    """Hidden states (rows, tokens, channels), some tokens at a time."""
    return (
        [hidden]
        if hidden.numel() <= bite(hidden)
        else (hidden.split(max(1, bite(hidden) // (hidden.shape[0] * hidden.shape[2])), dim=1))
    )


def statistics(hidden: torch.Tensor, quantiles: Sequence[float] = ()) -> dict[str, torch.Tensor]:
    """Reductions of hidden states (tokens, channels), or (rows, tokens, channels) each row on its own.

    Args:
        hidden: any floating dtype; computed in float32.
        quantiles: of |x| over all tokens and channels, 0..1, each exact to half a histogram bin: 1.6 %.

    Returns:
        by channel: `mean`, `abs_mean`, `variance`, `positive` (share of tokens above 0), `abs_max`; by token:
        `token_norm`, `token_max`; by rank: `top_value`, `top_channel`, `top_token`; one number: `median_abs_mean`
        (over channels), `clipped` (values at the dtype's limit or not finite); `quantile` where requested.
    """
    if hidden.ndim == 2:
        return {name: value[0] for name, value in statistics(hidden[None], quantiles).items()}
    limit = torch.finfo(hidden.dtype).max
    bins = torch.zeros(hidden.shape[0], 2 ** (8 + BITS), dtype=torch.int64, device=hidden.device) if quantiles else None
    parts: list[dict[str, torch.Tensor]] = []
    tokens = bites(hidden)
    for part in tokens:
        x = part.float()
        size = x.abs()
        mean, largest_size = x.mean(1), size.amax(1)
        parts.append(
            {
                "mean": mean,
                "abs_mean": size.mean(1),
                "variance": (x - mean[:, None]).square_().mean(1),
                "positive": torch.gt(x, 0, out=torch.empty_like(x)).mean(1),  # as floats: faster than bools
                "abs_max": largest_size,
                "token_norm": torch.linalg.vector_norm(x, dim=2),
                "token_max": size.amax(2),
                "within": within(size, largest_size, limit),
            }
        )
        if bins is not None:
            histogram(size, bins)
    result = joined(parts, [x.shape[1] for x in tokens])
    result["clipped"] = hidden[0].numel() - result.pop("within")
    result["median_abs_mean"] = result["abs_mean"].median(1).values
    result |= largest(hidden, result["token_max"])
    if bins is not None:
        result["quantile"] = from_histogram(bins, quantiles)
    return result


def within(size: torch.Tensor, largest_size: torch.Tensor, limit: float) -> torch.Tensor:
    """By row, how many values of |x| (rows, tokens, channels) are finite and below a limit.

    On a CPU they are counted only if the largest per channel is above the limit. On an accelerator that check would
    cost more than counting.
    """
    if size.device.type == "cpu" and largest_size.max().item() < limit:
        return torch.full((len(size),), size[0].numel())
    return (size < limit).sum((1, 2))


def joined(parts: list[dict[str, torch.Tensor]], counts: list[int]) -> dict[str, torch.Tensor]:
    """Statistics of all tokens from those of each bite; the variance by Chan's formula, safe for a large mean."""
    if len(parts) == 1:
        return parts[0]
    total = sum(counts)
    stack = lambda name: torch.stack([p[name] for p in parts]).double()  # noqa: E731  (bites, rows, channels)
    weight = torch.tensor(counts, dtype=torch.float64, device=parts[0]["mean"].device)[:, None, None] / total
    means = stack("mean")
    mean = (weight * means).sum(0)
    whole = {name: (weight * stack(name)).sum(0).float() for name in ("abs_mean", "positive")}
    whole["mean"] = mean.float()
    whole["variance"] = (weight * (stack("variance") + (means - mean).square())).sum(0).float()
    whole["abs_max"] = torch.stack([p["abs_max"] for p in parts]).amax(0)
    whole["within"] = torch.stack([p["within"] for p in parts]).sum(0)
    return whole | {name: torch.cat([p[name] for p in parts], 1) for name in ("token_norm", "token_max")}


def largest(hidden: torch.Tensor, token_max: torch.Tensor) -> dict[str, torch.Tensor]:
    """The largest |x| with channel and token: they sit on the tokens whose largest value is largest."""
    rows, tokens, channels = hidden.shape
    best = token_max.topk(min(TOP, tokens), dim=1).indices
    candidates = hidden[torch.arange(rows, device=hidden.device)[:, None], best].float().flatten(1)
    index = candidates.abs().topk(min(TOP, candidates.shape[1]), dim=1).indices
    return {
        "top_value": candidates.gather(1, index),
        "top_channel": index % channels,
        "top_token": best.gather(1, index // channels),
    }


def sizes(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean |x| over tokens of (rows, tokens, channels), by row and channel; the largest |x| by row."""
    counts, means, largest = [], [], []
    for part in bites(hidden):
        size = part.float().abs()
        counts.append(size.shape[1])
        means.append(size.mean(1))
        largest.append(size.amax((1, 2)))
    if len(counts) == 1:
        return means[0], largest[0]
    mean = torch.stack([count * mean.double() for count, mean in zip(counts, means, strict=True)]).sum(0)
    return (mean / sum(counts)).float(), torch.stack(largest).amax(0)


def histogram(size: torch.Tensor, bins: torch.Tensor) -> None:
    """Count |x| (rows, ...) into bins that are a float's own exponent and its first mantissa bits."""
    index = size.view(torch.int32) >> (23 - BITS)
    for row in range(len(bins)):
        bins[row] += torch.bincount(index[row].flatten(), minlength=bins.shape[1])


def from_histogram(bins: torch.Tensor, quantiles: Sequence[float]) -> torch.Tensor:
    """Quantiles (rows, quantiles): the middle of the bin that holds the value of that rank."""
    below = bins.cumsum(1)
    shares = torch.tensor(quantiles, dtype=torch.float64, device=bins.device)
    ranks = (shares * below[:, -1:].double()).ceil().long().clamp(min=1)
    index = torch.searchsorted(below, ranks)
    middle = (index.int() << (23 - BITS)) + (1 << (22 - BITS))
    values = middle.view(torch.float32)
    return torch.where(index == 0, 0.0, values)
