"""Which experiments run, on which pictures, at which size? Three sizes: full, quick, and toy for the tests.

Set before any result was looked at; a margin or a number of controls is the experiment's own default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evidence import splits

Size = Literal["full", "quick", "toy"]
SIZES = {"full": splits.FULL, "quick": splits.QUICK, "toy": splits.TOY}
SUBJECT: dict[str, dict[str, int]] = {
    "full": {"seeds": 2, "steps": 20, "controls": 8},
    "quick": {"seeds": 1, "steps": 10, "controls": 3},
    "toy": {"seeds": 1, "steps": 2, "controls": 2},
}


@dataclass(frozen=True)
class Part:
    """One experiment on one part of the pictures.

    Attributes:
        name: of its folder.
        experiment: name in `dg_tools.experiments`.
        full, quick, toy: `pictures` (how many of the part), `seeds` (how many), and the experiment's own arguments.
        split: `test` (trained pairs) or `held_out`.
    """

    name: str
    experiment: str
    full: dict[str, Any]
    quick: dict[str, Any]
    toy: dict[str, Any]
    split: Literal["test", "held_out"] = "test"

    def settings(self, size: Size) -> dict[str, Any]:
        """Pictures, seeds and arguments at one size."""
        return dict(getattr(self, size))


PLAN: tuple[Part, ...] = (
    Part(
        "tokens",
        "tokens",
        full={"pictures": 24, "seeds": 2, "steps": 20, "measured": 5},
        quick={"pictures": 6, "seeds": 2, "steps": 10, "measured": 3},
        toy={"pictures": 3, "seeds": 2, "steps": 3, "measured": 2},
    ),
)
