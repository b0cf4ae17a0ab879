"""Whether massive channels sit on attention sinks, and what masking these tokens costs.

Sinks are the tokens of one stream with the largest attention mass, mean over heads, blocks and noise levels, found by
their place on other prompts than those of the test. Two questions follow, each with its control.

Do the channels sit there? The ratio of |x| of the massive channels on sink tokens and on all other tokens of the
stream, against the same ratio for the channels nearest in energy. It is read at the blocks' outputs, over which the
next block attends.

What does masking cost? The model predicts once at the same z_t with the sinks masked as keys, on the score path or on
the value path (`MaskTokens`). The change of x0 against the clean prediction is measured by band, in cycles per latent
cell, against masks of random tokens that together receive as much attention. A mask that moves the velocity by less
than a tenth tests nothing, and the verdict says so. "Attention Sinks in Diffusion Transformers" (arXiv 2605.09313)
compares with as many random tokens. Those receive less attention, so that comparison cannot separate the sink from its
share of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from dg_tools._as_list import as_list
from dg_tools.datasets.examples import prompt_of
from dg_tools.experiments.block_hooks import on_block_outputs
from dg_tools.experiments.channel_sets import check_controls, draws, largest_others
from dg_tools.experiments.result import CONTROLS, Result
from dg_tools.experiments.sinks_outcomes import (
    CLEANEST,
    LEAST_SIGMA,
    PATHS,
    by_block,
    effects,
    in_words,
    sink_table,
    tidy,
)
from dg_tools.experiments.subject import Subject, choose
from dg_tools.experiments.trajectories import Batch, evenly, runs_of, trajectories
from dg_tools.forward.attention import Inputs, Product
from dg_tools.forward.attention_sites import AttentionSite, attention_sites, on_attention
from dg_tools.interventions import MaskTokens
from dg_tools.kinds import counted
from dg_tools.metrics.cell_bands import NAMED, cell_power
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.onestep import velocity
from dg_tools.progress import progress_bar


def sinks(
    dit: DiT,
    prompts: Sequence[Any],
    seeds: int | Sequence[int] = (0, 1),
    *,
    k: int = 2,
    stream: Literal["text", "image"] = "text",
    channels: Sequence[int] | None = None,
    block: int | None = None,
    steps: int = 10,
    measured: int = 3,
    controls: int = CONTROLS,
    batch: int = 32,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Measure whether massive channels are larger on sink tokens, and what masking the sinks costs, by band.

    Args:
        dit: a DiT whose family's record names its attention products, and that predicts a velocity.
        prompts: strings, `Reference`s or pairs; on a quarter of them the sinks are found, and the channels where
            `channels` is None.
        seeds: of the noise.
        k: how many sinks.
        stream: whose tokens.
        channels: massive channels; None: detected.
        block: at which the tokens are masked; None: at every block.
        steps: of sampling. measured: at how many of them, evenly spread, the model is measured; those with sigma below
            0.01 are left out, where nothing moves.
        controls: draws of random tokens of equal mass, and of other channels.
        batch: runs in one forward.
        **kwargs: passed to the pipeline's call.

    Returns:
        `table`: variant, role, path, prompt, seed, sigma, band (low, mid, high, total), change (rms of x0's change over
        rms of the clean x0), moved (||v_d - v|| / ||v||). `tables`: sinks (each sink's token, mass and share of the
        whole), by_block (mass of the sinks, and log2 of the channels' and other channels' size on sinks over others).

    Raises:
        ValueError, IndexError: too few prompts, no seeds, settings or channels out of range, a family whose attention
            is not known, or sinks that receive more than all other tokens of the stream together.
    """
    if k < 1:
        raise ValueError(f"k={k}; at least 1")
    keep, seeds = evenly(steps, measured), as_list(seeds)
    check_controls(dit, channels or (), controls)
    if block is not None:
        dit.block(block)
    sites = attention_sites(dit.family, dit.transformer, None if block is None else [block])
    MaskTokens([0], block, stream).check(dit, None, kwargs.get("height"), kwargs.get("width"))
    subject = choose(
        dit,
        prompts,
        seeds,
        channels=channels,
        steps=steps,
        progress=progress,
        least=2 + (channels is not None),
        **kwargs,
    )
    check_controls(dit, subject.channels, controls)
    first, names = split(subject)
    runs = {"steps": steps, "keep": keep, "batch": batch, "progress": progress, **kwargs}
    found = [mass_of(dit, part, sites, stream) for part in trajectories(dit, first, seeds, **runs)]
    mass = np.mean(np.concatenate(found), 0)  # (site, token)
    if k >= mass.shape[1]:
        raise ValueError(f"k={k} of {mass.shape[1]} {stream} tokens: too few others are left as controls")
    tokens = np.argsort(-mass.mean(0), kind="stable")[:k].tolist()
    plan = planned(tokens, mass.mean(0), block, stream, controls)
    shape = (len(names), len(seeds), len(keep))
    change = np.full((len(plan), *shape, len(NAMED) + 1), np.nan)
    moved = np.full((len(plan), *shape), np.nan)
    held = np.full((2, *shape, len(sites)), np.nan)  # of the sinks, and of the whole stream
    on = np.full((*shape, len(dit.blocks), dit.width), np.nan, np.float32)
    size = np.full_like(on, np.nan)
    sigmas: list[float] = []
    parts = list(trajectories(dit, names, seeds, **runs))
    bar = progress_bar(progress, total=len(parts) * len(keep), desc="masks")
    for part in parts:
        p, s = runs_of(part, len(seeds))
        sigmas = [sigma for _, sigma, _ in part.steps]
        for now, (step, sigma, noised) in enumerate(part.steps):
            clean, held[:, p, s, now], on[p, s, now], size[p, s, now] = looked_at(
                dit, part, step, sites, stream, tokens, noised, sigma
            )
            for i, edit in enumerate(plan if sigma >= LEAST_SIGMA else ()):
                predicted = velocity(dit, noised, sigma, part.inputs, [edit], step=step)
                change[i, p, s, now], moved[i, p, s, now] = costs(noised, sigma, clean, predicted)
            bar.update()
    bar.close()
    chosen = list(subject.channels)
    pool = largest_others(np.nanmean(size, (0, 1, 2, 3)), chosen, max(4 * len(chosen), controls))
    sets = draws(pool, len(chosen), controls, seed=0)
    outcomes = effects(change, moved, held, on, chosen, sets, names, plan, (k, mass.shape[1]))
    left = [sigma for sigma in sigmas if sigma < LEAST_SIGMA]
    notes = [f"sigma {', '.join(f'{x:.3g}' for x in left)} left out: {CLEANEST}"] if left else []
    return Result(
        "sinks",
        "Do massive channels sit on the tokens that attention goes to, and what does masking these tokens cost?",
        tidy(change, moved, plan, names, seeds, sigmas),
        outcomes,
        subject.settings(
            k=k, stream=stream, masked_at=block, tokens=tokens, steps=steps, measured=keep, seeds=list(seeds), **kwargs
        ),
        {
            "sinks": sink_table(dit, first[0], tokens, mass, stream),
            "by_block": by_block(sites, held[0], on, chosen, sets),
        },
        [f"the sinks were found on {counted(len(first), 'other prompt')}", *notes],
        words=in_words(outcomes, moved, plan),
    )


def split(subject: Subject) -> tuple[list[str], list[str]]:
    """The prompts on which the sinks are found, and those of the test; split here where no channel was detected."""
    first, rest = ([prompt_of(x) for x in part] for part in (subject.detection, subject.test))
    if first:
        return first, rest
    count = min(max(1, round(0.25 * len(rest))), len(rest) - 2)
    order = np.random.default_rng(0).permutation(len(rest))
    return [rest[i] for i in sorted(order[:count])], [rest[i] for i in sorted(order[count:])]


def planned(
    tokens: Sequence[int], mass: np.ndarray, block: int | None, stream: Literal["text", "image"], controls: int
) -> list[MaskTokens]:
    """The masks: for each path the sinks, then the controls, which are the same tokens on both paths.

    Raises:
        ValueError: sinks that receive more than all others.
    """
    masks = [MaskTokens(tokens, block, stream, path) for path in PATHS]
    return [one for mask in masks for one in (mask, *mask.controls(controls, mass))]


@torch.no_grad()
def mass_of(dit: DiT, part: Batch, sites: Sequence[AttentionSite], stream: str) -> np.ndarray:
    """The mass of each token of a stream, from image queries: (rows x steps, site, token), mean over heads."""
    every: list[np.ndarray] = []
    for step, sigma, noised in part.steps:
        masses = read_mass(dit, part, step, sites, stream, noised, sigma)[1]
        every.append(np.stack([masses[site.label] for site in sites if site.label in masses], 1))
    return np.concatenate(every)


def read_mass(
    dit: DiT,
    part: Batch,
    step: int,
    sites: Sequence[AttentionSite],
    stream: str,
    noised: torch.Tensor,
    sigma: float,
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The clean velocity, and by product the mass of each token of the stream: (rows, tokens)."""
    rows, columns = dit.grid(*dit.picture_size(noised))
    masses: dict[str, np.ndarray] = {}

    def see(site: AttentionSite, inputs: Inputs) -> None:
        keys = site.keys(stream, inputs["key"].shape[-2], rows * columns)
        queries = site.image_queries(inputs["query"].shape[-2], rows * columns)
        if keys.stop > keys.start:
            each = [Product(inputs, row).mass(queries).mean(0)[keys] for row in range(len(inputs["key"]))]
            masses[site.label] = torch.stack(each).double().cpu().numpy()

    with dit.running(), on_attention(sites, see):
        return velocity(dit, noised, sigma, part.inputs, step=step), masses


@torch.no_grad()
def looked_at(
    dit: DiT,
    part: Batch,
    step: int,
    sites: Sequence[AttentionSite],
    stream: str,
    tokens: Sequence[int],
    noised: torch.Tensor,
    sigma: float,
) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """One clean forward: the velocity; the mass of the sinks and of the whole stream at each product, (2, rows, site);
    and by row, block and channel log2 of the mean |x| on sinks over that on other tokens, and the mean |x|.
    """
    count = (len(noised), len(dit.blocks), dit.width)
    on, size = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)

    def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
        hidden = image if stream == "image" else text
        if hidden is None:
            return
        x = hidden.float().abs()
        others = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        others[list(tokens)] = False
        ratio = x[:, ~others].mean(1) / x[:, others].mean(1).clamp_min(1e-12)
        on[:, block.index] = ratio.clamp_min(1e-12).log2().cpu().numpy()
        size[:, block.index] = x.mean(1).cpu().numpy()

    with on_block_outputs(dit, see):
        clean, masses = read_mass(dit, part, step, sites, stream, noised, sigma)
    blank = np.full(len(noised), np.nan)
    every = [masses.get(site.label) for site in sites]
    held = [blank if mass is None else mass[:, list(tokens)].sum(1) for mass in every]
    whole = [blank if mass is None else mass.sum(1) for mass in every]
    return clean, np.stack([np.stack(held, 1), np.stack(whole, 1)]), on, size


def costs(
    noised: torch.Tensor, sigma: float, clean: torch.Tensor, predicted: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """By row: the change of x0 over the clean x0 by band and in total (rms over rms), and of the velocity."""
    own, other = (noised - sigma * v for v in (clean, predicted))
    difference, power = cell_power(other - own, 1, NAMED), cell_power(own, 1, NAMED)
    bands = [(difference[b] / power[b].clamp_min(1e-30)).sqrt() if b in power else None for b in NAMED]
    total = ((other - own).flatten(1).norm(dim=1) / own.flatten(1).norm(dim=1)).double()
    nothing = torch.full_like(total, torch.nan)
    columns = [nothing if band is None else band.double() for band in bands]
    moved = (predicted - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)
    return torch.stack([*columns, total], 1).cpu().numpy(), moved.cpu().numpy()
