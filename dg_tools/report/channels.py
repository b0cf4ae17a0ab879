"""Statistics of all channels of the residual stream, measured on pictures under noise.

Arrays out; `dg_tools.report.channel_rows` judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dg_tools.datasets.examples import Items
from dg_tools.experiments.block_hooks import on_block_inputs, on_block_outputs, on_modulation
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.interventions import Disrupt
from dg_tools.massive import constant
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.onestep import velocity

NAMES = ("mean", "size", "one_sign", "variation", "spread")
HALF = 0.5  # of the channel's own mean |x|: above it a token counts as large


@dataclass
class Stream:
    """Statistics over image tokens.

    Attributes:
        values: by name, (prompt, seed, sigma, block, channel): mean, size (mean |x|), one_sign (share of tokens with
            the commoner sign), variation (std / |mean|), spread (share of tokens above half the channel's size).
        gates: by name of the AdaLN chunk, mean |gate|, the same shape.
        before: token mean of the first block's input, (prompt, seed, sigma, channel).
        prompts, sigmas, tokens: what was measured, and how many image tokens there are.
    """

    prompts: list[str]
    sigmas: tuple[float, ...]
    tokens: int
    values: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]
    before: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """Mean |x| over the median channel's."""
        return self.values["size"] / np.median(self.values["size"], axis=-1, keepdims=True)

    def massive(self) -> np.ndarray:
        """Where `find_massive`'s default rule holds in at least half of the pictures: (sigma, block, channel)."""
        statistics = {k: self.values[k] for k in ("one_sign", "variation")} | {"ratio": self.ratio}
        return constant(statistics).mean((0, 1)) >= 0.5

    def writers(self) -> np.ndarray:
        """The block at which each channel's token mean changes most, (channel,)."""
        mean = self.values["mean"]
        before = np.concatenate([self.before[:, :, :, None], mean[:, :, :, :-1]], axis=3)
        return np.abs(mean - before).mean((0, 1, 2)).argmax(0)


@dataclass
class Found:
    """What was found on detection captions.

    Attributes:
        channels: massive at two blocks or more, the largest first; empty where there are none.
        cells: (sigma, block, channel), true where one of the channels is massive.
        writers: (channel,), see `Stream.writers`.
        order: (sigma, block, channel): channel numbers, largest mean |x| first.
        strongest: (sigma, block, channel) of the largest ratio anywhere.
    """

    channels: list[int]
    cells: np.ndarray
    writers: np.ndarray
    order: np.ndarray
    strongest: tuple[int, int, int]
    blocks: list[int] = field(default_factory=list)  # where one of them is massive at half of the noise levels


def found(stream: Stream) -> Found:
    """Channels and cells from the detection part."""
    massive, ratio = stream.massive(), stream.ratio.mean((0, 1))
    at_blocks = massive.mean(0) >= 0.5  # (block, channel)
    channels = [int(c) for c in np.flatnonzero(at_blocks.sum(0) >= 2)]
    channels.sort(key=lambda c: -ratio[..., c].max())
    kept = np.zeros(massive.shape[-1], bool)
    kept[channels] = True
    size = stream.values["size"].mean((0, 1))
    strongest = np.unravel_index(int(ratio.argmax()), ratio.shape)
    return Found(
        channels,
        massive & kept,
        stream.writers(),
        np.argsort(-size, axis=-1, kind="stable"),
        (int(strongest[0]), int(strongest[1]), int(strongest[2])),
        [int(b) for b in np.flatnonzero((at_blocks & kept).any(1))],
    )


@torch.no_grad()
def measure(
    dit: DiT, items: Items, sigmas: Sequence[float], seeds: Sequence[int], *, edits: Sequence[Disrupt] = ()
) -> Stream:
    """All statistics of `Stream`, on pictures under noise.

    Args:
        dit: any DiT that predicts a velocity.
        items: `Reference`s, (prompt, picture) pairs or `Example`s.
        sigmas: noise levels. seeds: of the noise.
        edits: on in these forwards.
    """
    noised = NoisedPictures(dit, items, seeds)
    count, layers = len(noised), len(dit.blocks)
    values = {name: np.zeros((count, len(sigmas), layers, dit.width), np.float32) for name in NAMES}
    gates: dict[str, np.ndarray] = {}
    before = np.zeros((count, len(sigmas), dit.width), np.float32)
    tokens = [0]

    def reader(part: slice, now: int) -> Callable[[Block, torch.Tensor, torch.Tensor | None], None]:
        def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
            x = image.float()
            tokens[0] = x.shape[1]
            mean, size = x.mean(1), x.abs().mean(1)
            positive = (x > 0).float().mean(1)
            large = (x.abs() > HALF * size[:, None]).float().mean(1)
            measured = (mean, size, torch.maximum(positive, 1 - positive), x.std(1, unbiased=False) / mean.abs(), large)
            for name, value in zip(NAMES, measured, strict=True):
                values[name][part, now, block.index] = value.cpu().numpy()

        return see

    def gate_reader(part: slice, now: int) -> Callable[[Block, dict[str, torch.Tensor]], None]:
        def see(block: Block, chunks: dict[str, torch.Tensor]) -> None:
            for name, chunk in chunks.items():
                if name.startswith("gate"):
                    shape = (count, len(sigmas), layers, dit.width)
                    gates.setdefault(name, np.full(shape, np.nan, np.float32))
                    gates[name][part, now, block.index] = chunk.abs().float().cpu().numpy()

        return see

    def start_reader(part: slice, now: int) -> Callable[[Block, dict[str, torch.Tensor]], None]:
        def see(block: Block, inputs: dict[str, torch.Tensor]) -> None:
            before[part, now] = inputs["hidden_states"].float().mean(1).cpu().numpy()

        return see

    for part, inputs in zip(noised.parts(), noised.inputs, strict=True):
        for now, sigma in enumerate(sigmas):
            with (
                dit.running(),
                on_block_outputs(dit, reader(part, now)),
                on_modulation(dit, range(layers), gate_reader(part, now)),
                on_block_inputs(dit, [0], start_reader(part, now)),
            ):
                velocity(dit, noised.noised(sigma, part), sigma, inputs, edits)
    pictures, levels = len(noised.prompts), len(seeds)

    def shaped(array: np.ndarray) -> np.ndarray:
        return array.reshape(pictures, levels, *array.shape[1:])

    return Stream(
        noised.prompts,
        tuple(sigmas),
        tokens[0],
        {k: shaped(v) for k, v in values.items()},
        {k: shaped(v) for k, v in gates.items()},
        shaped(before),
    )


@torch.no_grad()
def final_sizes(
    dit: DiT, items: Items, sigmas: Sequence[float], sets: Sequence[Sequence[int]], writers: np.ndarray
) -> np.ndarray:
    """|token mean| at the end of the stream without the gates of the block that writes each channel, over the clean.

    Args:
        sets: channels of each run, in which the gates are closed; each channel at its own block.
        writers: (channel,), the block that writes each.

    Returns:
        (sets, prompt): mean over the set's channels and noise levels.
    """
    noised = NoisedPictures(dit, items, [0])
    last = len(dit.blocks) - 1
    result = np.zeros((len(sets), len(noised)))

    def ends(edits: Sequence[Disrupt], sigma: float) -> np.ndarray:
        kept: list[np.ndarray] = []

        def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
            if block.index == last:
                kept.append(image.float().mean(1).abs().cpu().numpy())

        with dit.running(), on_block_outputs(dit, see):
            for part, inputs in zip(noised.parts(), noised.inputs, strict=True):
                velocity(dit, noised.noised(sigma, part), sigma, inputs, edits)
        return np.concatenate(kept)

    for sigma in sigmas:
        clean = ends((), sigma)
        for i, channels in enumerate(sets):
            at = sorted({int(writers[c]) for c in channels})
            edits = [Disrupt([c for c in channels if writers[c] == block], block, "gate") for block in at]
            size = ends(edits, sigma) / np.maximum(clean, 1e-12)
            result[i] += size[:, list(channels)].mean(1) / len(sigmas)
    return result
