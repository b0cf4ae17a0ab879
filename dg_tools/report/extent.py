"""How much does a report measure? The sizes, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dg_tools.report.rules import DRAWS


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        name: of the size.
        choice: prompts on which channels, block, dose and w are chosen; `auto` takes the first four.
        test: other prompts, on which everything that is reported is measured; fewer where there are not enough.
        draws: of the controls; 19 are the least for a verdict.
        control_prompts: test prompts on which the samples of the controls are drawn.
        steps: of a sample, at most; the pipeline's default where that is less.
        rhos: doses of the one-step curve. blocks: of it, spread evenly.
        seeds: of the noise, for the statistics of the channels.
    """

    name: str
    choice: int
    test: int
    draws: int
    control_prompts: int
    steps: int
    rhos: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0)
    blocks: int = 5
    seeds: int = 1


QUICK = Extent("quick", choice=4, test=6, draws=19, control_prompts=3, steps=16, seeds=2)
STANDARD = Extent(
    "standard", choice=8, test=16, draws=DRAWS, control_prompts=6, steps=28, blocks=10, seeds=2,
    rhos=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0),
)  # fmt: skip
FULL = Extent(
    "full", choice=8, test=24, draws=DRAWS, control_prompts=12, steps=50, blocks=60, seeds=2, rhos=STANDARD.rhos
)
TOY = Extent("toy", choice=4, test=4, draws=2, control_prompts=2, steps=2, rhos=(0.0, 1.0, 1.5), blocks=2)  # for tests
EXTENTS = {extent.name: extent for extent in (QUICK, STANDARD, FULL, TOY)}
SIZES = ("quick", "standard", "full")  # that are offered


def extent_of(size: str | Extent) -> Extent:
    """A size by its name.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> extent_of("quick").test
        6
    """
    if isinstance(size, Extent):
        return size
    if size not in EXTENTS:
        raise ValueError(f"size={size!r}; allowed: {', '.join(SIZES)}")
    return EXTENTS[size]
