"""A buffer that collects small tensors of several blocks and steps, so that one call reduces them all.

On a small model a call of torch costs more than its arithmetic. A large tensor does not wait, and is not copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dg_tools.activations.kept import Place
from dg_tools.activations.reduce import bite

Batch = tuple[str, list[Place], torch.Tensor]  # name, places, (places x rows, tokens, channels)


class Waiting:
    """A buffer for tensors with the same name, shape and dtype, with the place of each."""

    def __init__(self, name: str, like: torch.Tensor, most: int) -> None:
        self.name = name
        self.kind = like.shape, like.dtype, like.device
        self.buffer = like.new_empty(min(bite(like) // like.numel(), most), *like.shape)
        self.slots = self.buffer.unbind()
        self.places: list[Place] = []

    def takes(self, hidden: torch.Tensor) -> bool:
        """Whether a tensor may wait here."""
        return (hidden.shape, hidden.dtype, hidden.device) == self.kind

    def take(self) -> Batch:
        """What waits, as one."""
        places, self.places = self.places, []
        return self.name, places, self.buffer[: len(places)].flatten(0, 1)


class Together:
    """Collects tensors (rows, tokens, channels) by name and place, and returns those of one kind as one.

    A batch is a view of the buffer: it is good until the next `add`.

    Args:
        most: the largest number of tensors of one kind, which bounds the buffer for tiny ones.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: dict[str, list[Waiting]] = {}

    def add(self, name: str, place: Place, hidden: torch.Tensor) -> Batch | None:
        """Add a tensor; return what must be reduced now: the tensor itself if it is large, a full buffer, or None."""
        waiting = self._of(name, hidden)
        places, slots = waiting.places, waiting.slots
        if len(slots) < 2:
            return name, [place], hidden
        slots[len(places)].copy_(hidden)  # what comes next may change it in place
        places.append(place)
        return waiting.take() if len(places) == len(slots) else None

    def rest(self) -> Iterator[Batch]:
        """What still waits."""
        for kinds in self._waiting.values():
            yield from (waiting.take() for waiting in kinds if waiting.places)

    def _of(self, name: str, hidden: torch.Tensor) -> Waiting:
        kinds = self._waiting.setdefault(name, [])
        for waiting in kinds:
            if waiting.takes(hidden):
                return waiting
        kinds.append(Waiting(name, hidden, self.most))
        return kinds[-1]
