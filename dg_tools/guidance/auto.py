"""Where `auto` picks channels and block: it detects the channels, tries every block once, and stores the choice.

The trial is the one-step experiment in its smallest form: the model draws a few pictures, these are noised, and the
disruption at each block is compared with matched controls at the same z_t. The choice is stored by a hash of the
weights and says how it was made. It is a starting point, not a finding.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import platformdirs
import torch
import xarray as xr

from dg_tools.families import BlockList
from dg_tools.forward.stepping import after_each_step
from dg_tools.interventions import Disrupt
from dg_tools.massive import find_massive
from dg_tools.metrics import band_error
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode, spatial
from dg_tools.models.profiles import write_profile
from dg_tools.models.provenance import weights_hash
from dg_tools.onestep import check_velocity, conditions, velocity
from dg_tools.progress import progress_bar

logger = logging.getLogger("dg_tools")

PROMPTS = ("red apple", "owl", "house", "a tree on green", "cat face", "strawberry on white", "fish", "sun on blue")
SIGMAS = (0.3, 0.7)
CONTROLS = 4
OBJECTIVE = (
    "the block at which zeroing the channels raises the one-step x0 error most in the high band against the low band, "
    f"minus the median of the same over {CONTROLS} norm-matched controls"
)


def cache_folder() -> Path:
    """The folder of the chosen profiles."""
    return Path(platformdirs.user_cache_dir("dg_tools")) / "profiles"


def auto_profile(dit: DiT, *, cache: bool = True, progress: bool = True, **kwargs: Any) -> dict[str, Any]:
    """Channels and block for a model, detected and chosen by `OBJECTIVE` on pictures that the model drew.

    Args:
        dit: any DiT.
        cache: read and write the profile by the hash of the weights.
        progress: show a bar.
        **kwargs: passed to the pipeline's call (`max_sequence_length`, `height` ...).

    Raises:
        ValueError: a family that does not predict a velocity; name channels and block yourself.
        RuntimeError: no channel is massive, so there is nothing to disrupt; name channels yourself.
    """
    check_velocity(dit)
    file = cache_folder() / f"{weights_hash(dit)}.json"
    if cache and (stored := stored_profile(dit, file)) is not None:
        return stored
    arguments = dit.arguments(list(PROMPTS), seed=list(range(len(PROMPTS))), **kwargs)
    steps: list[torch.Tensor] = []
    with dit.running(), after_each_step(dit.pipeline, lambda step, latents: steps.append(latents)):
        dit.pipeline(**arguments, output_type="latent")
    latents = spatial(dit, steps[-1], arguments["height"], arguments["width"])
    inputs = conditions(dit, list(PROMPTS), **kwargs)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    noised = {sigma: (1 - sigma) * latents + sigma * noise for sigma in SIGMAS}
    massive = find_massive(statistics_at(dit, noised, inputs), blocks=min(2, len(dit.blocks)))
    if not massive.channels:
        raise RuntimeError(
            f"no massive channel ({massive.rule}): name channels and block yourself, Disrupt(channels, block)"
        )
    by_block = sweep(dit, massive.channels, latents, noised, inputs, progress)
    block = int(by_block.loc[by_block["objective"].idxmax(), "block"])
    profile = {
        "channels": massive.channels,
        "block": block,
        "objective": OBJECTIVE,
        "source": f"dg_tools.guidance.auto on {len(PROMPTS)} pictures of the model's own, sigma {SIGMAS}",
        "by_block": json.loads(by_block.round(4).to_json(orient="records")),
    }
    print(f"auto: channels {massive.channels}, block {block}. Chosen: {OBJECTIVE}")
    if cache:
        try:
            logger.info("kept in %s", write_profile(file, profile))
        except OSError as error:
            logger.warning("the choice is used, but could not be kept in %s (%s)", file, error)
    return profile


def stored_profile(dit: DiT, file: Path) -> dict[str, Any] | None:
    """The choice that was kept for this model; None where there is none, or, with a warning, one that is damaged."""
    if not file.is_file():
        return None
    try:
        profile: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        Disrupt(profile["channels"], profile["block"]).check(dit)
    except (OSError, ValueError, TypeError, LookupError) as error:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("the choice kept in %s is damaged (%s): channels and block are chosen again", file, reason)
        return None
    return profile


def statistics_at(dit: DiT, noised: dict[float, torch.Tensor], inputs: dict[str, Any]) -> xr.Dataset:
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
    for sigma, z in noised.items():
        tokens = dit.family.image_tokens(dit.transformer, z)
        statistics.clear()
        handles = [b.module.register_forward_hook(partial(read, record=b.record)) for b in dit.blocks]
        try:
            with dit.running():
                velocity(dit, z, sigma, inputs)
        finally:
            for handle in handles:
                handle.remove()
        rows.append(torch.stack(statistics).numpy())
    array = np.array(rows).transpose(2, 3, 0, 1, 4)  # statistic, prompt, step, site, channel
    dims = ("prompt", "step", "stream", "site", "channel")
    data = {name: (dims, array[i][:, :, None]) for i, name in enumerate(names)}
    return xr.Dataset(data, coords={"stream": ["image"], "site": dit.sites, "step": range(len(noised))})


def sweep(
    dit: DiT,
    channels: list[int],
    latents: torch.Tensor,
    noised: dict[float, torch.Tensor],
    inputs: dict[str, Any],
    progress: bool,
) -> pd.DataFrame:
    """Selectivity of the disruption and of its controls, by block."""
    truth = decode(dit, latents, output_type="pt").float().cpu()
    bar = progress_bar(progress, total=len(dit.blocks) * (CONTROLS + 1) + 1, desc="auto")

    def errors(edits: list[Disrupt]) -> dict[str, float]:
        total = {"low": 0.0, "high": 0.0}
        for sigma, z in noised.items():
            predicted = velocity(dit, z, sigma, inputs, edits)
            picture = decode(dit, z - sigma * predicted, output_type="pt").float().cpu()
            for band in total:
                total[band] += band_error(picture, truth)[band].mean().item()
        bar.update()
        return total

    clean = errors([])
    rows = []
    for block in range(len(dit.blocks)):
        off = Disrupt(channels, block)
        edited = [errors([e]) for e in (off, *off.controls(CONTROLS))]
        own, *others = [np.log(e["high"] / clean["high"]) - np.log(e["low"] / clean["low"]) for e in edited]
        null = float(np.median(others))
        rows.append({"block": block, "selectivity": own, "control_median": null, "objective": own - null})
    bar.close()
    return pd.DataFrame(rows)
