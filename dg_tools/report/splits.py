"""Which pictures are used for what? Drawn once by seed, and no name is used twice.

Channels are detected on one part, the block is chosen on the second, and every experiment measures on the third or on
held-out pairs, which the model never saw: on trained pairs fine detail is recalled, only on held-out ones invented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the sizes are read without torch
    from dg_tools.datasets.references import Reference, References

SEED = 4


@dataclass(frozen=True)
class Sizes:
    """Pictures in each part."""

    detection: int = 12
    development: int = 16
    test: int = 48
    held_out: int = 32


FULL, QUICK, TOY = Sizes(), Sizes(4, 8, 16, 12), Sizes(2, 2, 4, 4)


def split(references: References, sizes: Sizes, seed: int = SEED) -> dict[str, list[Reference]]:
    """Parts by name; trained pairs, except in `held_out`. A name that is in one part is in no other, in either style.

    Raises:
        ValueError: fewer names than the parts need, with how many there are.
    """
    parts: dict[str, list[Reference]] = {}
    used: set[str] = set()
    # held-out pairs first: there are few of them
    for part in ("held_out", "detection", "development", "test"):
        held_out, count = part == "held_out", getattr(sizes, part)
        candidates = references.sample(len(references.pairs(held_out)), seed=seed, held_out=held_out)
        pictures: list[Reference] = []
        for reference in candidates:
            if reference.name not in used and len(pictures) < count:
                pictures.append(reference)
                used.add(reference.name)
        if len(pictures) < count:
            raise ValueError(
                f"{count} names requested for the part {part!r}; {len(pictures)} are left of the "
                f"{len(references.names)} in {references!r}"
            )
        parts[part] = pictures
    return parts
