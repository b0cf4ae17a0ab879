"""Measure a choice on prompts that were not used to make it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dg_tools.guidance.auto import samples
from dg_tools.guidance.auto.trial import sampled
from dg_tools.interventions import Disrupt
from dg_tools.kinds import counted
from dg_tools.metrics.intervals import bootstrap_interval
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures
from dg_tools.progress import progress_bar


def measured_on(
    dit: DiT,
    profile: dict[str, Any],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    chunk: int = 4,
    progress: bool = True,
    **kwargs: Any,
) -> dict[str, Any]:
    """Measure Detail Guidance from a profile, and its own gain alone, against plain pictures from the same noise.

    Args:
        dit: the model.
        profile: of `auto_profile`, with a block.
        prompts: at least two, used for nothing else.
        seeds: one per prompt; 1000, 1001, ... where None.
        chunk: pictures per forward.
        progress: show a bar.
        **kwargs: to the pipeline's call.

    Returns:
        Plain JSON: prompts, steps, and as [mean, low, high] with 95% intervals over prompts: amount (amt_c of DG
        against the plain picture, doublings), gain_amount (of its own gain alone), beyond (the difference), low
        (low-band correlation with the plain picture), gain (g, over steps).

    Raises:
        ValueError: a profile without a block, or fewer than two prompts.
    """
    edit, weight = Disrupt.from_profile(profile), float(profile["detail_guidance_scale"])
    seeds = range(1000, 1000 + len(prompts)) if seeds is None else seeds
    if len(prompts) < 2 or len(seeds) != len(prompts):
        raise ValueError(
            f"{counted(len(prompts), 'prompt')}, {counted(len(seeds), 'seed')}: pass at least two "
            "prompts, and a seed for each"
        )
    values: dict[str, list[float]] = {name: [] for name in ("amount", "gain_amount", "low", "gain")}
    starts = range(0, len(prompts), chunk)
    for start in progress_bar(progress, starts, desc="measured", unit="chunk"):
        words, own = prompts[start : start + chunk], seeds[start : start + chunk]
        plain = sampled(dit, words, own, lambda rows: None, **kwargs).latents
        base = samples.Base(words, own, pictures(dit, plain), chunk)
        run = base.run(dit, lambda rows: None, edit=edit, weight=weight, **kwargs)
        factors = [1 + weight * (1 - gain) for gain in run.gains]
        louder = base.run(dit, lambda rows: None, factors=factors, **kwargs)
        guided, alone = (samples.measured(dit, made.latents, base) for made in (run, louder))
        values["amount"] += guided["amount"]
        values["gain_amount"] += alone["amount"]
        values["low"] += guided["low"]
        values["gain"] += torch.stack(run.gains).mean(0).tolist()
    arrays = {name: np.array(value) for name, value in values.items()}
    arrays["beyond"] = arrays["amount"] - arrays["gain_amount"]
    intervals = {name: [round(x, 4) for x in bootstrap_interval(array)] for name, array in arrays.items()}
    return {"prompts": len(prompts), "steps": kwargs.get("steps") or dit.default_steps, **intervals}
