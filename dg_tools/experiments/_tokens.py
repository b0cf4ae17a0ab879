"""On which tokens channels are massive, and whether they are the same channels everywhere.

The paper's claim is literal: massive activations sit in fixed channels, on *every* image token, with one sign and a
nearly constant value, in all layers. So the primary outcome is the share of image tokens whose value in the channel is
above the ratio of the detection rule, in the blocks where the detection prompts find all of the channels massive. Its
bound is the rule's own 0.95. The controls are the channels nearest in energy, which are harder to beat than random
ones; the table of controls has both. Whether they are the same channels everywhere is the Jaccard index of the sets
that the rule finds, between prompts, seeds, steps and blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools._as_list import as_list
from dg_tools.datasets.examples import prompt_of
from dg_tools.experiments.block_hooks import on_block_outputs
from dg_tools.experiments.channel_sets import agreement, check_controls, draws, largest_others
from dg_tools.experiments.result import CONTROLS, Outcome, Result
from dg_tools.experiments.subject import choose
from dg_tools.experiments.trajectories import Batch, evenly, runs_of, trajectories
from dg_tools.massive import COVERAGE, RATIO, VARIATION
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode
from dg_tools.onestep import velocity

STREAMS = ("image", "text")
MEASURES = ("share", "one_sign", "variation")
STABLE = 0.8  # bound: four of five channels shared; the other bounds are the detection rule's
Arrays = dict[str, np.ndarray]  # measure -> (stream, prompt, seed, step, block, channel)


def tokens(
    dit: DiT,
    prompts: Sequence[Any],
    seeds: int | Sequence[int] = (0, 1),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    onset: Mapping[int, int] | None = None,
    steps: int = 20,
    measured: int = 5,
    ratio: float = RATIO,
    controls: int = CONTROLS,
    batch: int = 32,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Measure the share of tokens on which the channels are massive, and whether they are the same channels everywhere.

    Args:
        dit: any DiT.
        prompts: strings, `Reference`s or pairs; a quarter of them is for detection where `channels` is None.
        seeds: of the noise; two or more for the stability over seeds.
        channels: massive channels; None: detected on other prompts than those measured.
        block: the block of the outcome `at the block`; None: the profile's, else the middle one.
        onset: first block at which each channel is massive, where channels are given (`Massive.onset`); 0 unless said.
        steps: of sampling. measured: at how many of them, evenly spread, the model is measured.
        ratio: a token is massive in a channel where |x| is at least this many times the median channel's mean |x|.
        controls: draws of as many other channels.
        batch: runs in one forward.
        **kwargs: passed to the pipeline's call.

    Returns:
        `table`: prompt, seed, sigma, block, stream, channel, share (of tokens that are massive), one_sign (share of
        tokens with the commoner sign), sign, variation (std / |mean| over tokens), ratio (mean |x| / median channel's).
        `tables`: controls, by_block, jaccard, map, picture.

    Raises:
        ValueError, IndexError: too few prompts, no seeds, settings, channels or a block out of range.
    """
    keep = evenly(steps, measured)
    seeds = as_list(seeds)
    if ratio <= 0:
        raise ValueError(f"ratio={ratio}; it must be positive")
    if channels is not None:
        check_controls(dit, channels, controls)
    for first_block in (onset or {}).values():
        dit.block(first_block)
    subject = choose(dit, prompts, seeds, channels=channels, block=block, steps=steps, progress=progress, **kwargs)
    check_controls(dit, subject.channels, controls)
    names = [prompt_of(x) for x in subject.test]
    shape = (len(STREAMS), len(names), len(seeds), len(keep), len(dit.blocks), dit.width)
    values = {m: np.full(shape, np.nan, np.float32) for m in (*MEASURES, "sign", "size", "ratio")}
    maps: dict[str, np.ndarray] = {}
    sigmas: list[float] = []
    runs = trajectories(dit, names, seeds, steps=steps, keep=keep, batch=batch, progress=progress, **kwargs)
    for part in runs:
        sigmas = [sigma for _, sigma, _ in part.steps]
        measure(dit, part, len(seeds), ratio, subject.channels[0], values, maps)
    chosen = list(subject.channels)
    first = [(subject.onset or onset or {}).get(c, 0) for c in chosen]
    image = {m: v[0] for m, v in values.items()}
    pool = largest_others(np.nanmean(image["size"], (0, 1, 2, 3)), chosen, max(4 * len(chosen), controls))
    others = [c for c in range(dit.width) if c not in set(chosen)]
    sets = {
        "energy": draws(pool, len(chosen), controls, seed=0),
        "random": draws(others, len(chosen), controls, seed=1),
    }
    outcomes, notes = effects(values, chosen, first, subject.block, sets["energy"], names)
    stability, matrices = agreement(image, chosen, min(first), sigmas, controls)
    for factor, (indices, null) in stability.items():
        if indices is None:
            notes.append(f"no stability over {factor}s: it takes two {factor}s, and channels that the rule finds there")
        else:
            outcomes.append(same_over(factor, indices, names, null))
    return Result(
        "tokens",
        "On which image tokens are the channels massive, and are they the same channels everywhere?",
        tidy(values, chosen, names, seeds, sigmas),
        outcomes,
        subject.settings(steps=steps, measured=keep, seeds=list(seeds), ratio=ratio, onset=first, **kwargs),
        {
            "controls": control_table(image, sets, chosen, first),
            "by_block": block_table(values, chosen, sets["energy"]),
            "jaccard": matrices,
            "map": grid_table(maps["map"].reshape(dit.grid(kwargs.get("height"), kwargs.get("width"))), ["value"]),
            "picture": grid_table(maps["picture"], ["r", "g", "b"]),
        },
        notes,
    )


@torch.no_grad()
def measure(
    dit: DiT, part: Batch, seeds: int, ratio: float, channel: int, values: Arrays, maps: dict[str, np.ndarray]
) -> None:
    """One batch into `values`; into `maps` the first run's picture and one channel at its last block and step."""
    p, s = runs_of(part, seeds)
    now = 0

    def see(block: Block, *streams: torch.Tensor | None) -> None:
        for i, hidden in enumerate(streams):
            if hidden is None:
                continue
            for name, value in over_tokens(hidden, ratio).items():
                values[name][i, p, s, now, block.index] = value
        if part.rows.start == 0 and streams[0] is not None:
            maps["map"] = streams[0][0, :, channel].float().cpu().numpy().copy()

    for now, (_, sigma, latents) in enumerate(part.steps):  # noqa: B007  (read by `see`)
        with dit.running(), on_block_outputs(dit, see):
            velocity(dit, latents, sigma, part.inputs)
    if part.rows.start == 0:
        picture = decode(dit, part.final[:1], output_type="pt").float().cpu()
        factor = min(1.0, 96 / max(picture.shape[-2:]))
        small = torch.nn.functional.interpolate(picture, scale_factor=factor, mode="area")
        maps["picture"] = small[0].permute(1, 2, 0).numpy()


def over_tokens(hidden: torch.Tensor, ratio: float) -> Arrays:
    """Statistics over tokens of hidden states (rows, tokens, channels), each (rows, channels)."""
    x = hidden.float()
    size = x.abs().mean(1)
    median = size.quantile(0.5, dim=1, keepdim=True)
    mean, positive = x.mean(1), (x > 0).float().mean(1)
    statistics = {
        "share": (x.abs() >= ratio * median[:, None]).float().mean(1),
        "one_sign": torch.maximum(positive, 1 - positive),
        "variation": x.std(1, unbiased=False) / mean.abs().clamp_min(1e-12),
        "sign": mean.sign(),
        "size": size,
        "ratio": size / median.clamp_min(1e-12),
    }
    return {k: v.cpu().numpy() for k, v in statistics.items()}


def effects(
    values: Arrays, channels: list[int], onset: list[int], block: int, sets: list[tuple[int, ...]], prompts: list[str]
) -> tuple[list[Outcome], list[str]]:
    """Outcomes on the token statistics, primary first."""
    image = {m: values[m][0] for m in MEASURES}
    text = values["share"][1]
    blocks = text.shape[3]
    with_text = ~np.isnan(text).all((0, 1, 2, 4))  # blocks that have a text output
    own = np.arange(blocks)[:, None] >= np.array(onset)  # (block, channel): each from its own onset on
    there = own.all(1, keepdims=True) & own  # where every channel is massive
    everywhere = np.ones_like(there)
    one = np.arange(blocks)[:, None] == block
    over = f"from block {max(onset)} on"
    plan: list[tuple[str, str, np.ndarray, np.ndarray, str, Any, float]] = [
        ("every token", f"the channels are massive on every image token, {over}", image["share"], there,
         "of image tokens", "above", COVERAGE),
        ("one sign", f"the channels have one sign on all image tokens, {over}", image["one_sign"], there,
         "of image tokens", "above", COVERAGE),
        ("constant", f"the channels hardly vary over the picture, {over}", image["variation"], there,
         "std / |mean| over tokens", "below", VARIATION),
        ("from its onset", "each channel is massive on every image token from its own first block on",
         image["share"], own, "of image tokens", "above", COVERAGE),
        ("all layers", "the channels are massive on every image token of every block", image["share"], everywhere,
         "of image tokens", "above", COVERAGE),
        ("at the block", f"the channels are massive on every image token after block {block}", image["share"],
         one & everywhere, "of image tokens", "above", COVERAGE),
        ("image over text", "the channels are massive on more image tokens than text tokens", image["share"] - text,
         everywhere & with_text[:, None], "of image tokens, less that of text tokens", "above", 0.0),
    ]  # fmt: skip
    outcomes = [
        Outcome.from_values(
            name,
            claim,
            per_prompt(array, channels, mask),
            prompts,
            null=[per_prompt(array, draw, mask).mean() for draw in sets],
            unit=unit,
            direction=direction,
            margin=margin,
            control="as many of the channels nearest in energy",
            primary=name == "every token",
        )
        for name, claim, array, mask, unit, direction, margin in plan
    ]
    left_out = [int(b) for b in np.flatnonzero(~with_text)]
    notes = [f"blocks without a text output, left out of `image over text`: {left_out}"] if left_out else []
    return outcomes, notes


def same_over(factor: str, indices: np.ndarray, prompts: list[str], null: list[float]) -> Outcome:
    """The outcome on one factor's Jaccard indices, one value per prompt."""
    return Outcome.from_values(
        f"same over {factor}s",
        f"the rule finds the same channels on different {factor}s",
        indices,
        prompts,
        null=null,
        unit="Jaccard index",
        direction="above",
        margin=STABLE,
        control="channels at ranks drawn among the next in mean |x|, cell by cell",
    )


def per_prompt(array: np.ndarray, channels: Sequence[int], mask: np.ndarray) -> np.ndarray:
    """Mean of (prompt, seed, step, block, channel) over the blocks and channels in mask (block, k), by prompt."""
    return array[..., list(channels)][..., mask].mean((1, 2, 3))


def tidy(
    values: Arrays, channels: list[int], prompts: list[str], seeds: Sequence[int], sigmas: list[float]
) -> pd.DataFrame:
    """One row per prompt, seed, sigma, block, stream and massive channel."""
    names = ["stream", "prompt", "seed", "sigma", "block", "channel"]
    levels = [list(STREAMS), prompts, list(seeds), sigmas, range(values["share"].shape[4]), channels]
    index = pd.MultiIndex.from_product(levels, names=names)
    columns = {m: values[m][..., channels].ravel() for m in ("share", "one_sign", "sign", "variation", "ratio")}
    return pd.DataFrame(columns, index=index).reset_index().dropna().reset_index(drop=True)


def control_table(
    image: Arrays, sets: dict[str, list[tuple[int, ...]]], channels: list[int], onset: list[int]
) -> pd.DataFrame:
    """The same statistics of the channels and of each draw, each from the onset on."""
    mask = np.arange(image["share"].shape[3])[:, None] >= np.array(onset)
    every = [("massive", tuple(channels)), *((kind, one) for kind, group in sets.items() for one in group)]
    return pd.DataFrame(
        [
            {"kind": kind, "channels": " ".join(map(str, one))}
            | {m: float(per_prompt(image[m], one, mask).mean()) for m in (*MEASURES, "ratio")}
            for kind, one in every
        ]
    )


def block_table(values: Arrays, channels: list[int], sets: list[tuple[int, ...]]) -> pd.DataFrame:
    """Share of massive tokens by stream and block: the channels', and the controls' median and largest."""
    rows = []
    for i, stream in enumerate(STREAMS):
        for block in range(values["share"].shape[4]):
            share = values["share"][i, :, :, :, block]
            if np.isnan(share).all():
                continue
            null = [share[..., list(one)].mean() for one in sets]
            rows.append(
                {
                    "stream": stream,
                    "block": block,
                    "share": share[..., channels].mean(),
                    "control_median": np.median(null),
                    "control_most": np.max(null),
                }
            )
    return pd.DataFrame(rows)


def grid_table(array: np.ndarray, names: list[str]) -> pd.DataFrame:
    """An array (y, x) or (y, x, values) as tidy rows."""
    y, x = np.indices(array.shape[:2])
    columns = array.reshape(array.shape[0] * array.shape[1], -1)
    return pd.DataFrame({"y": y.ravel(), "x": x.ravel()} | {n: columns[:, i] for i, n in enumerate(names)})
