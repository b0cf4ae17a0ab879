"""The base of baselines that guide away from a degraded prediction: a subclass says how the prediction is degraded.

`guided_forward` computes the prediction c, stores the output of the block before the first perturbed one, and runs the
rest again with the perturbation on. With the first perturbed block m of K, that costs K - m block calls (skipped blocks
cost none).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.families import FAMILIES
from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.rival import Rival
from dg_tools.models.dit import DiT
from dg_tools.numbers import integers, number

Again = Callable[[dict[str, Any]], torch.Tensor]


class Perturbed(Rival):
    """A guidance w (c - degraded) beside CFG, in classic pipelines.

    Args:
        guidance_scale: the usual CFG scale s; 1 is off; None: 1, and in `dg.detail_guidance` the scale of the call.
        weight: w, 0 and up; 0 is off, and costs nothing.
        window: of the degraded prediction, (start, stop) as fractions of the steps: step i of n is inside where
            start * n <= i < stop * n.
        guidance_rescale, start, stop, enabled: as in `Guidance`.

    Raises:
        ValueError: scale, weight or window out of range, before any forward.
    """

    # families whose joint attention is known; None: any
    layouts: Sequence[str] | None = tuple(f.name for f in FAMILIES if f.image_first is not None)

    def __init__(
        self,
        guidance_scale: float | None = None,
        weight: float = 1.0,
        *,
        window: tuple[float, float] | list[float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
        **own: Any,
    ) -> None:
        self.check_own(own)
        if not number(weight, "weight") >= 0:
            raise ValueError(f"weight={weight}; {type(self).__name__}'s w is at least 0 (0 = off)")
        super().__init__(
            start,
            stop,
            enabled,
            guidance_scale=guidance_scale,
            weight=weight,
            window=window,
            guidance_rescale=guidance_rescale,
        )
        self.register_to_config(
            guidance_scale=guidance_scale,
            weight=self.weight,
            window=self.window,
            guidance_rescale=guidance_rescale,
            start=start,
            stop=stop,
            enabled=enabled,
            **own,
        )

    @property
    def first(self) -> int | None:
        """The first perturbed block; None where the degraded prediction does not start in a block."""
        return None

    def begins(self, dit: DiT, call: Call) -> int | None:
        """The first perturbed block of one step, for guidances whose steps differ."""
        return self.first

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any forward for a family of another layout, and for a window without a step."""
        if self.layouts is not None and dit.family.name not in self.layouts:
            raise ValueError(
                f"{type(self).__name__} supports the families {', '.join(self.layouts)}; this model is of "
                f"family {dit.family.name!r}. dg.baselines.AutoGuidance and dg.DetailGuidance take any"
            )
        super().check(dit, steps, height, width)

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """A forward inside is perturbed; put back afterwards, after an exception too."""
        raise NotImplementedError
        yield

    def degraded(self, dit: DiT, rows: dict[str, Any], cond: torch.Tensor, call: Call, again: Again) -> torch.Tensor:
        """The degraded prediction.

        Args:
            dit: the model.
            rows: the transformer's inputs for the conditional rows.
            cond: what it predicts for them.
            call: which step.
            again: another forward of `rows`.
        """
        with self.on(dit, rows, call):
            return again(rows)


class InBlocks(Perturbed):
    """A baseline that perturbs some blocks.

    Args:
        blocks: an index into `dit.blocks`, or several: all of them are perturbed in one pass. Needed.
        guidance_scale, weight, others: as in `Perturbed`.

    Raises:
        ValueError: no blocks, or one twice. IndexError: a block that does not exist, when the model is known.
    """

    def __init__(
        self,
        guidance_scale: float | None = None,
        weight: float = 1.0,
        *,
        blocks: int | Sequence[int] = (),
        **others: Any,
    ) -> None:
        self.blocks = blocks
        super().__init__(guidance_scale, weight, blocks=list(self.blocks), **others)

    @property
    def blocks(self) -> list[int]:
        """The perturbed blocks, in order."""
        return self._blocks

    @blocks.setter
    def blocks(self, value: Any) -> None:
        self._blocks = blocks_of(value)

    @property
    def first(self) -> int:
        """The first perturbed block."""
        return self.blocks[0]

    def calls(self, blocks: int) -> int:
        """Block calls of the perturbed pass of a model with this many blocks, where nothing else acts on them."""
        return blocks - self.first

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `Perturbed`, and IndexError for blocks that do not exist."""
        super().check(dit, steps, height, width)
        for block in self.blocks:
            dit.block(block)


def blocks_of(value: Any) -> list[int]:
    """Indices of blocks, in order.

    Raises:
        ValueError: none, or one twice.
    """
    blocks = sorted(integers(value, "blocks"))
    if not blocks or len(set(blocks)) < len(blocks):
        raise ValueError(f"blocks={value}; name at least one block, and each once, such as blocks=[6]")
    return blocks
