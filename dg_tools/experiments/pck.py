"""How many keypoints does each variant of the features match correctly, by block and noise level?

Pictures and their warped copies are noised, one forward reads the inputs of all blocks in the plan, and every variant
that the plan has there is made from the same hidden states: so variants differ in the recipe and in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.activations._features import Entry, Recipe, entries, modulated, noisy
from dg_tools.experiments.picture_warps import Warped
from dg_tools.metrics.keypoints import chance_level, correct_keypoints, match_distance, nearest_tokens
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import encode
from dg_tools.onestep import conditions
from dg_tools.progress import progress_bar

THRESHOLDS = (1.0, 2.0)  # in tokens; the outcomes are at the first: the right token or one beside it


@dataclass(frozen=True)
class Variant:
    """One way to make features: a recipe, the channels it discards, and a seed to permute AdaLN's channels by."""

    name: str
    recipe: Recipe
    channels: tuple[int, ...] = ()
    permuted: int | None = None

    def of(self, entry: Entry) -> torch.Tensor:
        """Features (rows, tokens, channels)."""
        if self.permuted is not None:
            width = entry.shift.shape[-1]
            order = torch.from_numpy(np.random.default_rng([7, self.permuted]).permutation(width))
            entry = Entry(entry.hidden, entry.shift[:, order], entry.scale[:, order])
        return modulated(entry, self.channels, self.recipe)


@dataclass(frozen=True)
class Stage:
    """Pictures and their warped copies: those to choose on, or those to report on.

    Attributes:
        originals: (N, 3, H, W) in [-1, 1].
        kinds: their warped copies, by task.
        names: (N,) prompts.
        indices: (N,) their places in the list of prompts.
    """

    originals: torch.Tensor
    kinds: tuple[Warped, ...]
    names: list[str]
    indices: list[int]

    def part(self, indices: Sequence[int]) -> Stage:
        """Some of them."""
        at = list(indices)
        return Stage(
            self.originals[at],
            tuple(k.part(at) for k in self.kinds),
            [self.names[i] for i in at],
            [self.indices[i] for i in at],
        )


Plan = Mapping[tuple[int, float], Sequence[Variant]]  # (block, sigma) -> what to score there


def score(
    dit: DiT, stage: Stage, seeds: Sequence[int], plan: Plan, *, batch: int, words: str, progress: bool, **kwargs: Any
) -> pd.DataFrame:
    """PCK of every variant at its place in the plan."""
    height, width = stage.originals.shape[-2:]
    columns, count = dit.grid(height, width)[1], len(stage.indices)
    sigmas = list(dict.fromkeys(sigma for _, sigma in plan))
    cells = [(v, b, s) for s in sigmas for b, at in plan if at == s for v in plan[b, s]]
    pck = np.empty((len(seeds), len(cells), len(THRESHOLDS), len(stage.kinds), count), np.float32)
    bar = progress_bar(progress, total=len(seeds) * len(sigmas) * -(-count // batch), desc="correspondence")
    for begin in range(0, count, batch):
        part = slice(begin, min(begin + batch, count))
        stacks = [encode(dit, pictures[part]) for pictures in (stage.originals, *(k.pictures for k in stage.kinds))]
        inputs = conditions(dit, [words] * (part.stop - begin), height, width, **kwargs)
        truth = torch.stack([k.truth[part] for k in stage.kinds])
        keypoints = torch.stack([k.keypoints[part] for k in stage.kinds])
        for i, seed in enumerate(seeds):
            inputs_of: dict[int, tuple[Entry, Entry]] = {}
            last: float | None = None
            for j, (variant, block, sigma) in enumerate(cells):
                if sigma != last:
                    at = [b for b, s in plan if s == sigma]
                    each = [
                        entries(dit, noisy(x, sigma, [noise_seed(seed, n)] * len(x)), sigma, inputs, at)
                        for n, x in enumerate(stacks)
                    ]
                    inputs_of = {b: (each[0][b], joined([e[b] for e in each[1:]])) for b in at}
                    last = sigma
                    bar.update()
                target, query = (variant.of(e) for e in inputs_of[block])
                nearest = nearest_tokens(query.unflatten(0, truth.shape[:2]), target).cpu()
                away = match_distance(nearest, truth, columns)
                for k, threshold in enumerate(THRESHOLDS):
                    pck[i, j, k, :, part] = correct_keypoints(away, keypoints, threshold)
    bar.close()
    return tidy(pck, cells, stage, seeds)


def joined(every: Sequence[Entry]) -> Entry:
    """Entries of several stacks as one, rows after rows."""
    return Entry(*(torch.cat(parts) for parts in zip(*every, strict=True)))


def tidy(
    pck: np.ndarray, cells: Sequence[tuple[Variant, int, float]], stage: Stage, seeds: Sequence[int]
) -> pd.DataFrame:
    """PCK (seed, cell, threshold, task, picture), one row per number."""
    seed, cell, threshold, task, picture = (x.ravel() for x in np.indices(pck.shape))
    take = lambda values, at: np.asarray(values)[at]  # noqa: E731
    return pd.DataFrame(
        {
            "picture": take(stage.indices, picture),
            "prompt": take(stage.names, picture),
            "seed": take(list(seeds), seed),
            "task": take([k.task for k in stage.kinds], task),
            "variant": take([v.name for v, _, _ in cells], cell),
            "recipe": take([v.recipe for v, _, _ in cells], cell),
            "role": take(["recipe" if v.name == v.recipe else "control" for v, _, _ in cells], cell),
            "block": take([b for _, b, _ in cells], cell),
            "sigma": take([s for _, _, s in cells], cell),
            "threshold": take(THRESHOLDS, threshold),
            "pck": pck.ravel(),
        }
    )


def noise_seed(seed: int, stack: int) -> int:
    """Of the noise of the originals (stack 0) and of each task's warped copies."""
    return seed + 1_000_003 * stack


def levels_of(stage: Stage, grid: tuple[int, int]) -> pd.DataFrame:
    """PCK of a token drawn at random and of the token at the same place, by picture, task and threshold."""
    here = torch.arange(grid[0] * grid[1])[None]
    tables = []
    for kind in stage.kinds:
        for t in THRESHOLDS:
            same = correct_keypoints(match_distance(here, kind.truth, grid[1]), kind.keypoints, t)
            chance = chance_level(kind.truth, kind.keypoints, *grid, t)
            index = {"picture": stage.indices, "prompt": stage.names, "task": kind.task, "threshold": t}
            tables.append(pd.DataFrame({**index, "chance": chance, "position": same}))
    return pd.concat(tables, ignore_index=True)
