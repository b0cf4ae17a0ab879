"""What edits did in a run: how many block outputs they changed, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dg_tools.kinds import counted


@dataclass(frozen=True)
class Edited:
    """What the edits of one run did.

    Attributes:
        edits: each edit in words.
        calls: by edit, how many block outputs (or AdaLN chunks, for `gate`) it changed.
        change: by edit, the mean over these of ||edited - output|| / ||output||, in the edited stream, over all
            rows of a call; with `rows="uncond"` over these rows alone.

    Example:
        >>> print(Edited(("channel 3 zeroed",), (20,), (0.25,)))
        channel 3 zeroed: 20 block outputs, ||edited - output|| / ||output|| 0.25
    """

    edits: tuple[str, ...] = ()
    calls: tuple[int, ...] = ()
    change: tuple[float, ...] = ()

    def __str__(self) -> str:
        return "\n".join(
            f"{edit}: {counted(calls, 'block output')}, ||edited - output|| / ||output|| {change:.3g}"
            for edit, calls, change in zip(self.edits, self.calls, self.change, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def squares(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """||after - before||^2 and ||before||^2, on their device."""
    own = before.detach().float()
    return torch.stack([(after.detach().float() - own).square().sum(), own.square().sum()])


@dataclass
class Changes:
    """What one edit did, call by call; the norms stay on the device until `mean` is read."""

    sums: list[torch.Tensor] = field(default_factory=list)

    def add(self, after: torch.Tensor, before: torch.Tensor) -> None:
        """One changed block output."""
        self.sums.append(squares(after, before))

    def total(self) -> torch.Tensor:
        """The sums of all calls."""
        return torch.stack(self.sums).sum(0)

    def mean(self) -> float:
        """Mean of ||after - before|| / ||before||; 0 where nothing was changed."""
        ratios = [change / max(own, 1e-30) for change, own in read(self.sums)]
        return sum(ratios) / len(ratios) if ratios else 0.0


def read(sums: Sequence[torch.Tensor]) -> list[list[float]]:
    """The square roots of sums, read from the device at once."""
    return torch.stack(list(sums)).sqrt().tolist() if sums else []
