"""Which channels, and at which block? Found for each model anew, on pictures that no experiment measures on.

Channels are detected on the detection part. The block is chosen on the development part, among the blocks at which a
detected channel is massive, by an objective that was fixed beforehand: where zeroing is most selective of detail, in
excess of norm-matched controls. The choice favours the paper's claim; whether the claim holds is tested elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dg_tools.activations import capture
from dg_tools.datasets.references import Reference, References
from dg_tools.experiments import denoise_error
from dg_tools.experiments.result import Outcome, Result
from dg_tools.interventions import Disrupt
from dg_tools.massive import RATIO, Massive, find_massive
from dg_tools.models.dit import DiT
from dg_tools.models.provenance import provenance

OBJECTIVE = (
    "the block, of those at which one of the channels is massive, where zeroing raises the one-step x0 error most in "
    "the high band against the low band (log ratio), minus the median of the same over norm-matched controls"
)
SIGMAS = (0.3, 0.7)


def find_subject(
    dit: DiT,
    detection: list[Reference],
    development: list[Reference],
    folder: References,
    *,
    seeds: int = 2,
    steps: int = 20,
    controls: int = 8,
    progress: bool = True,
) -> Result:
    """Channels and block of a model, as a `Result` whose settings hold both.

    Its outcome is how far the largest massive channel stands out (ratio to the median channel), over prompts.
    """
    prompts = [r.prompt for r in detection]
    acts = capture(
        dit, prompts, seeds=list(range(seeds)), steps=steps, height=folder.size, width=folder.size, progress=progress
    )
    detected = find_massive(acts)
    channels, massive = detected.channels, bool(detected.channels)
    if not massive:
        channels = find_massive(acts, rule="outlier").channels[:3] or find_massive(acts, rule="top", k=1).channels
    candidates = blocks_with(detected, len(dit.blocks)) if massive else list(range(len(dit.blocks)))
    rows = [sweep_block(dit, development, folder, channels, b, controls, progress) for b in candidates]
    by_block = pd.DataFrame(rows)
    block = int(by_block.loc[by_block["objective"].idxmax(), "block"])
    size = acts.data["abs_mean"].sel(stream="image").isel(branch=0)
    ratio = (size.isel(channel=channels[0]) / size.median("channel")).median(["seed", "step"]).max("site")
    outcome = Outcome.from_values(
        "stands out",
        f"the most massive channel's mean |x| is at least {RATIO:g} times the median channel's at some block",
        ratio.values,
        prompts,
        unit="x the median channel",
        direction="above",
        margin=RATIO,
        control="the detection rule's own threshold",
        primary=True,
    )
    settings = {
        "channels": channels,
        "block": block,
        "massive": massive,
        "onset": {str(c): detected.onset.get(c, 0) for c in channels},
        "rule": detected.rule,
        "objective": OBJECTIVE,
        "detection": prompts,
        "development": [r.prompt for r in development],
        "seeds": seeds,
        "steps": steps,
        "controls": controls,
        "sigmas": list(SIGMAS),
        "provenance": provenance(dit),
    }
    notes = [] if massive else [f"no channel is massive ({detected.rule}): the largest outliers stand in for them"]
    question = "Which channels are massive, and where is zeroing them most selective of detail?"
    variance = pd.DataFrame({"channel": range(dit.width), "variance": detected.token_variance(block)})
    tables = {"by_block": by_block, "variance": variance}
    return Result("subject", question, detected.to_frame(), [outcome], settings, tables, notes)


def as_massive(subject: Result, dit: DiT) -> Massive:
    """What was detected, from a stored subject; variances at its block only, where the controls need them."""
    settings = subject.settings
    variance = np.zeros((len(dit.blocks), dit.width))
    variance[settings["block"]] = subject.tables["variance"]["variance"]
    onset = {int(c): int(b) for c, b in settings["onset"].items()}
    return Massive(list(settings["channels"]), onset, dit.sites, settings["rule"], subject.table, variance)


def blocks_with(detected: Massive, count: int) -> list[int]:
    """Blocks at which one of the massive channels is massive; not the last, after which only the output layer comes."""
    blocks = [b for b in range(count) if set(detected.at(b)) & set(detected.channels)]
    return [b for b in blocks if b < count - 1] or blocks


def sweep_block(
    dit: DiT, pictures: list[Reference], folder: References, channels: list[int], block: int, controls: int, bar: bool
) -> dict[str, Any]:
    """Selectivity of zeroing and of its controls at one block."""
    off = Disrupt(channels, block)
    edits = [off, *off.controls(controls)]
    ratios = denoise_error(dit, pictures, edits, sigmas=SIGMAS, folder=folder, progress=bar).ratios()
    mean = ratios.groupby(["role", "edit", "band"])["ratio"].mean().unstack("band")
    selective = np.log(mean["high"] / mean["low"])
    mine, null = float(selective["edit"].iloc[0]), float(selective["control"].median())
    return {"block": block, "selectivity": mine, "control_median": null, "objective": mine - null}
