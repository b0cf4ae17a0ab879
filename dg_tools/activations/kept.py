"""What the calls of one run gave, as it came; laid out as arrays by step and block when the run is over.

On a small model a write into an array costs as much as what it writes, so that all steps are written by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Key = tuple[str, str]  # variable, and stream or part
Group = tuple[Key, tuple[int, ...], tuple[int, ...], torch.Size]  # key, blocks, branches, shape


class Kept:
    """Values (blocks, rows, ...) by step; those of one kind are stacked at the end."""

    def __init__(self) -> None:
        self._groups: dict[Group, list[tuple[int, torch.Tensor]]] = {}

    def add(self, key: Key, blocks: Sequence[int], branches: Sequence[int], step: int, value: torch.Tensor) -> None:
        """Keep (blocks, rows, ...) of one step, a row for each branch, on the CPU. It is not copied."""
        self._groups.setdefault((key, tuple(blocks), tuple(branches), value.shape), []).append((step, value))

    def arrays(self, branches: int, steps: int, blocks: int) -> dict[Key, np.ndarray]:
        """Arrays (branch, step, block, ...), NaN where there is no value; nothing is kept any longer."""
        arrays: dict[Key, torch.Tensor] = {}
        for group in list(self._groups):
            key, places, rows, shape = group
            inner, values = shape[2:], self._groups.pop(group)
            array = arrays.get(key)
            if array is None or (inner and inner[0] > array.shape[3]):  # Qwen-Image pads prompts to no fixed length
                shorter, array = array, torch.full((branches, steps, blocks, *inner), torch.nan)
                if shorter is not None:
                    array[:, :, :, : shorter.shape[3]] = shorter
                arrays[key] = array
            at = torch.tensor([step for step, _ in values])[:, None], torch.tensor(places)
            together = torch.stack([value for _, value in values])
            for row, branch in enumerate(rows):
                target = array[branch, :, :, : inner[0]] if inner else array[branch]
                target[at] = together[:, :, row].float()
        return {key: array.numpy() for key, array in arrays.items()}
