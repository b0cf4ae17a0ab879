"""Skip-layer guidance at the cost of CFG: blocks are skipped in CFG's own unconditional pass.

    D = u_skipped + s (c - u_skipped)

It is ComfyUI's node SkipLayerGuidanceDiTSimple (`comfy_extras/nodes_slg.py`, pull request 8759), whose defaults are
blocks 7, 8 and 9 of SD3.5-medium over the whole run. It has no weight: the CFG scale and the blocks set its strength.
If CFG is one call for both halves (SD3), a skipped block runs for both, and its output is ignored in the unconditional
rows, so it costs as many block calls as CFG. If the unconditional pass is a separate call (FLUX.1), the block does not
run in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.families import bind
from dg_tools.forward.call import Call
from dg_tools.forward.restart import Passed
from dg_tools.guidance.baselines.in_pass import Forward, InPass
from dg_tools.guidance.baselines.perturbed import blocks_of
from dg_tools.guidance.baselines.slg import skipped
from dg_tools.models.dit import DiT


class SLGUncond(InPass):
    """Skip-layer guidance in the unconditional pass: `SLGUncond(3.0, blocks=[6, 7])`.

    Args:
        blocks: an index into `dit.blocks`, or several: all of them are skipped. In the unconditional rows, hooks on
            them (edits, readers) have no effect.
        guidance_scale: the usual CFG scale s, more than 1; None: in `dg.detail_guidance` the scale of the call.
        start, stop, enabled: as in `InPass`.

    Raises:
        ValueError: a scale of 1 or less, no blocks, or one twice; when the model is known, a family whose blocks cannot
            be left out. IndexError: a block that does not exist.
    """

    short = "SLG uncond"

    def __init__(self, guidance_scale: float | None = None, *, blocks: int | Sequence[int] = (), **others: Any) -> None:
        self.blocks = blocks
        super().__init__(guidance_scale, blocks=list(self.blocks), **others)
        if guidance_scale is not None:
            self.check_scale(guidance_scale)

    @property
    def blocks(self) -> list[int]:
        """The skipped blocks, in order."""
        return self._blocks

    @blocks.setter
    def blocks(self, value: Any) -> None:
        self._blocks = blocks_of(value)

    @property
    def pushes(self) -> bool:
        """True: it always changes more than CFG does."""
        return True

    def check_scale(self, scale: float) -> None:
        """Raise ValueError without CFG: there is no unconditional pass."""
        if self._enabled and not scale > 1:
            raise ValueError(
                f"{self.short} at CFG scale {scale:g}: there is no unconditional pass, so pass a scale above 1"
            )

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `InPass`; IndexError for blocks that do not exist, ValueError where blocks cannot be left out."""
        for block in self.blocks:
            dit.block(block)
        if not dit.family.partial_forward:
            raise ValueError(
                f"{self.short} leaves blocks out: family {dit.family.name!r} has paths around its blocks, so none "
                "can be left out"
            )
        super().check(dit, steps, height, width)

    def predicted(self, dit: DiT, inputs: dict[str, Any], call: Call, own: Forward, again: Forward) -> torch.Tensor:
        """The prediction with the blocks left out in the unconditional rows."""
        if call.branch == "uncond":
            with skipped(dit, self.blocks):
                return own(inputs, call)
        if call.branch == "both":
            with self._left_out(dit, call.uncond):
                return own(inputs, call)
        return own(inputs, call)

    @contextmanager
    def _left_out(self, dit: DiT, rows: slice) -> Iterator[None]:
        """In a forward inside these rows of the blocks' outputs are what the blocks were given."""
        with ExitStack() as stack:
            for block in map(dit.block, self.blocks):
                passed = Passed(block.module, block.record)

                def keep(module: Any, args: Any, kwargs: Any, output: Any, passed: Passed = passed) -> Any:
                    return merged(output, passed(**bind(module, args, kwargs)), rows)

                handle = block.module.register_forward_hook(keep, with_kwargs=True)
                stack.callback(handle.remove)
            yield


def merged(output: Any, other: Any, rows: slice) -> Any:
    """A block's output with some rows of another one; where there is no text stream, there is none."""
    if output is None:
        return None
    if not isinstance(output, torch.Tensor):
        return tuple(merged(x, y, rows) for x, y in zip(output, other, strict=True))
    output = output.clone()
    output[rows] = other[rows]
    return output
