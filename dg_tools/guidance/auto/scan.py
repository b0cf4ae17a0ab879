"""Which block and which dose make a weak model that lacks detail? One denoising step on the model's own pictures.

A picture x that the model drew is noised to z_t = (1 - sigma) x + sigma noise. At each block that has massive channels,
these channels are multiplied by rho, the prediction d is compared with the model's own c by `metrics.detail_deficit`,
and the pictures together are judged by `metrics.WeakModelRule`. Nothing is decoded: latents are their own cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from dg_tools.families import BlockList
from dg_tools.guidance.auto.trial import Spend, sampled, share_after, weak_predictions
from dg_tools.interventions import Disrupt
from dg_tools.kinds import counted
from dg_tools.massive import Massive, find_massive
from dg_tools.metrics.deficit import Deficit, WeakModelRule, detail_deficit
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import packed
from dg_tools.onestep import check_velocity, conditions, velocity
from dg_tools.progress import progress_bar

SIGMAS = (0.3, 0.5, 0.7)
RHOS = (0.0, 0.5, 1.5, 2.0)
BLOCKS = 10  # at most this many are tried
RULE = WeakModelRule()


def noised(latents: torch.Tensor, seeds: Sequence[int], sigma: float) -> torch.Tensor:
    """z_t of pictures (N, C, h, w), each with its own noise."""
    shape = latents.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return (1 - sigma) * latents + sigma * noise.to(latents)


def massive_in(dit: DiT, statistics: Sequence[xr.Dataset]) -> Massive:
    """Massive channels by block, from the statistics of several pictures."""
    return find_massive(xr.concat(statistics, "prompt"), blocks=min(2, len(dit.blocks)))


def channels_at(massive: Massive, block: int) -> list[int]:
    """The channels that are massive at a block, and at another one too."""
    return [c for c in massive.at(block) if c in massive.channels]


def candidates(dit: DiT, massive: Massive, room: float, count: int = BLOCKS) -> list[int]:
    """Blocks to try: those with massive channels, evenly spread, as many as `count` and the room allow.

    Args:
        dit, massive: the model, and its massive channels.
        room: row-forwards that one picture's trials may cost.
        count: at most this many.
    """
    known = [b for b in range(len(dit.blocks)) if channels_at(massive, b)]
    trials = len(SIGMAS) * len(RHOS)
    for number in range(min(count, len(known)), 0, -1):
        chosen = [known[round(i)] for i in np.linspace(0, len(known) - 1, number)] if number > 1 else known[:1]
        if trials * sum(share_after(dit, b) for b in chosen) <= room:
            return chosen
    return []


def trial_of(
    dit: DiT,
    latents: torch.Tensor,
    seeds: Sequence[int],
    inputs: dict[str, Any],
    edits: Sequence[Disrupt],
    spend: Spend,
) -> list[dict[str, Any]]:
    """Every edit on some pictures: one row per edit, with the numbers of each picture, as plain JSON."""
    rows: list[dict[str, Any]] = [
        {"block": e.block, "rho": e.rho, "channels": list(e.channels), "kept": [], "steps": []} for e in edits
    ]
    for sigma in SIGMAS:
        z = noised(latents, seeds, sigma)
        predictions = weak_predictions(dit, z, sigma, inputs, edits, spend)
        cond, _ = next(predictions)
        for row, (weak, kept) in zip(rows, predictions, strict=True):
            deficit = detail_deficit(z.cpu(), cond.cpu(), weak.cpu(), sigma)
            row["steps"].append({name: getattr(deficit, name).tolist() for name in Deficit._fields})
            row["kept"].append(kept.tolist())
    return rows


def judged(parts: Sequence[list[dict[str, Any]]], rule: WeakModelRule | None = None) -> pd.DataFrame:
    """One row per block and rho, over the pictures of several `trial_of`: what `WeakModelRule.judge` says.

    Columns: block, rho, channels, those of `Judgement`, and eligible.
    """
    table = []
    for rows in zip(*parts, strict=True):
        steps = []
        for i in range(len(rows[0]["steps"])):
            numbers = {name: [v for row in rows for v in row["steps"][i][name]] for name in Deficit._fields}
            steps.append(Deficit(**{k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}))
        kept = float(np.mean([value for row in rows for step in row["kept"] for value in step]))
        made = (rule or RULE).judge(steps, kept)
        about = {name: rows[0][name] for name in ("block", "rho", "channels")}
        table.append({**about, **vars(made), "eligible": made.eligible})
    return pd.DataFrame(table)


def statistics_at(
    dit: DiT, levels: dict[float, torch.Tensor], inputs: dict[str, Any], spend: Spend | None = None
) -> xr.Dataset:
    """What `find_massive` needs, at given z_t: dims prompt, step (sigma), stream, site, channel."""
    names = ("mean", "abs_mean", "variance", "positive")
    statistics: list[torch.Tensor] = []

    def read(module: torch.nn.Module, inputs: Any, output: Any, record: BlockList) -> None:
        hidden = record.get(output, "image", tokens)
        assert hidden is not None
        x = hidden.float()
        values = (x.mean(1), x.abs().mean(1), x.var(1, unbiased=False), (x > 0).float().mean(1))
        statistics.append(torch.stack(values).cpu())

    rows = []
    for sigma, z in levels.items():
        tokens = dit.family.image_tokens(dit.transformer, packed(dit, z))
        statistics.clear()
        handles = [b.module.register_forward_hook(partial(read, record=b.record)) for b in dit.blocks]
        try:
            with dit.running():
                velocity(dit, z, sigma, inputs)
        finally:
            for handle in handles:
                handle.remove()
        if spend is not None:
            spend(len(z))
        rows.append(torch.stack(statistics).numpy())
    array = np.array(rows).transpose(2, 3, 0, 1, 4)  # statistic, prompt, step, site, channel
    dims = ("prompt", "step", "stream", "site", "channel")
    data = {name: (dims, array[i][:, :, None]) for i, name in enumerate(names)}
    return xr.Dataset(data, coords={"stream": ["image"], "site": dit.sites, "step": range(len(levels))})


def scan_blocks(
    dit: DiT,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    rhos: Sequence[float] = RHOS,
    rule: WeakModelRule | None = None,
    chunk: int = 2,
    progress: bool = True,
    **kwargs: Any,
) -> pd.DataFrame:
    """Find blocks and doses that make a weak model that lacks detail, in one denoising step, as `auto` does.

    Args:
        dit: a model that predicts a velocity.
        prompts: at least two; the model draws a picture for each.
        seeds: one per prompt; 0, 1, ... where None.
        blocks: those to try; None: every block with massive channels.
        rhos: factors on the massive channels.
        rule: the thresholds; None: `scan.RULE`.
        chunk: pictures per forward.
        progress: show a bar.
        **kwargs: to the pipeline's call (`steps`, `height`, `max_sequence_length` ...).

    Returns:
        One row per block and rho: channels, score and its 95% interval (doublings), gain, change, high_ratios by noise
        level, low_correlation, kept, misses (in words), eligible. `plots.two_faces` draws it.

    Raises:
        ValueError: a family that does not predict a velocity, fewer than two prompts, or a block without massive
            channels.
    """
    check_velocity(dit)
    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    if len(prompts) < 2 or len(seeds) != len(prompts):
        raise ValueError(
            f"{counted(len(prompts), 'prompt')}, {counted(len(seeds), 'seed')}: pass at least two "
            "prompts, and a seed for each"
        )
    parts = [slice(i, i + chunk) for i in range(0, len(prompts), chunk)]
    bar = progress_bar(progress, total=len(parts), desc="scan", unit="chunk")
    size = {name: kwargs.get(name) for name in ("height", "width")}
    call = {k: v for k, v in kwargs.items() if k not in ("steps", *size)}
    drawn, inputs, statistics = [], [], []
    for part in parts:
        drawn.append(sampled(dit, prompts[part], seeds[part], lambda rows: None, **kwargs).latents)
        inputs.append(conditions(dit, list(prompts[part]), **size, **call))
        levels = {sigma: noised(drawn[-1], seeds[part], sigma) for sigma in SIGMAS}
        statistics.append(statistics_at(dit, levels, inputs[-1]))
    massive = massive_in(dit, statistics)
    chosen = [b for b in range(len(dit.blocks)) if channels_at(massive, b)] if blocks is None else list(blocks)
    if bare := [b for b in chosen if not channels_at(massive, b)]:
        raise ValueError(f"no channel is massive at blocks {bare} ({massive.rule}): leave them out")
    edits = [Disrupt(channels_at(massive, b), b, "scale", rho=float(rho)) for b in chosen for rho in rhos]
    results = []
    for part, latents, words in zip(parts, drawn, inputs, strict=True):
        results.append(trial_of(dit, latents, seeds[part], words, edits, lambda rows: None))
        bar.update()
    bar.close()
    return judged(results, rule)
