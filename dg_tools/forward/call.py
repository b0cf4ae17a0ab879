"""What a call of the transformer is: its denoising step, its noise level, and which of its rows are conditional."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

NOTHING = slice(0, 0)  # no row
Branch = Literal["both", "cond", "uncond", "other"]


@dataclass(frozen=True)
class Call:
    """One call of the transformer.

    Attributes:
        step: counted from the first step that runs; None for a call that is not a part of the sampling.
        timestep: the scheduler's timestep, 0..1000.
        sigma: noise level, 0..1 for flow matching.
        branch: `both` (rows [uncond, cond]), `cond`, `uncond`, or `other`: a further call at a step already seen, such
            as skip-layer guidance makes.
        cond, uncond: the row ranges of the two halves; empty where a half is absent.
        image_tokens: how many there are; needed where a block returns text and image tokens in one sequence.
        steps: how many steps run; with img2img those after its start. A scheduler of second order (Heun) calls the
            transformer twice for most of its steps, and each of these counts as a step, as in the pipeline's callbacks.
        grid: rows and columns of the picture's own image tokens, reference pictures left out; None: not known.
        frames: how many such grids of tokens follow each other: 1 for a picture.
    """

    step: int | None
    timestep: float
    sigma: float
    branch: Branch
    cond: slice
    uncond: slice
    image_tokens: int | None = None
    steps: int | None = None
    grid: tuple[int, int] | None = None
    frames: int = 1

    @classmethod
    def at(cls, sigma: float, *, step: int | None = None, image_tokens: int | None = None) -> Call:
        """A call outside a pipeline's sampling: all rows are conditional, at a noise level that the caller chooses.

        Args:
            sigma: noise level, 0..1 for flow matching.
            step: the step, if the call still belongs to one.
            image_tokens: see above.

        Example:
            >>> Call.at(0.5).branch
            'cond'
        """
        return cls(step, 1000.0 * sigma, sigma, "cond", slice(None), NOTHING, image_tokens)

    @property
    def own_tokens(self) -> int | None:
        """How many image tokens are the picture's own, which come first; None: not known."""
        return None if self.grid is None else self.frames * self.grid[0] * self.grid[1]

    def alone(self) -> Call:
        """The same call, as it is when only its conditional rows are run."""
        return replace(self, branch="cond", cond=slice(None), uncond=NOTHING)

    def rows(self, which: Literal["all", "cond", "uncond"]) -> slice:
        """The rows that `which` asks for."""
        return {"all": slice(None), "cond": self.cond, "uncond": self.uncond}[which]
