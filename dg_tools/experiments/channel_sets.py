"""Sets of channels: draws of others as controls, and whether the detection rule names the same ones everywhere.

The controls of a set are as many other channels: the ones nearest in energy, which are the hardest to beat, or any. The
agreement of two sets is their Jaccard index, |A and B| / |A or B|.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dg_tools.massive import constant
from dg_tools.models.dit import DiT

DIMS = ("prompt", "seed", "step", "block")


def draws(pool: Sequence[int], k: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """`count` sets of k channels from a pool, distinct as long as the pool has enough of them."""
    chance = np.random.default_rng(seed)
    sets: list[tuple[int, ...]] = []
    tries = 0
    while len(sets) < count:
        one = tuple(sorted(int(c) for c in chance.choice(np.asarray(pool), k, replace=False)))
        tries += 1
        if one not in sets or tries > 50 * count:
            sets.append(one)
    return sets


def largest_others(size: np.ndarray, channels: Sequence[int], count: int) -> list[int]:
    """The channels nearest in energy: the `count` largest mean |x| among all but `channels`; `size` is (channels,)."""
    order = np.argsort(-np.asarray(size), kind="stable")
    return [int(c) for c in order if int(c) not in set(channels)][:count]


def check_controls(dit: DiT, channels: Sequence[int], controls: int) -> None:
    """Raise where control draws of as many other channels cannot be made."""
    if controls < 1:
        raise ValueError(f"controls={controls}; at least 1 is needed, and 20 for a verdict")
    if 2 * len(channels) > dit.width:
        raise ValueError(f"{len(channels)} channels of {dit.width}: too few others are left for a control")


def meets_rule(image: dict[str, np.ndarray]) -> np.ndarray:
    """Which channels the default rule of `find_massive` finds in each cell (..., channel)."""
    return constant(image)


def jaccard(sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of boolean (items, ..., channels): the Jaccard index of each pair of items, and the pairs; NaN where both are
    empty.
    """
    first, second = np.triu_indices(len(sets), 1)
    a, b = sets[first], sets[second]
    joined = (a | b).sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where(joined, (a & b).sum(-1) / np.maximum(joined, 1), np.nan), np.stack([first, second])


def agreement(
    image: dict[str, np.ndarray], channels: list[int], onset: int, sigmas: list[float], controls: int
) -> tuple[dict[str, tuple[np.ndarray | None, list[float]]], pd.DataFrame]:
    """How much do the sets of channels that the rule finds agree, from block `onset` on?

    Returns:
        By factor: one value per prompt (None where there is nothing to compare), and the same for the controls; and the
        matrices between blocks and between steps as a tidy table.
    """
    massive = meets_rule(image)[:, :, :, onset:]
    width = massive.shape[-1]
    ordered = np.where(np.isin(np.arange(width), channels), -1, image["size"][:, :, :, onset:])
    rank = np.argsort(np.argsort(-ordered, axis=-1, kind="stable"), axis=-1)  # 0: the largest other channel
    pool = range(min(max(4 * len(channels), controls), width - len(channels)))
    others = [np.isin(rank, one) for one in draws(pool, len(channels), controls, 2)]
    factors: dict[str, tuple[np.ndarray | None, list[float]]] = {}
    rows = []
    for axis, factor in enumerate(DIMS):
        values = by_prompt(massive, axis)
        complete = not np.isnan(values).any()
        factors[factor] = (values, [by_prompt(o, axis).mean() for o in others]) if complete else (None, [])
        if factor in ("step", "block"):
            index, pairs = jaccard(np.moveaxis(massive, axis, 0))
            labels = sigmas if factor == "step" else list(range(onset, onset + massive.shape[axis]))
            for value, i, j in zip(index.reshape(len(index), -1), *pairs, strict=True):
                mean = float(np.nanmean(value)) if not np.isnan(value).all() else float("nan")
                for a, b in ((i, j), (j, i)):
                    rows.append({"factor": factor, "first": labels[a], "second": labels[b], "jaccard": mean})
            rows += [{"factor": factor, "first": x, "second": x, "jaccard": 1.0} for x in labels]
    return factors, pd.DataFrame(rows, columns=["factor", "first", "second", "jaccard"])


def by_prompt(sets: np.ndarray, axis: int) -> np.ndarray:
    """Mean Jaccard index over the pairs along an axis, one value per prompt; a pair of prompts counts for both."""
    index, pairs = jaccard(np.moveaxis(sets, axis, 0))
    nan_mean = lambda x: np.nan if not x.size or np.isnan(x).all() else np.nanmean(x)  # noqa: E731
    if axis == 0:
        return np.array([nan_mean(index[(pairs == p).any(0)]) for p in range(len(sets))])
    return np.array([nan_mean(index[:, p]) for p in range(len(sets))])
