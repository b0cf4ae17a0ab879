"""Which finalist, at which weight? Guided pictures, beside pictures with the gain that the guidance contains.

Among other things, DG multiplies c by 1 + w (1 - g), and such a gain alone adds detail too. So the score is amt_c (the
change of log2(high-band power / low-band power) from the plain picture, in doublings) beyond that of a run with this
gain alone, among the settings whose low band stays. The gain runs are made at the larger weight; at the smaller one
their amount is taken in proportion to the gain. Rightness plays no part, since your own model has no references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from dg_tools.guidance.auto.trial import Sampled, Spend, sampled
from dg_tools.interventions import Disrupt
from dg_tools.metrics.cell_bands import amount_change, low_correlation
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures

LOW_KEPT = 0.95  # correlation of the low band with the plain picture's, mean over prompts


@dataclass(frozen=True)
class Base:
    """What every run starts from: prompts, seeds, and plain pictures (N, 3, H, W); `chunk` of them per forward."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    plain: torch.Tensor
    chunk: int

    def run(self, dit: DiT, spend: Spend, *, factors: Sequence[torch.Tensor] = (), **settings: Any) -> Sampled:
        """`trial.sampled` of all prompts, in chunks."""
        parts = []
        for start in range(0, len(self.prompts), self.chunk):
            part = slice(start, start + self.chunk)
            own = [factor[part] for factor in factors]
            parts.append(sampled(dit, self.prompts[part], self.seeds[part], spend, factors=own, **settings))
        gains = [torch.cat(step) for step in zip(*(part.gains for part in parts), strict=True)]
        return Sampled(torch.cat([part.latents for part in parts]), gains)


def measured(dit: DiT, latents: torch.Tensor, base: Base) -> dict[str, list[float]]:
    """Amount and low-band correlation of each picture against the plain one."""
    made, cell = pictures(dit, latents, batch=base.chunk), dit.vae_scale_factor
    return {
        "amount": amount_change(made, base.plain, cell).tolist(),
        "low": low_correlation(made, base.plain, cell).tolist(),
    }


def guided_rows(
    dit: DiT, base: Base, edit: Disrupt, weights: Sequence[float], spend: Spend, with_gain: bool, **kwargs: Any
) -> list[dict[str, Any]]:
    """Runs of one finalist: Detail Guidance at each weight, and its own gain at the largest weight; plain JSON.

    Args:
        dit, base: the model, and what the runs start from.
        edit: of the weak model.
        weights: w.
        spend: is told the row-forwards.
        with_gain: whether the gain run is made.
        **kwargs: to the pipeline's call.
    """
    about = {"block": edit.block, "rho": edit.rho, "channels": list(edit.channels)}
    rows: list[dict[str, Any]] = []
    for weight in sorted(weights):
        run = base.run(dit, spend, edit=edit, weight=weight, **kwargs)
        factors = [1 + weight * (1 - gain) for gain in run.gains]
        strength = float(torch.stack(factors).mean() - 1)
        rows.append({**about, "run": "DG", "w": weight, "strength": strength, **measured(dit, run.latents, base)})
    if with_gain:
        louder = base.run(dit, spend, factors=factors, **kwargs)
        gain = {"run": "its gain", "w": max(weights), "strength": strength}
        rows.append({**about, **gain, **measured(dit, louder.latents, base)})
    return rows


def compared(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per finalist and weight: amount, amount of its gain alone, what is beyond, whether the low band stays.

    Columns: block, rho, channels, w, amount, gain_amount, beyond (doublings, means over prompts), low (correlation),
    kept (low is at least 0.95), prompts. If a gain was not run, its amount is scaled from the gain run nearest in
    strength, in proportion to the mean of w (1 - g).
    """
    gains = [row for row in rows if row["run"] == "its gain"]
    table = []
    for row in rows:
        if row["run"] != "DG":
            continue
        nearest = min(gains, key=lambda gain: (gain["block"], gain["rho"]) != (row["block"], row["rho"]))
        factor = row["strength"] / nearest["strength"] if abs(nearest["strength"]) > 1e-6 else 0.0
        alone = factor * torch.tensor(nearest["amount"]).mean().item()
        amount, low = (torch.tensor(row[name]).mean().item() for name in ("amount", "low"))
        table.append(
            {
                **{name: row[name] for name in ("block", "rho", "channels", "w")},
                "amount": amount,
                "gain_amount": alone,
                "beyond": amount - alone,
                "low": low,
                "kept": low >= LOW_KEPT,
                "prompts": len(row["amount"]),
            }
        )
    return pd.DataFrame(table)


def finalists(scan: pd.DataFrame, count: int = 2) -> list[dict[str, Any]]:
    """The eligible settings of highest score, each at another block; as rows of the scan."""
    eligible = scan[scan["eligible"]].sort_values("score", ascending=False)
    return eligible.drop_duplicates("block").head(count).to_dict("records")
