"""The prompts of a report: one part to choose on, another to measure on; no prompt is in both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from dg_tools.datasets.examples import Example, Items, examples, pictures_of
from dg_tools.datasets.prompts import general_prompts
from dg_tools.datasets.references import references
from dg_tools.metrics.cell_bands import fineness
from dg_tools.models.dit import DiT
from dg_tools.report.extent import Extent
from dg_tools.report.splits import Sizes, split

LEAST_CHOICE, LEAST_TEST = 4, 2  # `auto` scans four prompts; an interval needs two
FIRST_SEED = {"choice": 900, "test": 500}  # of the noise: prompt i of a part starts from this seed + i


@dataclass(frozen=True)
class Subjects:
    """Prompts, perhaps with pictures.

    Attributes:
        choice, test: the two parts.
        height, width: of the pictures, in pixels.
        source: where they come from, in words.
    """

    choice: list[Example]
    test: list[Example]
    height: int
    width: int
    source: str

    @property
    def has_pictures(self) -> bool:
        """Whether pictures were given."""
        return self.test[0].picture is not None

    def part(self, name: str) -> list[Example]:
        """`choice` or `test`."""
        return self.choice if name == "choice" else self.test

    def about(self) -> dict[str, Any]:
        """Plain JSON: prompts, size, and a hash of the pictures."""
        pictures = None
        if self.has_pictures:
            everything = pictures_of([*self.choice, *self.test])
            pictures = hashlib.sha256(everything.numpy().tobytes()).hexdigest()[:16]
        prompts = {name: [x.prompt for x in self.part(name)] for name in ("choice", "test")}
        return {**prompts, "height": self.height, "width": self.width, "pictures": pictures}


def subjects(
    dit: DiT, items: Items | None, extent: Extent, height: int | None = None, width: int | None = None
) -> Subjects:
    """Both parts of the prompts.

    Args:
        dit: the model.
        items: prompts, (prompt, picture) pairs or `Example`s; None: an embedded model's references, else the general
            prompts that ship.
        extent: how many.
        height, width: in pixels; with pictures, their size. None: the pipeline's default.

    Raises:
        ValueError: fewer than six different prompts, or a size that the model cannot take.
    """
    source = "given"
    if items is None:
        items, source = own_items(dit, extent)
    known = examples(dit, items)
    if known and known[0].picture is not None:
        size = tuple(pictures_of(known).shape[-2:])
        if (height or size[0], width or size[1]) != size:
            raise ValueError(f"height={height}, width={width}: the pictures are {size[0]} x {size[1]}; leave both out")
        height, width = size
    height, width = dit.size(height, width)
    check_bands(dit, height, width)
    words = list(dict.fromkeys(x.prompt for x in known))
    if len(words) < LEAST_CHOICE + LEAST_TEST:
        raise ValueError(
            f"{len(words)} distinct prompt(s); at least {LEAST_CHOICE + LEAST_TEST} are needed: "
            f"{LEAST_CHOICE} on which channels, block and dose are chosen, and {LEAST_TEST} others on which "
            "they are tested"
        )
    count = max(LEAST_CHOICE, min(extent.choice, len(words) - extent.test, len(words) // 2))
    chosen = set(words[:count])
    choice = [next(x for x in known if x.prompt == prompt) for prompt in words[:count]]
    test = [x for x in known if x.prompt not in chosen][: extent.test]
    return Subjects(choice, test, height, width, source)


def check_bands(dit: DiT, height: int, width: int) -> None:
    """Raise for pictures that are too small for the bands in which detail is measured."""
    try:
        fineness(torch.zeros(1, 3, height, width), dit.vae_scale_factor)
    except ValueError as error:
        raise ValueError(
            f"height={height}, width={width}: too small to measure detail in ({str(error).split(':')[0]}); "
            "pass a larger size"
        ) from None


def own_items(dit: DiT, extent: Extent) -> tuple[Items, str]:
    """References of an embedded model, held-out ones to measure on; else the general prompts."""
    try:
        source = references(dit)
    except FileNotFoundError:
        return general_prompts(extent.choice + extent.test), "general prompts that ship with dg_tools"
    parts = split(source, Sizes(1, extent.choice, 1, extent.test))
    return [*parts["development"], *parts["held_out"]], "the model's references, held-out ones to measure on"


def chunks(count: int, batch: int) -> Iterator[slice]:
    """Parts of nearly equal size, at most `batch` each where that leaves two or more in each.

    Example:
        >>> [(c.start, c.stop) for c in chunks(9, 4)]
        [(0, 3), (3, 6), (6, 9)]
    """
    number = max(1, min(-(-count // max(2, batch)), count // 2))
    edges = [round(i * count / number) for i in range(number + 1)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)


def seeds_of(part: str, where: slice) -> Sequence[int]:
    """The seeds of the noise from which some prompts of a part are drawn."""
    return [FIRST_SEED[part] + i for i in range(where.start, where.stop)]
