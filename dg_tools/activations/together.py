"""Small tensors of several blocks wait in one buffer, so that they are reduced by one call.

On a small model a call of torch costs more than its arithmetic. A large tensor does not wait, and is not copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dg_tools.activations.reduce import bite

Kind = tuple[str, torch.Size, torch.dtype, torch.device]
Batch = tuple[str, list[int], torch.Tensor]  # name, blocks, (blocks x rows, tokens, channels)


class Together:
    """Tensors (rows, tokens, channels) by name and block; those of one kind come back as one.

    A batch is a view of the buffer: it is good until the next `add`.

    Args:
        blocks: most tensors of one kind, so that a buffer for tiny ones has no places that nothing takes.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._waiting: dict[Kind, list[int]] = {}  # blocks
        self._buffers: dict[Kind, tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = {}  # each with its places

    def add(self, name: str, block: int, hidden: torch.Tensor) -> Batch | None:
        """What is to be reduced now, if anything: this tensor where it is large, or a full buffer."""
        kind = (name, hidden.shape, hidden.dtype, hidden.device)
        if kind not in self._buffers:
            buffer = hidden.new_empty(min(bite(hidden) // hidden.numel(), self._blocks), *hidden.shape)
            self._buffers[kind] = buffer, buffer.unbind()
        places = self._buffers[kind][1]
        if len(places) < 2:
            return name, [block], hidden
        blocks = self._waiting.setdefault(kind, [])
        places[len(blocks)].copy_(hidden)  # what comes next may change it in place
        blocks.append(block)
        return self._take(kind) if len(blocks) == len(places) else None

    def rest(self) -> Iterator[Batch]:
        """What still waits."""
        for kind in list(self._waiting):
            yield self._take(kind)

    def clear(self) -> None:
        """Nothing waits any more."""
        self._waiting.clear()

    def _take(self, kind: Kind) -> Batch:
        blocks = self._waiting.pop(kind)
        return kind[0], blocks, self._buffers[kind][0][: len(blocks)].flatten(0, 1)
