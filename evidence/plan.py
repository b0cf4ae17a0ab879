"""Which experiments run, on which pictures, at which size? Four sizes: full, quick, seeds, and toy for the tests.

Sizes follow the time that they take; a margin or a number of controls is the experiment's own default, set before any
result. `denoise` takes all its pictures in one batch: its controls are matched on the first batch, and only those that
do the same harm on all pictures count.

`seeds` is for small models beside each other (`evidence.seeds`), some minutes each on one core: every claim, with all
control draws, since a verdict takes 19, on fewer pictures; no held-out parts, no dose and the shortest sweep of DG:
no claim rests on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evidence import splits

Size = Literal["full", "quick", "seeds", "toy"]
SIZES = {"full": splits.FULL, "quick": splits.QUICK, "seeds": splits.FULL, "toy": splits.TOY}
SUBJECT: dict[str, dict[str, int]] = {
    "full": {"seeds": 2, "steps": 20, "controls": 5},
    "quick": {"seeds": 1, "steps": 10, "controls": 3},
    "seeds": {"seeds": 2, "steps": 20, "controls": 5},
    "toy": {"seeds": 1, "steps": 2, "controls": 2},
}


@dataclass(frozen=True)
class Part:
    """One experiment on one part of the pictures.

    Attributes:
        name: of its folder.
        experiment: name in `dg_tools.experiments`.
        full, quick, toy, seeds: `pictures` (how many of the part), `seeds` (how many), and the experiment's own
            arguments; `dose: True` means the doses that this model has, `doses`. None: not run at that size.
        split: `test` (trained pairs) or `held_out`.
    """

    name: str
    experiment: str
    full: dict[str, Any]
    quick: dict[str, Any]
    toy: dict[str, Any]
    seeds: dict[str, Any] | None = None
    split: Literal["test", "held_out"] = "test"

    def settings(self, size: Size) -> dict[str, Any]:
        """Pictures, seeds and arguments at one size.

        Raises:
            KeyError: this part is not run at that size.
        """
        if (settings := getattr(self, size)) is None:
            raise KeyError(f"{self.name} is not run at size {size!r}")
        return dict(settings)


PLAN: tuple[Part, ...] = (
    Part(
        "tokens",
        "tokens",
        full={"pictures": 24, "seeds": 2, "steps": 20, "measured": 5},
        quick={"pictures": 6, "seeds": 2, "steps": 10, "measured": 3},
        toy={"pictures": 3, "seeds": 2, "steps": 3, "measured": 2},
        seeds={"pictures": 24, "seeds": 2, "steps": 20, "measured": 5},
    ),
    Part(
        "denoise",
        "denoise",
        full={"pictures": 24, "seeds": 1, "batch": 24, "dose": True},
        quick={"pictures": 8, "seeds": 1, "batch": 8, "sigmas": (0.3, 0.7)},
        toy={"pictures": 4, "seeds": 1, "sigmas": (0.5,), "controls": 2, "dose": True},
        seeds={"pictures": 16, "seeds": 1, "batch": 16, "sigmas": (0.3, 0.7)},
    ),
    Part(
        "denoise-held-out",
        "denoise",
        full={"pictures": 16, "seeds": 1, "batch": 16, "further": False},
        quick={"pictures": 8, "seeds": 1, "batch": 8, "sigmas": (0.3, 0.7), "further": False},
        toy={"pictures": 3, "seeds": 1, "sigmas": (0.5,), "controls": 2, "further": False},
        split="held_out",
    ),
    Part(
        "timestep",
        "timestep",
        full={"pictures": 24, "seeds": 2, "steps": 20, "measured": 5},
        quick={"pictures": 6, "seeds": 2, "steps": 10, "measured": 3},
        toy={"pictures": 3, "seeds": 2, "steps": 3, "measured": 2, "swaps": 1},
        seeds={"pictures": 24, "seeds": 2, "steps": 20, "measured": 5},
    ),
    Part(
        "origin",
        "origin",
        full={"pictures": 16, "seeds": 2, "steps": 20, "measured": 3},
        quick={"pictures": 4, "seeds": 2, "steps": 10, "measured": 2},
        toy={"pictures": 3, "seeds": 2, "steps": 3, "measured": 2},
        seeds={"pictures": 8, "seeds": 2, "steps": 20, "measured": 3},
    ),
    Part(
        "detail",
        "detail",
        full={"pictures": 16, "seeds": 1, "steps": 20},
        quick={"pictures": 8, "seeds": 1, "steps": 8, "scales": (3.0,), "controls": 5},
        toy={"pictures": 3, "seeds": 1, "steps": 2, "controls": 2},
        seeds={"pictures": 12, "seeds": 1, "steps": 20, "scales": (3.0,)},
    ),
    Part(
        "detail-held-out",
        "detail",
        full={"pictures": 12, "seeds": 1, "steps": 20, "scales": (3.0,), "local": False},
        quick={"pictures": 6, "seeds": 1, "steps": 8, "scales": (3.0,), "controls": 5, "local": False},
        toy={"pictures": 3, "seeds": 1, "steps": 2, "scales": (3.0,), "controls": 2, "local": False},
        split="held_out",
    ),
    Part(
        "guidance",
        "guidance",
        full={"pictures": 16, "seeds": 1, "steps": 20},
        quick={"pictures": 6, "seeds": 1, "steps": 8, "controls": 3},
        toy={"pictures": 4, "seeds": 1, "steps": 4, "controls": 1},
        seeds={"pictures": 12, "seeds": 1, "steps": 20, "scales": (0.25,), "windows": ((0.0, 0.5),)},
    ),
    Part(
        "guidance-held-out",
        "guidance",
        full={"pictures": 10, "seeds": 1, "steps": 20},
        quick={"pictures": 6, "seeds": 1, "steps": 8, "controls": 3},
        toy={"pictures": 4, "seeds": 1, "steps": 4, "controls": 1},
        split="held_out",
    ),
)


def doses(channels: int, layers: int) -> tuple[tuple[int, int], ...]:
    """(channels, layers) to zero: one, all massive, four times as many; one block, a third of the later ones, all but
    the last.
    """
    counts = sorted({1, channels, 4 * channels})
    depths = sorted({1, max(1, layers // 3), max(1, layers - 1)})
    return tuple((k, n) for k in counts for n in depths)


def run_at(size: Size) -> list[Part]:
    """The parts that are run at one size, in the plan's order."""
    return [part for part in PLAN if getattr(part, size) is not None]
