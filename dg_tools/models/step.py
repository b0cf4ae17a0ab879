"""`Step`, which a trace yields for each call of the transformer."""

from __future__ import annotations

from dg_tools.forward.call import Branch, Call
from dg_tools.models.block import Block


class Step(int):
    """A denoising step from `run.steps`: its index, with `.sigma`, `.timestep`, `.branch`, `.cond`, `.uncond`."""

    sigma: float
    timestep: float
    branch: Branch
    cond: slice
    uncond: slice
    call: Call
    absent: frozenset[int]

    @classmethod
    def of(cls, index: int, call: Call, absent: frozenset[int] = frozenset()) -> Step:
        """The step of a transformer call; `absent` blocks do not run in it."""
        step = cls(index)
        step.sigma = call.sigma
        step.timestep = call.timestep
        step.branch = call.branch
        step.cond = call.cond
        step.uncond = call.uncond
        step.call = call
        step.absent = absent
        return step

    def visits(self, block: Block) -> bool:
        """Whether this call runs a block: skip-layer guidance and a disrupted pass leave some out."""
        return block.index not in self.absent
