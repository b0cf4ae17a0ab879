"""S2-Guidance (Chen et al., arXiv 2508.12880): the weak model skips a few blocks, drawn anew in each step.

    D = u + s (c - u) - w (c_m - c)

c_m is the conditional prediction with a random set m of blocks skipped, drawn anew in each step (equation 4 and
algorithm 1 of the paper's later versions; the first one leaves out the `- c`, which shrinks the prediction by 1 - w).
Its authors drop about 10% of the blocks, never the first one, at w = 0.25, in the middle 80% of the steps, on SD3,
SD3.5 and Wan. They released no code. The paper does not say how sets are drawn: here all pictures of a batch share one,
drawn from a seed and the step, so that a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.perturbed import Perturbed
from dg_tools.guidance.baselines.slg import skipped
from dg_tools.models.dit import DiT
from dg_tools.numbers import number


class S2Guidance(Perturbed):
    """S2-Guidance: `S2Guidance(3.0, 0.25)`; any family whose blocks can be left out.

    Args:
        guidance_scale: the usual CFG scale s; 1 is off.
        weight: w, the paper's omega.
        share: share of the blocks that are dropped in a step, more than 0 and less than 1; at least one is dropped.
        seed: of the draws.
        window: of the steps with a degraded prediction, as fractions.
        others: as in `Perturbed`.

    Raises:
        ValueError: a share out of range; a model of one block, or with paths around its blocks.
    """

    short = "S2"
    layouts = None

    def __init__(
        self,
        guidance_scale: float | None = None,
        weight: float = 0.25,
        *,
        share: float = 0.1,
        seed: int = 0,
        window: Sequence[float] = (0.1, 0.9),
        **others: Any,
    ) -> None:
        if not 0 < number(share, "share") < 1:
            raise ValueError(f"share={share}; a share of the blocks, more than 0 and less than 1, is needed")
        super().__init__(guidance_scale, weight, window=list(window), share=share, seed=seed, **others)
        self.share = share
        self.seed = seed

    def dropped(self, blocks: int, step: int) -> list[int]:
        """The blocks that are dropped in a step of a model with `blocks` blocks, in order; never the first one.

        Example:
            >>> len(S2Guidance(share=0.1).dropped(24, 0))
            2
        """
        count = min(max(1, round(self.share * blocks)), blocks - 1)
        draw = np.random.default_rng([self.seed, step])
        return sorted(int(i) + 1 for i in draw.choice(blocks - 1, count, replace=False))

    def begins(self, dit: DiT, call: Call) -> int:
        """The first block that is dropped in a step."""
        assert call.step is not None
        return self.dropped(len(dit.blocks), call.step)[0]

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `Perturbed`, and ValueError where no block can be dropped."""
        if not dit.family.partial_forward:
            raise ValueError(
                f"S2Guidance drops blocks: family {dit.family.name!r} has paths around its blocks, so none can "
                "be dropped"
            )
        if len(dit.blocks) < 2:
            raise ValueError(f"S2Guidance drops blocks: this model has {len(dit.blocks)}, and at least 2 are needed")
        super().check(dit, steps, height, width)

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """The step's blocks are skipped."""
        assert call.step is not None
        with skipped(dit, self.dropped(len(dit.blocks), call.step)):
            yield
