"""Values of the calls of one run in order of arrival; laid out as arrays by step and block after the run.

On a small model, writing into an array costs as much as computing the values, so all steps are written at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Place = tuple[int, int]  # number of the call, and block
Key = tuple[str, str | tuple[str | None, ...]]  # variable, and stream, part, or parts
Where = tuple[int, Sequence[int]]  # of a call: its step, and the branch of each of its rows


class Kept:
    """Values (places, rows, ...); those of one kind are written together at the end."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Key, torch.Size], tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def add(self, key: Key, places: torch.Tensor, value: torch.Tensor) -> None:
        """Keep (places, rows, ...) at its `Place`s (places, 2), both on the CPU. It is not copied."""
        group = self._groups.setdefault((key, value.shape[1:]), ([], []))
        group[0].append(places)
        group[1].append(value)

    def arrays(self, calls: Sequence[Where | None], branches: int, steps: int, blocks: int) -> dict[Key, np.ndarray]:
        """Arrays (branch, step, block, ...), NaN where there is no value; nothing is kept any longer.

        `calls`: where each call belongs, by its number; None for a call that failed.
        """
        arrays: dict[Key, torch.Tensor] = {}
        at = torch.tensor([-1 if call is None else call[0] for call in calls])
        for group in list(self._groups):
            (key, shape), (places, values) = group, self._groups.pop(group)
            inner = shape[1:]
            array = arrays.get(key)
            if array is None or (inner and inner[0] > array.shape[3]):  # Qwen-Image pads prompts to no fixed length
                shorter, array = array, torch.full((branches, steps, blocks, *inner), torch.nan)
                if shorter is not None:
                    array[:, :, :, : shorter.shape[3]] = shorter
                arrays[key] = array
            number, block = torch.cat(places).unbind(1)
            together, good = torch.cat(values), at[number] >= 0
            if not good.all():
                number, block, together = number[good], block[good], together[good]
            target = array[:, :, :, : inner[0]] if inner else array
            for row in range(shape[0]):
                branch = torch.tensor([call[1][row] if call and row < len(call[1]) else 0 for call in calls])
                target[branch[number], at[number], block] = together[:, row].float()
        return {key: array.numpy() for key, array in arrays.items()}
