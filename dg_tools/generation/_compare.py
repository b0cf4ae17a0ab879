"""Compare guidances side by side, from the same noise: pictures, costs and metrics.

    result = dg.compare(dit, prompts, {"CFG": dg.CFG(3.0), "PAG": dg.baselines.PAG(3.0, 0.5, blocks=6)}, seeds=[0, 1])
    result.grid()
    result.to_frame().groupby("guidance")[["high_correlation", "block_calls"]].mean()

It shows and measures, but tests nothing: `experiments.guidance` adds controls and gives every guidance the same search
budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from diffusers.guiders import BaseGuidance

from dg_tools._as_list import as_list
from dg_tools.datasets.examples import Items, examples, pictures_of, prompts_of
from dg_tools.datasets.references import References
from dg_tools.generation._generate import generate, name_of
from dg_tools.guidance.report import Report
from dg_tools.kinds import counted
from dg_tools.metrics import UNITS, describe
from dg_tools.metrics.cell_bands import check_size, named_bands, named_words
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded


@dataclass
class Comparison:
    """The result of `compare`: pictures, their costs and metrics.

    Attributes:
        images: PIL pictures, in the table's order: prompts outermost, then seeds, then guidances.
        table: one row per picture: guidance, prompt, seed, block_calls, forwards, seconds, and the values of
            `metrics.describe` (units in `metrics.UNITS`; those that need a reference only if there is one), pixels in
            [-1, 1].
        bands: the edges of the low, mid and high band in words, in cycles per latent cell and per pixel; the mean is in
            none.
        references: (prompts, 3, H, W) in [-1, 1], or None.
        settings: one dict per picture, as in `Generation`.
        guided: what the guidance of each picture did, as in `Generation`.
    """

    images: list[Any]
    table: pd.DataFrame
    references: torch.Tensor | None = None
    settings: list[dict[str, Any]] = field(default_factory=list)
    guided: list[Report | None] = field(default_factory=list)
    bands: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        guidances = self.table["guidance"].nunique()
        return f"Comparison({counted(guidances, 'guidance')}, {counted(len(self.images), 'picture')})"

    def to_frame(self) -> pd.DataFrame:
        """The table, as a copy."""
        return self.table.copy()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: names of the guidances, rows of the table, units, bands; None where a metric is not defined."""
        rows = self.table.astype(object).where(self.table.notna(), None).to_dict("records")
        units = {name: UNITS[name] for name in self.table if name in UNITS}
        names = list(dict.fromkeys(self.table["guidance"]))
        return {"guidances": names, "rows": rows, "units": units, "bands": self.bands}

    def grid(self, **kwargs: Any) -> Any:
        """`plots.comparison_grid`: a column for each guidance, a row for each prompt and seed."""
        from dg_tools.plots import comparison_grid

        return comparison_grid(self, **kwargs)


def compare(
    dit: DiT,
    prompts: Items,
    guidances: Mapping[str, BaseGuidance | None] | Sequence[BaseGuidance | None],
    seeds: int | Sequence[int] = 0,
    *,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    folder: References | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Comparison:
    """Sample several guidances from the same noise, and measure pictures and costs.

    Args:
        dit: from `load`.
        prompts: one or several: strings, `Reference`s, (prompt, picture) pairs or `Example`s; pictures are PIL, paths
            or tensors (3, H, W) in [-1, 1].
        guidances: by name, or a list of them, named by what they are: None (s = 1), `CFG`, `DetailGuidance`, or one of
            `baselines`.
        seeds: one or several; every prompt with every seed.
        steps, height, width: as in `generate`; with pictures, their size.
        folder: where `Reference`s have their pictures (default: the embedded ones).
        progress: show a bar.
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError, TypeError, IndexError: before the first forward, for settings that this model cannot take, for no
            guidances, two with one name, or pictures too small for a low band (8 latent cells per side).

    Example:
        >>> guided = dg.DetailGuidance(1.0, 0.5, disrupt=dg.Disrupt([55], 6))
        >>> result = dg.compare(dit, "red apple", {"plain": None, "DG": guided}, steps=2)
        >>> result
        Comparison(2 guidances, 2 pictures)
        >>> result.to_frame()[["guidance", "forwards", "block_calls"]]
          guidance  forwards  block_calls
        0    plain         2           24
        1       DG         4           34
    """
    check_loaded(dit, "compare")
    items = examples(dit, prompts, folder)
    named = guidances if isinstance(guidances, Mapping) else by_name(as_list(guidances))
    if not items or not named:
        raise ValueError("an empty list of prompts or guidances: nothing to compare")
    truth = None
    if items[0].picture is not None:
        truth = pictures_of(items)
        size = tuple(truth.shape[-2:])
        if (height or size[0], width or size[1]) != size:
            raise ValueError(f"height and width {height} x {width}; the reference pictures are {size[0]} x {size[1]}")
        height, width = size
    cell = dit.vae_scale_factor
    check_size(*dit.size(height, width), cell)
    numbers = as_list(seeds)
    generation = generate(
        dit,
        prompts_of(items),
        seed=numbers,
        guidance=list(named.values()),
        steps=steps,
        height=height,
        width=width,
        progress=progress,
        **kwargs,
    )
    variants = len(numbers) * len(named)
    repeated = None if truth is None else truth.repeat_interleave(variants, 0)
    measured = describe(generation.pictures, repeated, named_bands(cell))
    table = pd.DataFrame(
        {
            "guidance": list(named) * (len(items) * len(numbers)),
            "prompt": [s["prompt"] for s in generation.settings],
            "seed": [s["seed"] for s in generation.settings],
            "block_calls": generation.block_calls,
            "forwards": generation.forwards,
            "seconds": generation.seconds,
            **{name: values.double().numpy() for name, values in measured.items()},
        }
    )
    return Comparison(generation.images, table, truth, generation.settings, generation.guided, named_words(cell))


def by_name(guidances: Sequence[BaseGuidance | None]) -> dict[str, BaseGuidance | None]:
    """Guidances under names made from their settings.

    Raises:
        ValueError: two with one name.
    """
    names = [name_of(guidance) for guidance in guidances]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two guidances are called {twice[0]!r}: name them, guidances={{'a': ..., 'b': ...}}")
    return dict(zip(names, guidances, strict=True))
