"""Is detail lost only where the tokens were disrupted?

The massive channels are zeroed on the tokens of one half of the picture, then on those of the other: each half is the
other's control, with as many tokens elsewhere. A half's own loss is compared with its loss when the other half is
disrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.experiments.result import Outcome
from dg_tools.experiments.samples import Samples
from dg_tools.interventions import Disrupt
from dg_tools.metrics import region_error
from dg_tools.metrics.cell_bands import named_bands

HALVES = ("left", "right")
CONTROL = "as many tokens in the other half"


def halves(samples: Samples) -> tuple[dict[str, list[int]], dict[str, torch.Tensor]]:
    """Tokens of each half and its pixels (H, W); of an odd number of columns the middle one belongs to neither.

    Raises:
        ValueError: one column of tokens, which has no halves.
    """
    rows, columns = samples.dit.grid(samples.height, samples.width)
    half = columns // 2
    if half == 0:
        raise ValueError("one column of tokens has no halves: pass a wider picture, or local=False")
    inside = {"left": range(half), "right": range(columns - half, columns)}
    tokens = {name: [y * columns + x for y in range(rows) for x in inside[name]] for name in HALVES}
    masks = {}
    for name in HALVES:
        masks[name] = torch.zeros(samples.height, samples.width)
        side = samples.width // columns
        masks[name][:, inside[name].start * side : inside[name].stop * side] = 1
    return tokens, masks


def local_losses(
    samples: Samples, off: Disrupt, clean: torch.Tensor, scale: float, tick: Callable[[], Any] = lambda: None
) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """One row per picture, disrupted half and measured half; and the pictures by disrupted half.

    Columns: prompt, seed, disrupted, measured (left or right), power (high-band, of the measured half), clean (its
    clean value), changed (high-band mean square of the change there).
    """
    tokens, masks = halves(samples)
    bands = {"high": named_bands(samples.dit.vae_scale_factor)["high"]}
    tables, pictures = [], {}
    for disrupted in HALVES:
        edited = samples.draw([replace(off, tokens=tokens[disrupted])], scale)
        pictures[disrupted] = edited
        for measured in HALVES:
            weight = masks[measured].expand(len(edited), -1, -1)
            power, before = (
                region_error(x, torch.zeros_like(x), weight, bands)["high"].numpy() for x in (edited, clean)
            )
            changed = region_error(edited, clean, weight, bands)["high"].numpy()
            columns = {"prompt": samples.prompts, "seed": samples.seeds, "disrupted": disrupted, "measured": measured}
            tables.append(pd.DataFrame({**columns, "power": power, "clean": before, "changed": changed}))
        tick()
    return pd.concat(tables, ignore_index=True), pictures


def local_outcomes(table: pd.DataFrame) -> list[Outcome]:
    """Loss there against loss elsewhere, and how far the change itself stays inside."""
    same = table["disrupted"] == table["measured"]
    keys, columns = ["prompt", "seed", "measured"], ["power", "clean", "changed"]
    own, other = (table[at].groupby(keys, sort=False)[columns].mean() for at in (same, ~same))
    other = other.loc[own.index]
    scale = own["clean"].mean()
    there, elsewhere = ((x["power"] - x["clean"]) / scale for x in (own, other))
    prompts = own.index.get_level_values("prompt")
    log = np.log(own["changed"].clip(1e-30)) - np.log(other["changed"].clip(1e-30))
    return [
        Outcome.from_values(
            "local_detail",
            "a half of the picture loses more high-band power when its own tokens are disrupted than when as many "
            "elsewhere are",
            there - elsewhere,
            prompts,
            unit="of the clean high-band power",
            direction="below",
            margin=0.0,
            control=CONTROL,
        ),
        Outcome.from_values(
            "local_change",
            "the high band changes more in a half when its own tokens are disrupted than when as many elsewhere are",
            log,
            prompts,
            unit="log ratio of the mean-square change",
            direction="above",
            margin=0.0,
            control=CONTROL,
        ),
    ]
