"""The outcomes of the sinks experiment, and its verdict, which may be that nothing was tested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from dg_tools.experiments.result import Outcome
from dg_tools.forward.attention_sites import AttentionSite
from dg_tools.interventions import MaskTokens
from dg_tools.metrics.cell_bands import NAMED
from dg_tools.models.dit import DiT
from dg_tools.models.text_tokens import text_tokens

PATHS: tuple[Literal["score", "value"], ...] = ("score", "value")
ACTS = 0.10  # median ||v_d - v|| / ||v|| below which a mask tests nothing; as in `report.rules`
LEAST_SIGMA = 0.01
CLEANEST = "the prediction of x0 there is z itself, and no edit moves it"
LARGER = float(np.log2(1.5))  # half as large again
EQUAL = "masks of random tokens that together receive as much attention"


def effects(
    change: np.ndarray,
    moved: np.ndarray,
    held: np.ndarray,
    on: np.ndarray,
    channels: Sequence[int],
    sets: Sequence[Sequence[int]],
    prompts: Sequence[str],
    plan: Sequence[MaskTokens],
    counts: tuple[int, int],
) -> list[Outcome]:
    """Outcomes, primary first.

    Args:
        change: (mask, prompt, seed, step, band), `total` last. moved: the same without bands.
        held: (2, prompt, seed, step, site), the mass of the sinks, and of all tokens of their stream.
        on: (prompt, seed, step, block, channel), log2 of the size on sinks over that on others.
        channels, sets: massive ones, and draws of others.
        prompts: of the test.
        plan: which mask each is.
        counts: sinks, and tokens of the stream.
    """
    outcomes = []
    bands = [*NAMED, "total"]
    for path in PATHS:
        own = next(i for i, e in enumerate(plan) if e.path == path and not e.control)
        null = [i for i, e in enumerate(plan) if e.path == path and e.control]
        for band in ("total", *NAMED):
            values = np.nanmean(change[..., bands.index(band)], (2, 3))  # (mask, prompt)
            if np.isnan(values).all():
                continue
            ours = values[own] - values[null].mean(0)
            others = [
                float((values[i] - np.delete(values[null], j, 0).mean(0)).mean()) if len(null) > 1 else 0.0
                for j, i in enumerate(null)
            ]
            where = "x0" if band == "total" else f"x0's {band} band"
            outcomes.append(
                Outcome.from_values(
                    f"{path} {band}",
                    f"masking the sinks on the {path} path changes {where} more than masking tokens of equal mass",
                    ours,
                    prompts,
                    null=others if len(null) > 1 else (),
                    unit="of the clean rms, above the controls' mean",
                    direction="above",
                    margin=0.0,
                    control=EQUAL,
                    primary=path == PATHS[0] and band == "total",
                )
            )
    sizes = np.nanmean(on, (1, 2, 3))  # (prompt, channel)
    outcomes.append(
        Outcome.from_values(
            "channels on sinks",
            "the massive channels are at least half as large again on sink tokens as on the other tokens of the stream",
            sizes[:, list(channels)].mean(1),
            prompts,
            null=[float(sizes[:, list(one)].mean()) for one in sets],
            unit="log2 of the size on sinks over that on other tokens",
            direction="above",
            margin=LARGER,
            control="as many of the channels nearest in energy",
        )
    )
    times = np.nanmean(held[0], (1, 2, 3)) / np.nanmean(held[1], (1, 2, 3)) * counts[1] / counts[0]
    outcomes.append(
        Outcome.from_values(
            "sinks elsewhere",
            "on the prompts of the test, too, the sinks receive more than twice what a mean token of their stream does",
            times,
            prompts,
            unit="times the mean token's attention",
            direction="above",
            margin=2.0,
        )
    )
    return outcomes


def in_words(outcomes: Sequence[Outcome], moved: np.ndarray, plan: Sequence[MaskTokens]) -> str:
    """The verdict: first whether the mask acts at all, then what it costs."""
    own = next(i for i, e in enumerate(plan) if e.path == PATHS[0] and not e.control)
    size = float(np.nanmedian(moved[own]))
    named = {o.name: o for o in outcomes}
    where = named["channels on sinks"].sentence()
    acts = f"masking the sinks moves the velocity by {size:.3g} (median)"
    if not size >= ACTS:
        return f"Not tested what the sinks do: {acts}, and {ACTS:g} is needed. {where}"
    return f"{named['score total'].sentence()} The mask acts: {acts}. {where}"


def sink_table(dit: DiT, prompt: str, tokens: Sequence[int], mass: np.ndarray, stream: str) -> pd.DataFrame:
    """One row for each sink: its token, what it is in one of the prompts, its mass, and that over a mean token's.

    `mass`: (site, token) on the prompts on which the sinks were found.
    """
    mean = mass.mean(0)
    rows = pd.DataFrame({"token": list(tokens), "mass": mean[list(tokens)]})
    rows["times"] = rows["mass"] / mean.mean()
    if stream == "text" and dit.family.tokenizers:
        words = text_tokens(dit, prompt, mass.shape[1]).set_index("token")
        for column in ("piece", "pad"):
            rows[column] = words[column].reindex(list(tokens)).to_numpy()
    return rows


def by_block(
    sites: Sequence[AttentionSite], held: np.ndarray, on: np.ndarray, channels: list[int], sets: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """One row for each block: the sinks' share of attention, and how much larger channels are on them, in log2."""
    rows: list[dict[str, Any]] = []
    for block in range(on.shape[3]):
        at = [i for i, site in enumerate(sites) if site.block == block and not np.isnan(held[..., i]).all()]
        sizes = on[:, :, :, block]
        blank = np.isnan(sizes).all()
        null = [np.nan if blank else float(np.nanmean(sizes[..., list(one)])) for one in sets]
        rows.append(
            {
                "block": block,
                "mass": float(np.nanmean(held[..., at])) if at else np.nan,
                "channels": np.nan if blank else float(np.nanmean(sizes[..., channels])),
                "control_median": float(np.median(null)),
                "control_most": float(np.max(null)),
            }
        )
    return pd.DataFrame(rows)


def tidy(
    change: np.ndarray,
    moved: np.ndarray,
    plan: Sequence[MaskTokens],
    prompts: Sequence[str],
    seeds: Sequence[int],
    sigmas: Sequence[float],
) -> pd.DataFrame:
    """One row for each mask, run, noise level and band."""
    names = [edit.sentence() for edit in plan]
    levels = [names, prompts, list(seeds), sigmas, [*NAMED, "total"]]
    index = pd.MultiIndex.from_product(levels, names=["variant", "prompt", "seed", "sigma", "band"])
    columns = {"change": change.ravel(), "moved": np.repeat(moved.ravel(), len(NAMED) + 1)}
    table = pd.DataFrame(columns, index=index).reset_index().dropna(subset=["moved"])
    roles = {edit.sentence(): ("control" if edit.control else "sinks", edit.path) for edit in plan}
    pairs = table["variant"].map(roles)
    return table.assign(role=pairs.str[0], path=pairs.str[1]).reset_index(drop=True)
