"""The rows about the channels: from statistics of the stream to verdicts. Arrays in, rows out; no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from dg_tools.experiments.timestep_outcomes import bootstrapped, shares, slopes
from dg_tools.massive import constant
from dg_tools.metrics import bootstrap_interval
from dg_tools.report.channels import Found, Stream
from dg_tools.report.rules import CHANNELS, DRAWS, Claim
from dg_tools.report.verdict import Row, by_block, judged, not_tested

TIME, PROMPT = 0, 1  # of `shares`
GATES = ("gate peaks", "gate makes it")  # rows that need AdaLN gates


def rows(stream: Stream, found: Found, gone: np.ndarray | None, *, draws: int = DRAWS) -> list[Row]:
    """Every row of `rules.CHANNELS`.

    Args:
        stream: of the test captions. found: on the detection captions.
        gone: (1 + draws, prompt): the share of the final size that is gone without the gates, the massive channels
            first, then the controls; None where there are no channels, or no gates.
        draws: of the controls.
    """
    return [row_of(claim, stream, found, gone, draws) for claim in CHANNELS]


def row_of(claim: Claim, stream: Stream, found: Found, gone: np.ndarray | None, draws: int) -> Row:
    """One row."""
    row = Row(claim.key, claim.section, claim.text, "", unit=claim.unit)
    if claim.key == "stands out":
        level, block, channel = found.strongest
        values = stream.ratio[:, :, level, block, channel].mean(1)
        return judged(row, values, stream.prompts, claim.direction, claim.margin)
    if not found.channels:
        top = bootstrap_interval(stream.ratio.max((2, 3, 4)).mean(1), np.array(stream.prompts))
        return not_tested(row, "no channel is massive: the largest ratio to the median is given", top, "x the median")
    if claim.key in GATES and not stream.gates:
        return not_tested(row, "the blocks have no AdaLN gate")
    if claim.key == "same for every noise" and stream.values["size"].shape[1] < 2:
        return not_tested(row, "one noise was measured: there is no pair")
    if claim.by_block:
        numbers = BY_BLOCK[claim.key](stream, found)
        return by_block(row, numbers, claim.direction, claim.margin)
    if claim.key == "gate makes it":
        assert gone is not None
        return judged(row, gone[0], stream.prompts, claim.direction, claim.margin, [float(g.mean()) for g in gone[1:]])
    if claim.key == "gate peaks":
        values, *null = gate_ranks(stream, found, draws)
        return judged(row, values, stream.prompts, claim.direction, claim.margin, [float(n.mean()) for n in null])
    if claim.controls:
        name, over = STATISTICS[claim.key]
        values, *null = (over(x) for x in in_cells(stream.values[name], found, draws))
        return judged(row, values, stream.prompts, claim.direction, claim.margin, [float(n.mean()) for n in null])
    return judged(row, AGREEMENT[claim.key](stream, found), stream.prompts, claim.direction, claim.margin)


def in_cells(values: np.ndarray, found: Found, draws: int) -> Iterator[np.ndarray]:
    """Values in the massive cells, (prompt, seed x cell); then, draw by draw, those of the next largest channel."""
    levels, blocks, channels = np.nonzero(found.cells)
    yield values[:, :, levels, blocks, channels].reshape(len(values), -1)
    others = others_of(found)
    for draw in range(min(draws, others.shape[-1])):
        yield values[:, :, levels, blocks, others[levels, blocks, draw]].reshape(len(values), -1)


def others_of(found: Found) -> np.ndarray:
    """Channels that are not massive anywhere, largest first: (sigma, block, rank)."""
    keep = ~np.isin(found.order, found.channels)
    return found.order[keep].reshape(*found.order.shape[:2], -1)


def largest_others(found: Found, draws: int) -> list[int]:
    """Other channels, by their size over all blocks and noise levels; one per draw."""
    place = np.argsort(found.order, axis=-1).mean((0, 1))
    return [int(c) for c in np.argsort(place, kind="stable") if int(c) not in found.channels][:draws]


def gate_ranks(stream: Stream, found: Found, draws: int) -> Iterator[np.ndarray]:
    """Share of channels with a smaller gate at the block that writes a channel, (prompt,): the largest of its gates."""

    def rank(channel: int) -> np.ndarray:
        block = found.writers[channel]
        ranks = []
        for gate in stream.gates.values():
            there = gate[:, :, :, block]
            if np.isfinite(there).all():
                ranks.append((there < there[..., channel : channel + 1]).mean(-1).mean((1, 2)) * there.shape[-1])
        if not ranks:  # a block without a gate
            return np.full(len(stream.prompts), np.nan)
        return np.max(ranks, axis=0) / (stream.ratio.shape[-1] - 1)

    yield np.mean([rank(c) for c in found.channels], axis=0)
    for channel in largest_others(found, draws):
        yield rank(channel)


def top_channel(stream: Stream) -> np.ndarray:
    """The largest channel, (prompt, seed, sigma, block)."""
    return stream.values["size"].argmax(-1)


def same_prompts(stream: Stream, found: Found) -> np.ndarray:
    """For each prompt, the share of other prompts whose top channel is its own, where a channel is massive."""
    top = top_channel(stream)[:, :, found.cells.any(-1)]
    equal = (top[:, None] == top[None]).mean((2, 3))
    return (equal.sum(1) - 1) / (len(top) - 1)


def same_over(axis: int) -> Callable[[Stream, Found], np.ndarray]:
    """For each prompt, the share of pairs along an axis (1 seed, 2 sigma, 3 block) with the same top channel."""

    def agreement(stream: Stream, found: Found) -> np.ndarray:
        top = top_channel(stream)
        there = np.broadcast_to(found.cells.any(-1), top.shape)
        same, pairs = np.zeros(len(top)), np.zeros(len(top))
        for i, j in combinations(range(top.shape[axis]), 2):
            both = np.take(there, i, axis) & np.take(there, j, axis)
            equal = (np.take(top, i, axis) == np.take(top, j, axis)) & both
            same += equal.reshape(len(top), -1).sum(1)
            pairs += both.reshape(len(top), -1).sum(1)
        return same / np.maximum(pairs, 1)

    return agreement


def layers(stream: Stream, found: Found) -> np.ndarray:
    """For each prompt, the share of blocks where one of the channels is massive in half of its runs."""
    statistics = {k: stream.values[k][..., found.channels] for k in ("one_sign", "variation")}
    holds = constant(statistics | {"ratio": stream.ratio[..., found.channels]}).any(-1)
    return (holds.mean((1, 2)) >= 0.5).mean(-1)


def at_each_block(found: Found) -> Iterator[tuple[int, list[int]]]:
    """Blocks where channels are massive at half of the noise levels, and which."""
    held = found.cells.mean(0) >= 0.5
    for block in found.blocks:
        yield block, [int(c) for c in np.flatnonzero(held[block])]


def variance_by_block(which: int) -> Callable[[Stream, Found], dict[int, tuple[float, float, float]]]:
    """Share of the variance of mean |x| by block, mean over the channels that are massive there."""

    def numbers(stream: Stream, found: Found) -> dict[int, tuple[float, float, float]]:
        result = {}
        for block, channels in at_each_block(found):
            each = [bootstrapped(stream.values["size"][..., block, c].astype(float), which, 400) for c in channels]
            low, middle, high = (float(np.mean([e[i] for e in each])) for i in (1, 0, 2))
            result[block] = (middle, low, high)
        return result

    return numbers


def slopes_by_block(stream: Stream, found: Found) -> dict[int, tuple[float, float, float]]:
    """Slope of log2 mean |x| over sigma by block."""
    result = {}
    for block, channels in at_each_block(found):
        size = np.log2(np.maximum(stream.values["size"][..., block, :][..., channels], 1e-12))
        values = np.mean([slopes(size[..., i], stream.sigmas) for i in range(len(channels))], axis=0)
        result[block] = bootstrap_interval(values, np.array(stream.prompts))
    return result


def by_block_table(stream: Stream, found: Found) -> list[dict[str, Any]]:
    """For the page: by block, the largest ratio, shares of the variance and the slope, of the massive channels."""
    made = []
    for block, channels in at_each_block(found):
        size = stream.values["size"][..., block, :][..., channels].astype(float)
        explained = np.mean([shares(size[..., i]) for i in range(len(channels))], axis=0)
        energy = stream.values["mean"] ** 2 * (1 + stream.values["variation"] ** 2)
        part = energy[..., block, :][..., channels].sum(-1) / energy[..., block, :].sum(-1)
        made.append(
            {
                "block": block,
                "channels": " ".join(map(str, channels)),
                "ratio": float(stream.ratio[..., block, :][..., channels].max(-1).mean()),
                "energy": float(part.mean()),
                "timestep": float(explained[TIME]),
                "prompt": float(explained[PROMPT]),
                "slope": slopes_by_block(stream, found)[block][0],
            }
        )
    return made


def mean_over(values: np.ndarray) -> np.ndarray:
    """Of each prompt's cells."""
    return values.mean(1)


def median_over(values: np.ndarray) -> np.ndarray:
    """Of each prompt's cells: a mean of std / |mean| explodes where one mean is near 0."""
    return np.median(values, axis=1)


STATISTICS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "every token": ("spread", mean_over),
    "one sign": ("one_sign", mean_over),
    "constant": ("variation", median_over),
}
AGREEMENT: dict[str, Callable[[Stream, Found], np.ndarray]] = {
    "same for every prompt": same_prompts,
    "same for every noise": same_over(1),
    "same at every noise level": same_over(2),
    "same in every block": same_over(3),
    "all layers": layers,
}
BY_BLOCK: dict[str, Callable[[Stream, Found], dict[int, tuple[float, float, float]]]] = {
    "timestep": variance_by_block(TIME),
    "prompt": variance_by_block(PROMPT),
    "grows": slopes_by_block,
}


def sets_without_gates(found: Found, draws: int) -> list[Sequence[int]]:
    """The channels whose gates are closed: all massive ones together, then one other channel per draw."""
    return [found.channels, *([c] for c in largest_others(found, draws))]
