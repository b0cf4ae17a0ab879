"""The outcomes and tables of the timestep experiment: variance by cause, slopes against sigma, ranks of gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.experiments.modulation_swap import REACHES, SWAPS, relative
from dg_tools.experiments.result import Outcome

TWICE, HALF, TENTH, TOP = 1.0, 0.5, 0.1, 0.95  # bounds: log2 of two, shares of variance, rank among gates
LEAST = 1e-6  # log2 units: smaller changes are rounding


def shares(y: np.ndarray) -> np.ndarray:
    """Shares of the variance of y (prompt, seed, step) that timestep, prompt, seed and the rest account for."""
    centred = y - y.mean()
    total = max(float((centred**2).mean()), 1e-24)
    by = [float((centred.mean(axes) ** 2).mean()) / total for axes in ((0, 1), (1, 2), (0, 2))]
    return np.array([*by, max(0.0, 1 - sum(by))])


def bootstrapped(y: np.ndarray, which: int, draws: int = 1000) -> tuple[float, float, float]:
    """One of the shares with its 95% interval over prompts drawn with replacement."""
    chance = np.random.default_rng(0)
    estimates = [shares(y[chance.integers(len(y), size=len(y))])[which] for _ in range(draws)]
    low, high = np.quantile(estimates, [0.025, 0.975])
    return float(shares(y)[which]), float(low), float(high)


def slopes(y: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """Least-squares slope of y (prompt, seed, step) against sigma, by prompt."""
    x = np.asarray(sigmas) - np.mean(sigmas)
    return (y.mean(1) * x).sum(-1) / (x**2).sum()


def ranks(gates: dict[str, np.ndarray], channels: Sequence[int]) -> np.ndarray:
    """Share of the other channels whose |gate| is smaller, mean over the gates, steps and seeds, by prompt."""
    by_gate = []
    for gate in gates.values():
        rest = np.delete(gate, list(channels), axis=-1)
        by_gate += [(rest < gate[..., c : c + 1]).mean(-1) for c in channels]
    return np.mean(by_gate, axis=0).mean((1, 2))


def effects(
    y: np.ndarray,
    change: dict[tuple[str, str], np.ndarray],
    gates: dict[str, np.ndarray],
    channels: list[int],
    sets: list[tuple[int, ...]],
    sigmas: list[float],
    prompts: list[str],
    at: int,
) -> list[Outcome]:
    """The outcomes, primary first; y is the relative size (prompt, seed, step, channel) at the block."""
    shared: dict[str, Any] = {"control": "as many of the channels nearest in energy"}
    outcomes: list[Outcome] = []

    def compared(reach: str) -> Callable[[Sequence[int]], np.ndarray]:
        def over(which: Sequence[int]) -> np.ndarray:
            mean = [np.maximum(change[k, reach][..., list(which)].mean((1, 2, 3, 4)), LEAST) for k in SWAPS]
            return np.log2(mean[0] / mean[1])

        return over

    plan: list[tuple[str, str, Callable[[Sequence[int]], np.ndarray], str, Any, float]] = [
        (
            "time over prompt",
            f"after block {at} the timestep changes the channels at least twice as much as the "
            "prompt, through the modulation of the blocks up to it",
            compared(REACHES[0]),
            "log2 of the ratio",
            "above",
            TWICE,
        )
    ]
    if (SWAPS[0], REACHES[1]) in change:
        plan.append(
            (
                "time over prompt, one block",
                f"the same through the modulation of block {at} alone",
                compared(REACHES[1]),
                "log2 of the ratio",
                "above",
                TWICE,
            )
        )
    plan.append(
        (
            "grows with less noise",
            f"after block {at} the channels grow against the others as the noise goes",
            lambda which: slopes(y[..., list(which)].mean(-1), sigmas),
            "log2 a unit of sigma",
            "below",
            0.0,
        )
    )
    plan.append(
        (
            "gates peak there",
            f"the gates of block {at} are among the largest at the channels",
            lambda which: ranks(gates, which),
            "of other channels have a smaller gate",
            "above",
            TOP,
        )
    )
    for name, claim, values, unit, direction, margin in plan:
        null = [float(values(one).mean()) for one in sets]
        settings = {"unit": unit, "direction": direction, "margin": margin, "primary": not outcomes, **shared}
        outcomes.append(Outcome.from_values(name, claim, values(channels), prompts, null=null, **settings))
    for which, name, words, direction, margin in (
        (
            0,
            "explained by timestep",
            "more than half of the relative size's variance goes with the timestep",
            "above",
            HALF,
        ),
        (
            1,
            "explained by prompt",
            "less than a tenth of the relative size's variance goes with the prompt",
            "below",
            TENTH,
        ),
    ):
        estimate, low, high = bootstrapped(y[..., channels].mean(-1), which)
        null_shares = tuple(float(shares(y[..., list(one)].mean(-1))[which]) for one in sets)
        settings = {"direction": direction, "margin": margin, "null": null_shares, **shared}
        outcomes.append(Outcome(name, words, estimate, low, high, "of the variance", **settings))
    return outcomes


def tidy(
    size: np.ndarray, channels: list[int], prompts: list[str], seeds: Sequence[int], sigmas: list[float]
) -> pd.DataFrame:
    """One row per prompt, seed, sigma, block and massive channel."""
    names = ["prompt", "seed", "sigma", "block", "channel"]
    index = pd.MultiIndex.from_product([prompts, list(seeds), sigmas, range(size.shape[3]), channels], names=names)
    median = np.repeat(np.median(size, axis=-1, keepdims=True), len(channels), axis=-1)
    columns = {"size": size[..., channels], "median_channel": median, "relative": relative(size)[..., channels]}
    return pd.DataFrame({k: v.ravel() for k, v in columns.items()}, index=index).reset_index()


def variance_table(y: np.ndarray, channels: list[int], sets: list[tuple[int, ...]]) -> pd.DataFrame:
    """Shares of variance of the channels and of each control draw."""
    every = [("massive", tuple(channels)), *(("control", one) for one in sets)]
    names = ("timestep", "prompt", "seed", "rest")
    return pd.DataFrame(
        [
            {"kind": kind, "channels": " ".join(map(str, one))}
            | dict(zip(names, shares(y[..., list(one)].mean(-1)).tolist(), strict=True))
            for kind, one in every
        ]
    )


def swap_table(
    change: dict[tuple[str, str], np.ndarray], channels: list[int], sets: list[tuple[int, ...]], prompts: list[str]
) -> pd.DataFrame:
    """|Change| of the relative size by swap, reach and prompt: the channels', and each draw's over all prompts."""
    rows = []
    for (swap, reach), value in change.items():
        by_prompt = value[..., channels].mean((1, 2, 3, 4))
        rows += [
            {"swap": swap, "reach": reach, "kind": "massive", "prompt": p, "change": float(x)}
            for p, x in zip(prompts, by_prompt, strict=True)
        ]
        rows += [
            {
                "swap": swap,
                "reach": reach,
                "kind": "control",
                "prompt": "",
                "change": float(value[..., list(one)].mean()),
            }
            for one in sets
        ]
    return pd.DataFrame(rows)


def gate_table(gates: dict[str, np.ndarray]) -> pd.DataFrame:
    """Mean |gate| by part and channel."""
    rows = [
        {"part": part, "channel": channel, "gate": float(value)}
        for part, gate in gates.items()
        for channel, value in enumerate(gate.mean((0, 1, 2)))
    ]
    return pd.DataFrame(rows)


def slope_table(size: np.ndarray, channels: list[int], sigmas: list[float]) -> pd.DataFrame:
    """Slope against sigma by block: of the relative size, and of log2 of the size itself."""
    rows = []
    for block in range(size.shape[3]):
        for c in channels:
            part = size[:, :, :, block]
            rows.append(
                {
                    "block": block,
                    "channel": c,
                    "relative": slopes(relative(part)[..., c], sigmas).mean(),
                    "absolute": slopes(np.log2(np.maximum(part[..., c], 1e-12)), sigmas).mean(),
                }
            )
    return pd.DataFrame(rows)
