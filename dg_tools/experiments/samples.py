"""Samples of the same prompts from the same noise, one set per edit, and what is measured on each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from dg_tools.datasets.examples import Items, examples, pictures_of
from dg_tools.datasets.references import References
from dg_tools.experiments import prompts_alone
from dg_tools.experiments.semantics import Score
from dg_tools.generation.sampling import Count, run
from dg_tools.guidance.cfg import CFG
from dg_tools.interventions import Disrupt
from dg_tools.metrics import band_correlation, blur_effect, describe, retrieval_rank, structural_similarity
from dg_tools.metrics.cell_bands import named_bands
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures as decoded
from dg_tools.models.pictures import spatial

RETRIEVAL_SIZE = 16  # side to which pictures are reduced for retrieval: colours and layout, no detail


class Samples:
    """Prompts x seeds, sampled with any edits.

    Attributes:
        items: `Example`s, once for each seed; prompts change slowest.
        prompts, seeds: (items,).
        truth: (items, 3, H, W) in [-1, 1], or None where the prompts are only words.
    """

    def __init__(
        self,
        dit: DiT,
        items: Items,
        seeds: Sequence[int],
        *,
        steps: int,
        folder: References | None = None,
        batch: int = 16,
        scores: Mapping[str, Score] | None = None,
        **kwargs: Any,
    ) -> None:
        self.dit = dit
        self.steps = steps
        self.batch = batch
        self.scores = dict(scores or {})
        once = examples(dit, items, folder)
        self.items = [item for item in once for _ in seeds]
        self.prompts = [x.prompt for x in self.items]
        self.seeds = [s for _ in once for s in seeds]
        self.truth = pictures_of(self.items) if self.items and once[0].picture is not None else None
        size = self.truth.shape[-2:] if self.truth is not None else (kwargs.get("height"), kwargs.get("width"))
        self.height, self.width = dit.size(*size)
        self.kwargs = {**kwargs, "height": self.height, "width": self.width}

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, edits: Sequence[Disrupt] = (), scale: float = 1.0) -> torch.Tensor:
        """Pictures (items, 3, H, W) in [-1, 1], with these edits and this CFG scale (1: off)."""
        return self.run(edits, CFG(scale) if scale > 1 else None)[0]

    def run(
        self, edits: Sequence[Disrupt] = (), guidance: Any = None, pictures: int | None = None
    ) -> tuple[torch.Tensor, list[Count]]:
        """The same of the first `pictures` items, with any guidance, and what each batch cost."""
        drawn, costs = [], []
        count = len(self) if pictures is None else pictures
        for begin in range(0, count, self.batch):
            part = slice(begin, min(begin + self.batch, count))
            arguments = {"seed": self.seeds[part], "steps": self.steps, **self.kwargs}
            latents, cost = run(self.dit, self.prompts[part], edits=edits, guidance=guidance, **arguments)
            latents = spatial(self.dit, latents, self.height, self.width)
            drawn.append(decoded(self.dit, latents, batch=self.batch))
            costs.append(cost)
        return torch.cat(drawn), costs

    def candidates(self, clean: torch.Tensor) -> tuple[list[torch.Tensor], list[int]]:
        """For retrieval: each item's set of pictures (M, 3, s, s) and which of them is its own.

        Of references: every name in the item's own style and background. Else the pictures of all prompts, the clean
        samples where there is no truth.
        """
        pools: dict[tuple[References, str, str], torch.Tensor] = {}
        sets, places = [], []
        for example in self.items:
            reference, source = example.reference, example.references
            if reference is None or source is None:
                return self.pictures_of_all_prompts(clean)
            key = source, reference.style, reference.background
            if key not in pools:
                pools[key] = small(source.pictures([source.reference(n, *key[1:]) for n in source.names]))
            sets.append(pools[key])
            places.append(source.names.index(reference.name))
        return sets, places

    def pictures_of_all_prompts(self, clean: torch.Tensor) -> tuple[list[torch.Tensor], list[int]]:
        """As `candidates`, of examples that are not references."""
        own = self.truth if self.truth is not None else clean
        names = list(dict.fromkeys(self.prompts))
        first = torch.stack([own[self.prompts.index(n)] for n in names])
        sets = [small(first if self.truth is not None else self.same_seed(own, s, names)) for s in self.seeds]
        return sets, [names.index(p) for p in self.prompts]

    def same_seed(self, pictures: torch.Tensor, seed: int, names: list[str]) -> torch.Tensor:
        """The pictures of all prompts from one seed."""
        at = {(p, s): i for i, (p, s) in enumerate(zip(self.prompts, self.seeds, strict=True))}
        return torch.stack([pictures[at[name, seed]] for name in names])

    def measure(self, pictures: torch.Tensor, clean: torch.Tensor, **labels: Any) -> pd.DataFrame:
        """One row per picture: everything of `metrics.describe` with the truth as reference, or `prompts_alone.changes`
        from the clean sample where there is none; blur, closeness to the clean sample, scores, retrieval rank.
        """
        sets, own = self.candidates(clean)
        ranks = [
            int(retrieval_rank(small(x[None]), pool, torch.tensor([at]), size=RETRIEVAL_SIZE))
            for x, pool, at in zip(pictures, sets, own, strict=True)
        ]
        columns: dict[str, Any] = {"prompt": self.prompts, "seed": self.seeds}
        if self.truth is None:
            columns |= prompts_alone.changes(pictures, clean, self.dit.vae_scale_factor)
        else:
            bands = named_bands(self.dit.vae_scale_factor)
            described = describe(pictures, self.truth, bands)
            columns |= {name: value.double().numpy() for name, value in described.items()}
        columns |= {"blur": blur_effect(pictures).numpy(), "ssim_clean": structural_similarity(pictures, clean).numpy()}
        if self.truth is not None:
            columns["low_correlation_clean"] = band_correlation(pictures, clean, bands)["low"].numpy()
        for name, score in self.scores.items():
            columns[name] = score.of(pictures, self.prompts, clean).double().numpy()
        columns |= {"retrieval_rank": ranks, "found": (np.array(ranks) == 0).astype(float)}
        return pd.DataFrame({**labels, **columns})


def small(pictures: torch.Tensor) -> torch.Tensor:
    """Reduced by area, for retrieval."""
    return F.adaptive_avg_pool2d(pictures, RETRIEVAL_SIZE)
