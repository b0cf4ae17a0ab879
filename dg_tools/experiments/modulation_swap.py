"""The modulation of another timestep, or of another prompt, at the same z_t: what does it do to a channel's size?

Blocks are handed another run's conditioning (the time-text embedding) in place of their own; z_t, the text tokens, the
hidden states and every weight stay. The size is always taken against the median channel's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from dg_tools.experiments.trajectories import Batch, run_to, runs_of, watching
from dg_tools.families import bind
from dg_tools.models.dit import DiT

SWAPS, REACHES = ("timestep", "prompt"), ("blocks up to it", "the block alone")


def relative(size: np.ndarray) -> np.ndarray:
    """log2 of sizes (..., channel) over the median channel's."""
    log = np.log2(np.maximum(size, 1e-12))
    return log - np.median(log, axis=-1, keepdims=True)


@contextmanager
def receiving(
    dit: DiT, blocks: Sequence[int], see: Callable[[torch.nn.Module, dict[str, Any]], dict[str, Any] | None]
) -> Iterator[None]:
    """Call `see(block module, inputs by name)` before these blocks; what it returns replaces inputs."""

    def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        named = bind(module, args, kwargs)
        other = see(module, named)
        return None if other is None else ((), {**named, **other})

    with ExitStack() as stack:
        for block in blocks:
            handle = dit.block(block).module.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
        yield


@torch.no_grad()
def swapped(
    dit: DiT, parts: list[Batch], conditioning: list[list[dict[str, torch.Tensor]]], clean: np.ndarray, at: int,
    swaps: int,
) -> dict[tuple[str, str], np.ndarray]:  # fmt: skip
    """|Change| of the relative size, (prompt, seed, step, donor, channel), by swap and reach."""
    prompts, seeds, steps, width = clean.shape
    base = relative(clean)
    count = {"timestep": min(swaps, steps - 1), "prompt": min(swaps, prompts - 1)}
    reaches = {REACHES[0]: range(at + 1)} | ({REACHES[1]: range(at, at + 1)} if at else {})
    made = {(k, r): np.zeros((prompts, seeds, steps, count[k], width), np.float32) for k in SWAPS for r in reaches}
    index = {id(dit.block(b).module): b for b in range(at + 1)}
    got: list[np.ndarray] = []

    def see(block: Any, image: torch.Tensor, text: torch.Tensor | None) -> None:
        if block.index == at:
            got[:] = [relative(image.float().abs().mean(1).cpu().numpy())]

    for part in parts:
        p, s = runs_of(part, seeds)
        for t, (_, sigma, latents) in enumerate(part.steps):
            for kind, reach in made:
                for j in range(count[kind]):
                    donor_step = (t + 1 + j * (steps - 1) // count[kind]) % steps if kind == "timestep" else t
                    donor_rows = p * seeds + s if kind == "timestep" else ((p + 1 + j) % prompts) * seeds + s

                    def other(
                        module: torch.nn.Module, inputs: dict[str, Any], step: int = donor_step, rows: Any = donor_rows
                    ) -> dict[str, Any]:
                        return {n: v[rows] for n, v in conditioning[step][index[id(module)]].items()}

                    with dit.running(), watching(dit, see), receiving(dit, reaches[reach], other):
                        run_to(dit, latents, sigma, part.inputs, at)
                    made[kind, reach][p, s, t, j] = np.abs(got[0] - base[p, s, t])
    return made
