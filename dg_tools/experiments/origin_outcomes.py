"""The outcomes and tables of the origin experiment: writes by block, gates set to zero, and the size afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.experiments.result import Outcome
from dg_tools.experiments.writers import EMBEDDING, WRITERS
from dg_tools.interventions import Disrupt

HALF = 0.5  # the bound of every claim here: most of it, or less than half of it
NEAREST = "as many of the channels nearest in energy"


@dataclass(frozen=True)
class PlannedEdit:
    """The edits of one run, and their channels."""

    kind: str
    channels: tuple[int, ...]
    edits: list[Disrupt]


def effects(
    writes: np.ndarray,
    final: np.ndarray,
    plan: list[PlannedEdit],
    relative: list[np.ndarray],
    channels: list[int],
    sets: list[tuple[int, ...]],
    main: list[int],
    prompts: list[str],
    at: int,
) -> list[Outcome]:
    """The outcomes, primary first; `relative` are sizes relative to clean, one per row of the plan."""

    def of(kind: str) -> list[np.ndarray]:
        sizes = [size for row, size in zip(plan, relative, strict=True) if row.kind == kind]
        return [size[:, :, :, -1].mean((1, 2, 3)) for size in sizes]

    where = ", ".join(f"{c} at block {main[c]}" for c in channels)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = writes.sum(0) / final[..., None, :]  # (prompt, seed, step, block, channel), the embedding last

    def written(which: Sequence[int]) -> np.ndarray:
        return np.mean([np.median(share[:, :, :, main[c], c], (1, 2)) for c in which], 0)

    def embedded(which: Sequence[int]) -> np.ndarray:
        return np.mean([np.median(share[:, :, :, EMBEDDING, c], (1, 2)) for c in which], 0)

    own, zeroed = of("own block")[0], of("zeroed")[0]
    rows: list[tuple[str, str, np.ndarray, list[float], str, str, Any]] = [
        ("gate where it is written", f"the gates of the block that writes a channel most ({where}) cause most of it",
         1 - own, [float((1 - x).mean()) for x in of("other channels")],
         f"{NEAREST}, each at the block that writes it most", "of the final size is gone without the gates", "above"),
        ("gate there, not elsewhere", "it is that block's gates: those of other blocks cause less", 1 - own,
         [float((1 - x).mean()) for x in of("other blocks")], "the same channels, gates of other blocks",
         "of the final size is gone without the gates", "above"),
        ("one block writes it", f"one block writes most of each channel ({where})", written(channels),
         [float(written(one).mean()) for one in sets], NEAREST, "of the final token mean", "above"),
        ("not the embedding", "patch projection and positions write less than half of it", embedded(channels),
         [float(embedded(one).mean()) for one in sets], NEAREST, "of the final token mean", "below"),
        ("does not heal", f"zeroed after block {at}, the channels end at less than half of their clean size", zeroed,
         [float(x.mean()) for x in of("other zeroed")], f"{NEAREST}, zeroed there", "of the clean size", "below"),
    ]  # fmt: skip
    return [
        Outcome.from_values(
            name,
            claim,
            values,
            prompts,
            null=null,
            control=control,
            unit=unit,
            direction=direction,
            margin=HALF,
            primary=i == 0,
        )
        for i, (name, claim, values, null, control, unit, direction) in enumerate(rows)
    ]


def tidy(
    writes: np.ndarray,
    sizes: np.ndarray,
    final: np.ndarray,
    channels: list[int],
    prompts: list[str],
    seeds: Sequence[int],
    sigmas: list[float],
) -> pd.DataFrame:
    """One row per write that the model has."""
    order = [EMBEDDING, *range(writes.shape[-2] - 1)]
    levels = [list(WRITERS), prompts, list(seeds), sigmas, order, channels]
    index = pd.MultiIndex.from_product(levels, names=["writer", "prompt", "seed", "sigma", "block", "channel"])
    end = np.broadcast_to(final[None, :, :, :, None][..., channels], sizes.shape)
    columns = {"write": writes[..., order, :][..., channels], "size": sizes[..., order, :], "final": end}
    table = pd.DataFrame({k: v.ravel() for k, v in columns.items()}, index=index).reset_index()
    there = table.groupby(["writer", "block"])["size"].transform("max") > 0
    return table[there].reset_index(drop=True)


def gate_table(plan: list[PlannedEdit], relative: list[np.ndarray]) -> pd.DataFrame:
    """Share of the final size removed by zeroing gates, one row per draw."""
    rows = [
        {
            "kind": row.kind,
            "channels": " ".join(map(str, row.channels)),
            "blocks": " ".join(str(e.block) for e in row.edits),
            "removed": float(1 - size[:, :, :, -1].mean()),
        }
        for row, size in zip(plan, relative, strict=True)
        if "zeroed" not in row.kind
    ]
    return pd.DataFrame(rows)


def healing_table(plan: list[PlannedEdit], relative: list[np.ndarray], at: int) -> pd.DataFrame:
    """Size relative to clean from the disrupted block on: each massive channel, and each control draw."""
    rows = []
    for draw, (edit, size) in enumerate(zip(plan, relative, strict=True)):
        if "zeroed" not in edit.kind:
            continue
        count = len(edit.channels)
        groups = [("", list(range(count)))]
        if edit.kind == "zeroed":
            groups = [(str(c), [i]) for i, c in enumerate(edit.channels)]
        for name, index in groups:
            for block in range(at, size.shape[3]):
                value = float(size[:, :, :, block][..., index].mean())
                rows.append({"kind": edit.kind, "draw": draw, "channel": name, "block": block, "relative": value})
    return pd.DataFrame(rows)
