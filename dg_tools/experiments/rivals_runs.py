"""What `rivals` runs, and what it measures on each picture: amount and rightness of detail, layout, meaning, price."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from dg_tools.datasets.examples import Items
from dg_tools.datasets.references import References
from dg_tools.experiments.samples import RETRIEVAL_SIZE, Samples, small
from dg_tools.metrics import amount_change, band_correlation, band_power, retrieval_margin
from dg_tools.metrics.cell_bands import named_bands
from dg_tools.models.dit import DiT

APART = 1000  # between the noise seeds of two prompts


class Bench:
    """Prompts with their pictures; each prompt has noise of its own, the same under every guidance.

    Args:
        dit: the model.
        items: prompts with pictures.
        seeds: noise seeds; prompt i of a bench that begins at `first` gets seed + 1000 (first + i).
        steps, batch, folder, kwargs: as in `Samples`.
        first: number of the first prompt.

    Raises:
        ValueError: prompts without pictures.
    """

    def __init__(
        self,
        dit: DiT,
        items: Items,
        seeds: Sequence[int],
        *,
        steps: int,
        batch: int,
        folder: References | None,
        first: int = 0,
        **kwargs: Any,
    ) -> None:
        self.samples = Samples(dit, items, seeds, steps=steps, folder=folder, batch=batch, **kwargs)
        if self.samples.truth is None:
            raise ValueError("rivals are judged by the rightness of detail, so every prompt needs a picture")
        self.truth: torch.Tensor = self.samples.truth
        count = len(self.samples) // len(seeds)
        self.samples.seeds = [seed + APART * (first + i) for i in range(count) for seed in seeds]
        self.pools, self.own = self.samples.candidates(self.truth)

    def measured(self, guidance: Any = None, pictures: int | None = None) -> dict[str, Any]:
        """Numbers of each picture, in their order, and the price of one; plain JSON.

        Args:
            guidance: what guides; None: nothing.
            pictures: only the first of them.

        Returns:
            Lists `amt_c`, `amt`, `right`, `low`, `margin`; `seconds`, `forwards` and `passes` (block calls over blocks)
            per picture; `change`, the mean ||d - c|| / ||c||, None where there is no degraded prediction.
        """
        samples, dit = self.samples, self.samples.dit
        count = len(samples) if pictures is None else pictures
        begin = time.perf_counter()
        x, costs = samples.run(guidance=guidance, pictures=count)
        seconds = time.perf_counter() - begin
        truth, cell = self.truth[:count], dit.vae_scale_factor
        bands = named_bands(cell)
        correlation = band_correlation(x, truth, bands)
        margin = [
            float(retrieval_margin(small(one[None]), pool, torch.tensor([at]), size=RETRIEVAL_SIZE))
            for one, pool, at in zip(x, self.pools, self.own, strict=False)
        ]
        columns = {
            "amt_c": amount_change(x, truth, cell),
            "amt": (band_power(x, bands)["high"] / band_power(truth, bands)["high"]).log2(),
            "right": correlation["high"],
            "low": correlation["low"],
            "margin": torch.tensor(margin),
        }
        changes = [cost.guided.mean_change for cost in costs if cost.guided is not None and cost.guided.change]
        calls = sum(cost.block_calls for cost in costs) / len(dit.blocks)
        return {
            **{name: [round(float(v), 6) for v in values] for name, values in columns.items()},
            "seconds": seconds / count,
            "forwards": sum(cost.forwards for cost in costs) / count,
            "passes": round(calls / count, 3),
            "change": sum(changes) / len(changes) if changes else None,
        }

    def table(self, numbers: dict[str, Any], **labels: Any) -> pd.DataFrame:
        """The numbers of `measured`, one row per picture."""
        lists = {name: values for name, values in numbers.items() if isinstance(values, list)}
        count = len(lists["amt_c"])
        about = {"prompt": self.samples.prompts[:count], "seed": self.samples.seeds[:count]}
        return pd.DataFrame({**labels, **about, **lists})
