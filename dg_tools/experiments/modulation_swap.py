"""Activation patching of the modulation: what do another timestep's or prompt's AdaLN inputs do to a channel's size?

Blocks get the conditioning (the time-text embedding) of another run, the donor; z_t, the text tokens, the hidden states
and every weight stay. The size is always relative to the median channel's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dg_tools.experiments.block_hooks import on_block_inputs, on_block_outputs, run_until
from dg_tools.experiments.trajectories import Batch, runs_of
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT

SWAPS, REACHES = ("timestep", "prompt"), ("blocks up to it", "the block alone")


def relative(size: np.ndarray) -> np.ndarray:
    """log2 of sizes (..., channel) over the median channel's."""
    log = np.log2(np.maximum(size, 1e-12))
    return log - np.median(log, axis=-1, keepdims=True)


@torch.no_grad()
def swap_modulation(
    dit: DiT,
    parts: list[Batch],
    conditioning: list[list[dict[str, torch.Tensor]]],
    clean: np.ndarray,
    at: int,
    swaps: int,
) -> dict[tuple[str, str], np.ndarray]:
    """|Change| of the relative size, (prompt, seed, step, donor, channel), by swap and reach.

    Args:
        dit: the model.
        parts: batches of clean runs.
        conditioning: of all runs, by step and block, up to block `at`.
        clean: mean |x| over tokens after block `at`, (prompt, seed, step, channel).
        at: the block after which the size is measured.
        swaps: how many other timesteps, and other prompts, each run is given.
    """
    prompts, seeds, steps, width = clean.shape
    base = relative(clean)
    count = {"timestep": min(swaps, steps - 1), "prompt": min(swaps, prompts - 1)}
    reaches = {REACHES[0]: range(at + 1)} | ({REACHES[1]: range(at, at + 1)} if at else {})
    changes = {(k, r): np.zeros((prompts, seeds, steps, count[k], width), np.float32) for k in SWAPS for r in reaches}
    size = np.empty(0)

    def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
        nonlocal size
        if block.index == at:
            size = relative(image.float().abs().mean(1).cpu().numpy())

    for part in parts:
        p, s = runs_of(part, seeds)
        for t, (_, sigma, latents) in enumerate(part.steps):
            for kind, reach in changes:
                for j in range(count[kind]):
                    donor_step = (t + 1 + j * (steps - 1) // count[kind]) % steps if kind == "timestep" else t
                    donor_rows = p * seeds + s if kind == "timestep" else ((p + 1 + j) % prompts) * seeds + s

                    def donate(
                        block: Block, inputs: dict[str, Any], step: int = donor_step, rows: np.ndarray = donor_rows
                    ) -> dict[str, Any]:
                        return {n: v[rows] for n, v in conditioning[step][block.index].items()}

                    with dit.running(), on_block_outputs(dit, see), on_block_inputs(dit, reaches[reach], donate):
                        run_until(dit, latents, sigma, part.inputs, at)
                    changes[kind, reach][p, s, t, j] = np.abs(size - base[p, s, t])
    return changes
