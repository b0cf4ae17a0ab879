"""Which block writes a massive channel, whether its gate is the cause, and whether the channel returns after zeroing.

The residual stream is a sum of writes (`writers`), so each block's share of a channel's final value is a fact. That a
block's gate *causes* it is a second claim, tested by setting the gates to zero in that channel, at the block that
writes most of it, and looking at the end of the stream. Two nulls stand beside it: other channels, each at the block
that writes most of *it*, and the same channels at other blocks. And after the channel is zeroed at one block, its size
in the blocks after it says whether the model writes it again. Who *reads* it stands beside that (`readers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools._as_list import as_list
from dg_tools.datasets.examples import prompt_of
from dg_tools.experiments.block_hooks import on_block_outputs
from dg_tools.experiments.channel_sets import check_controls, draws, largest_others
from dg_tools.experiments.origin_outcomes import PlannedEdit, effects, gate_table, healing_table, tidy
from dg_tools.experiments.readers import Readers
from dg_tools.experiments.result import CONTROLS, Result
from dg_tools.experiments.subject import choose
from dg_tools.experiments.trajectories import Batch, evenly, runs_of, trajectories
from dg_tools.experiments.writers import WRITERS, main_blocks, on_writes
from dg_tools.forward.call import Call
from dg_tools.interventions import Disrupt, attached
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.onestep import velocity
from dg_tools.progress import progress_bar


def origin(
    dit: DiT,
    prompts: Sequence[Any],
    seeds: int | Sequence[int] = (0, 1),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    steps: int = 20,
    measured: int = 3,
    controls: int = CONTROLS,
    batch: int = 32,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Measure which block and branch write the massive channels, if the gates cause them, and if they heal.

    Args:
        dit: any DiT.
        prompts: strings, `Reference`s or pairs; a quarter of them is for detection where `channels` is None, and for
            choosing the blocks that write; where channels are given, the blocks are chosen on all prompts (a note says
            so).
        seeds: of the noise.
        channels: massive channels; None: detected.
        block: at whose output the channels are zeroed for the healing curve; None: the profile's, else the middle one.
        steps: of sampling. measured: at how many of them, evenly spread, the model is measured.
        controls: draws of as many other channels, and of other blocks.
        batch: runs in one forward.
        **kwargs: passed to the pipeline's call.

    Returns:
        `table`: prompt, seed, sigma, block (-1: before the first), writer, channel, write (signed token mean), size
        (mean |write|), final (token mean at the end of the stream). `tables`: gates (share of the final size removed,
        by kind and draw), healing (size relative to clean after each block, by kind and draw), readers (how strongly
        each block's query, key, value and MLP take the channels in, see `Readers.table`), sums (largest difference
        between the sum of the writes and the stream).

    Raises:
        ValueError, IndexError: too few prompts, no seeds, settings, channels or a block out of range.
    """
    keep = evenly(steps, measured)
    seeds = as_list(seeds)
    if channels is not None:
        check_controls(dit, channels, controls)
    subject = choose(dit, prompts, seeds, channels=channels, block=block, steps=steps, progress=progress, **kwargs)
    check_controls(dit, subject.channels, controls)
    chosen = list(subject.channels)
    at = subject.block
    last = len(dit.blocks) - 1
    detection = [prompt_of(x) for x in subject.detection]
    names = [prompt_of(x) for x in subject.test]
    every = [*detection, *names]
    runs = trajectories(dit, every, seeds, steps=steps, keep=keep, batch=batch, progress=progress, **kwargs)
    parts = list(runs)
    shape = (len(every), len(seeds), len(keep))
    writes = np.zeros((len(WRITERS), *shape, len(dit.blocks) + 1, dit.width), np.float32)  # the embedding comes last
    sizes = np.zeros((len(WRITERS), *shape, len(dit.blocks) + 1, len(chosen)), np.float32)
    clean, mean = (np.zeros((*shape, len(dit.blocks), dit.width), np.float32) for _ in range(2))
    readers = Readers(dit)
    with readers.watching():
        for part in parts:
            measure(dit, part, len(seeds), chosen, writes, sizes, clean, mean)
    final = mean[:, :, :, -1]
    test = slice(len(detection), None)
    basis = slice(0, len(detection)) if detection else slice(None)
    main = main_blocks(writes[:, basis, :, :, :-1].sum(0), final[basis], range(dit.width))
    pool = largest_others(clean[test, :, :, -1].mean((0, 1, 2)), chosen, max(4 * len(chosen), controls))
    sets = draws(pool, len(chosen), controls, seed=0)
    places = elsewhere(len(dit.blocks), [main[c] for c in chosen], controls)
    plan = planned_edits(tuple(chosen), sets, places, main, at)
    relative = []
    for row in progress_bar(progress, plan, desc="edits"):
        size = sizes_under(dit, parts, len(seeds), row.channels, row.edits, clean.shape[:-1])[test]
        relative.append(size / np.maximum(clean[test][..., list(row.channels)], 1e-12))
    outcomes = effects(writes[:, test], final[test], plan, relative, chosen, sets, main, names, at)
    notes = [] if detection else ["channels given: the blocks that write them were chosen on the prompts of the test"]
    notes += [f"{len(places)} other places for the gates are all there are"] if len(places) < controls else []
    notes += [f"block {at} is the last: nothing after it could heal"] if at == last else []
    gap = np.abs(writes[:, test].sum((0, 4)) - final[test]).max() / np.abs(final[test]).max()
    return Result(
        "origin",
        "Which block writes the massive channels, do its gates cause them, and do they come back?",
        tidy(writes[:, test], sizes[:, test], final[test], chosen, names, seeds, [s for _, s, _ in parts[0].steps]),
        outcomes,
        subject.settings(steps=steps, measured=keep, seeds=list(seeds), writes_at=[main[c] for c in chosen], **kwargs),
        {
            "gates": gate_table(plan, relative),
            "healing": healing_table(plan, relative, at),
            "readers": readers.table(chosen, pool),
            "sums": pd.DataFrame([{"largest_difference": float(gap), "unit": "of the largest token mean at the end"}]),
        },
        notes,
    )


def planned_edits(
    channels: tuple[int, ...], sets: list[tuple[int, ...]], places: list[tuple[int, ...]], main: list[int], at: int
) -> list[PlannedEdit]:
    """What is edited: gates of the channels and of each control, then the channels and each control zeroed.

    Args:
        channels: the massive ones.
        sets: draws of other channels.
        places: draws of other blocks, one for each of the massive channels.
        main: for every channel the block that writes most of it.
        at: the block after which channels are zeroed.
    """

    def own_gates(which: tuple[int, ...]) -> list[Disrupt]:
        return gates_off(which, [main[c] for c in which])

    return [
        PlannedEdit("own block", channels, own_gates(channels)),
        *(PlannedEdit("other channels", one, own_gates(one)) for one in sets),
        *(PlannedEdit("other blocks", channels, gates_off(channels, blocks)) for blocks in places),
        PlannedEdit("zeroed", channels, [Disrupt(channels, at)]),
        *(PlannedEdit("other zeroed", one, [Disrupt(one, at)]) for one in sets),
    ]


def gates_off(channels: Sequence[int], blocks: Sequence[int]) -> list[Disrupt]:
    """Edits that zero the gates of each channel at its block."""
    return [
        Disrupt([c for c, b in zip(channels, blocks, strict=True) if b == block], block, "gate")
        for block in sorted(set(blocks))
    ]


def elsewhere(count: int, blocks: Sequence[int], draws: int) -> list[tuple[int, ...]]:
    """Other blocks than these, one each: distinct draws, fewer where fewer exist."""
    chance = np.random.default_rng(0)
    others = [[b for b in range(count) if b != block] for block in blocks]
    most = min(draws, int(np.prod([len(o) for o in others])))
    places: dict[tuple[int, ...], None] = {}
    while len(places) < most:
        places[tuple(int(chance.choice(o)) for o in others)] = None
    return list(places)


@torch.no_grad()
def measure(
    dit: DiT,
    part: Batch,
    seeds: int,
    channels: list[int],
    writes: np.ndarray,
    sizes: np.ndarray,
    clean: np.ndarray,
    mean: np.ndarray,
) -> None:
    """One batch, clean, into the arrays: token means of every write, their sizes, and the stream after each block."""
    p, s = runs_of(part, seeds)

    def see_write(block: int, writer: str, write: torch.Tensor) -> None:
        i = WRITERS.index(writer)
        writes[i, p, s, now, block] = write.float().mean(1).cpu().numpy()  # EMBEDDING is the last place
        sizes[i, p, s, now, block] = write[..., channels].float().abs().mean(1).cpu().numpy()

    def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
        clean[p, s, now, block.index] = image.float().abs().mean(1).cpu().numpy()
        mean[p, s, now, block.index] = image.float().mean(1).cpu().numpy()

    for now, (_, sigma, latents) in enumerate(part.steps):  # noqa: B007  (read by `see` and `see_write`)
        with dit.running(), on_writes(dit, see_write), on_block_outputs(dit, see):
            velocity(dit, latents, sigma, part.inputs)


@torch.no_grad()
def sizes_under(
    dit: DiT, parts: list[Batch], seeds: int, channels: Sequence[int], edits: list[Disrupt], shape: tuple[int, ...]
) -> np.ndarray:
    """Mean |x| of the channels after every block under edits: (prompt, seed, step, block, channel)."""
    size = np.zeros((*shape, len(channels)), np.float32)

    def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
        size[p, s, now, block.index] = image[..., list(channels)].float().abs().mean(1).cpu().numpy()

    for part in parts:
        p, s = runs_of(part, seeds)
        for now, (step, sigma, latents) in enumerate(part.steps):  # noqa: B007  (read by `see`)
            edited = attached(dit.transformer, dit.family, edits, Call.at(sigma, step=step))
            with dit.running(), edited, on_block_outputs(dit, see):  # hooks run in order: the edits come first
                velocity(dit, latents, sigma, part.inputs)
    return size
