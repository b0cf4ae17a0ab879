"""The settings of one edit: what, where, when, and for which rows. `Disrupt` adds the methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dg_tools.forward.call import Call
from dg_tools.forward.region import Region
from dg_tools.interventions.patching import Donor
from dg_tools.numbers import integer, integers, is_several, number

Mode = Literal[
    "zero", "mean", "dc", "scale", "steer", "rescale", "gate", "transport", "shift", "shift_direction", "random"
]
MODES: tuple[str, ...] = get_args(Mode)
Pictures = Literal["all", "own", "references"]
Schedule = float | Sequence[tuple[float, float]]  # a number, or ((sigma, value), ...)


def schedule(value: Any, name: str) -> float | tuple[tuple[float, float], ...]:
    """A number as it is; a schedule as (sigma, value) pairs in the order of sigma.

    Raises:
        TypeError: neither a number nor such pairs. ValueError: NaN, or an infinity.
    """
    if not is_several(value):
        return number(value, name)
    try:
        pairs = [(s, v) for s, v in value]
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r}; a number, or ((sigma, value), ...), is needed") from None
    return tuple(sorted((float(number(s, f"{name}: sigma")), float(number(v, name))) for s, v in pairs))


@dataclass(frozen=True, repr=False)
class EditSettings:
    """The fields of `Disrupt`, which describes each of them; sequences are kept as tuples, blocks in order."""

    channels: Sequence[int]
    block: Any  # an int or several; afterwards the first of `blocks`, an int
    mode: Mode = "zero"
    rho: Schedule = 0.0
    tokens: Sequence[int] | None = None
    steps: Sequence[int] | None = None
    rows: Literal["all", "cond", "uncond"] = "all"
    stream: Literal["image", "text"] = "image"
    draw: int = 0
    strength: Schedule = 1.0
    control: bool = False
    norms: Literal["own", "clean"] = "own"
    others: bool = False
    donor: Donor | None = None
    blocks: Sequence[int] = None  # type: ignore[assignment]
    grid: tuple[int, int] | None = None
    pictures: Pictures = "all"

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen)
        grid = self.tokens.grid if isinstance(self.tokens, Region) else self.grid
        put("grid", None if grid is None or self.tokens is None else (int(grid[0]), int(grid[1])))
        put("channels", integers(self.channels, "channels"))
        for name in ("tokens", "steps"):
            if getattr(self, name) is not None:
                put(name, integers(getattr(self, name), name))
        put("rho", schedule(self.rho, "rho"))
        put("strength", schedule(self.strength, "strength"))
        put("draw", integer(self.draw, "draw"))
        put("blocks", self._blocks())
        if self.blocks:
            put("block", self.blocks[0])

    def _blocks(self) -> tuple[int, ...]:
        """The blocks in execution order, from `block` and, in `dataclasses.replace`, the `blocks` of the original."""
        blocks = tuple(sorted(integers(self.block, "block")))
        if is_several(self.block) or self.blocks is None or len(self.blocks) == 1:
            return blocks
        block = blocks[0]
        ordered = tuple(sorted(integers(self.blocks, "blocks")))
        if ordered and ordered[0] != block:
            raise ValueError(f"block={block} and blocks={list(ordered)} disagree: pass block= as a sequence")
        return ordered

    @property
    def why_whole(self) -> str | None:
        """Why a disrupted pass cannot start from one block's clean output, in words; None where it can."""
        if len(self.blocks) > 1:
            return "the disruption acts at several blocks"
        if self.mode == "gate":
            return "the disruption acts inside its block"
        return "the disruption asks for LayerNorm statistics of a clean pass" if self.norms == "clean" else None

    def concerns(self, call: Call) -> bool:
        """Whether the edit acts in a call: one of its steps, with rows of its kind."""
        return acts_in(call, self.steps, self.rows)


def acts_in(call: Call, steps: Sequence[int] | None, rows: Literal["all", "cond", "uncond"]) -> bool:
    """Whether a call is one of these steps, with rows of this kind."""
    if steps is not None and call.step not in steps:
        return False
    there = call.rows(rows)
    return there.stop is None or there.stop > (there.start or 0)
