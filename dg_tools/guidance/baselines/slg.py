"""Skip-layer guidance (Stability AI, with SD3.5): the weak model skips some blocks.

A skipped block passes both streams through. Stability AI's setting for SD3.5-medium is blocks 7, 8 and 9, w = 2.8,
window (0.01, 0.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.families import BlockList
from dg_tools.forward.call import Call
from dg_tools.forward.restart import Passed, swapped
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.models.dit import DiT


class SLG(InBlocks):
    """Skip-layer guidance: `SLG(3.0, 1.0, blocks=[6, 7])`; arguments as in `InBlocks`.

    Hooks on a skipped block (edits, readers) do not run in the perturbed pass: the block does not run either.
    """

    short = "SLG"

    def calls(self, blocks: int) -> int:
        """As in `InBlocks`, without the skipped blocks."""
        return blocks - self.first - len(self.blocks)

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """The blocks are skipped."""
        with skipped(dit, self.blocks):
            yield


@contextmanager
def skipped(dit: DiT, blocks: Sequence[int]) -> Iterator[None]:
    """Skip these blocks in forwards inside: both streams pass through unchanged."""

    def stand_in(index: int, module: torch.nn.Module, record: BlockList) -> torch.nn.Module:
        return Passed(module, record) if index in blocks else module

    with swapped(dit.transformer, dit.family, stand_in):
        yield
