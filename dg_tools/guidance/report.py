"""The report on a guidance in a run: which steps were guided, and by how much.

A guidance that acts in no step looks like a guidance that does not help. So every guided run has a report. A planned
step that was left out is an error at that step, and so is a push that is zero in every step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from dg_tools.cards import card, curves
from dg_tools.forward.call import Call
from dg_tools.interventions import Disrupt
from dg_tools.interventions.report import read
from dg_tools.kinds import some

logger = logging.getLogger("dg_tools")

NIL = 1e-6  # of the norm of c: less than float32 keeps of a sum
LISTED = 8  # steps named in a sentence


class Plan(Protocol):
    """The part of a guidance that a report uses: what it plans for its steps."""

    weight: float

    @property
    def own_edit(self) -> Disrupt | None:
        """The edit that acts in CFG's own passes."""

    @property
    def pushes(self) -> bool:
        """Whether it should change more than CFG does."""

    def acts(self, step: int, steps: int) -> bool:
        """Whether it should act in a step."""

    def check_window(self, steps: int) -> None:
        """Raise ValueError where no step of `steps` has the degraded pass that the weight needs."""


@dataclass(frozen=True)
class Report:
    """What a guidance did in one run.

    Attributes:
        steps: how many steps ran.
        planned: the steps in which the guidance should act.
        guided: the steps in which it acted.
        push: by guided step, ||w (c - d)|| / ||c|| over all rows of the step (with `match`, of the part that guides).
            Without a degraded prediction (APG, CFG-Zero*), and if the unconditional rows are disrupted, it is ||D - c||
            / ||c||, with D the result: that includes CFG's own push. For `Gain`, d is the prediction times the gain,
            and the push is d - c, over CFG's rows too. Empty if one pass gives D alone.
        change: by guided step, ||d - c|| / ||c||: how far the weak model is from the model; without a weak model, u
            replaces d. Empty if `push` is.
        at_block: by guided step, ||edited - output|| / ||output|| of the disrupted block's output; None for a step in
            which no block's output is edited (baselines).
        finished: False where the run was interrupted.
        notes: further remarks, such as what the pipeline does with the guided prediction.
        gain: by guided step, g = <c, d> / <c, c> over all rows of the step: how much of c is in d.
        sigmas: by guided step, its noise level, 0..1 for flow matching. `sigmas` and `gain` are empty if `push` is.
        in_pass: whether a block's output was edited in CFG's own passes. Then only `at_block` says what the edit did,
            since no pass without it was run.

    Example:
        >>> print(Report(4, (0, 1, 2), (0, 1, 2), (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)))
        guided 3 of 3 steps (4 run), push 0.1, change 0.2
    """

    steps: int
    planned: tuple[int, ...] = ()
    guided: tuple[int, ...] = ()
    push: tuple[float, ...] = ()
    change: tuple[float, ...] = ()
    at_block: tuple[float | None, ...] = ()
    finished: bool = True
    notes: tuple[str, ...] = ()
    gain: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()
    in_pass: bool = False

    def own_gain(self, weight: float) -> tuple[tuple[float, float], ...]:
        """The gain that the guidance contained: ((sigma, 1 + w (1 - g)), ...), sigma increasing, each sigma once.

        Args:
            weight: its w.

        Example:
            >>> Report(2, gain=(0.8, 0.9), sigmas=(1.0, 0.5)).own_gain(0.5)
            ((0.5, 1.05), (1.0, 1.1))
        """
        return tuple(sorted({s: 1 + weight * (1 - g) for s, g in zip(self.sigmas, self.gain, strict=True)}.items()))

    @property
    def mean_push(self) -> float:
        """Mean of `push`; 0 where no step was guided."""
        return sum(self.push) / len(self.push) if self.push else 0.0

    @property
    def mean_change(self) -> float:
        """Mean of `change`; 0 where no step was guided."""
        return sum(self.change) / len(self.change) if self.change else 0.0

    @property
    def mean_at_block(self) -> float:
        """Mean of `at_block` over the steps in which a block's output was edited; 0 where there is none."""
        edited = [share for share in self.at_block if share is not None]
        return sum(edited) / len(edited) if edited else 0.0

    @property
    def nil(self) -> tuple[int, ...]:
        """The guided steps that changed nothing: c - d is under 1e-6 of c, or the block's output is unchanged.

        A small w does not count as nothing: the disruption is judged. The block's output is checked because c and d may
        be computed in batches of different sizes, whose rounding differs by more than 1e-6 in half precision.
        """
        blocks = self.at_block or (None,) * len(self.guided)
        sizes = [max(pair) for pair in zip(self.push, self.change, strict=True)] or [NIL] * len(self.guided)
        steps = zip(self.guided, sizes, blocks, strict=True)
        return tuple(step for step, size, block in steps if size < NIL or block == 0)

    def __repr__(self) -> str:
        return f"Report({self})"

    def _repr_html_(self) -> str:
        shown = {"push": self.push, "change": self.change}
        drawing = curves(shown, [str(step) for step in self.guided], unit="share of ||c||", axis="step")
        return card(f"What the guidance did: {self}", None, drawing if self.push else "")

    def __str__(self) -> str:
        words = f"guided {len(self.guided)} of {len(self.planned)} steps"
        if len(self.planned) < self.steps:
            words += f" ({self.steps} run)"
        if self.push:
            words += f", push {self.mean_push:.3g}, change {self.mean_change:.3g}"
        if self.guided and self.in_pass:
            words += f", the edited block's output changed by {self.mean_at_block:.3g}"
        if not self.finished:
            words += ", interrupted"
        return "; ".join([words, *self.notes])

    def summary(self) -> dict[str, Any]:
        """The counts and means as plain JSON, which a picture's recipe carries."""
        counts = {"steps": self.steps, "planned": len(self.planned), "guided": len(self.guided)}
        known = bool(self.push) or not self.guided
        done = {name: getattr(self, f"mean_{name}") if known else None for name in ("push", "change")}
        if self.in_pass:
            done["at_block"] = self.mean_at_block
        return {**counts, **done, "finished": self.finished}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with the means."""
        return {**asdict(self), "mean_push": self.mean_push, "mean_change": self.mean_change}


@dataclass
class Log:
    """The log of a run, step by step; norms stay on the device until `report`.

    Attributes:
        steps: how many steps run.
        planned: steps in which the guidance should act.
        weight: w, the factor of the push c - d; with 0 no push is expected.
        in_pass: whether a block's output is edited in CFG's own passes.
    """

    steps: int
    planned: Sequence[int]
    weight: float
    in_pass: bool = False
    guided: dict[int, torch.Tensor] = field(default_factory=dict)  # step -> ||push||^2, ||c||^2, ||d - c||^2, <c, d>
    sigmas: dict[int, float] = field(default_factory=dict)  # step -> noise level
    blocks: dict[int, torch.Tensor] = field(default_factory=dict)  # step -> those of the disrupted block's output
    alone: dict[int, torch.Tensor] = field(default_factory=dict)  # step -> whether all its predictions are finite
    notes: list[str] = field(default_factory=list)

    def disrupted(self, call: Call, sums: torch.Tensor) -> None:
        """One disrupted block output: ||edited - output||^2 and ||output||^2."""
        step = call.step
        if step is None:
            return
        self.blocks[step] = self.blocks[step] + sums if step in self.blocks else sums

    def add(self, step: int, cond: Tensor, degraded: Tensor, push: Tensor | None = None, sigma: float = 0.0) -> None:
        """One guided call.

        Args:
            step: which.
            cond, degraded: the predictions c and d, of one shape.
            push: the term added to the prediction; None: w (c - d).
            sigma: the step's noise level.
        """
        difference = (degraded.detach() - cond.detach()).float()
        added = self.weight * difference if push is None else push.detach().float()
        own = cond.detach().float()
        sums = torch.stack([x.square().sum() for x in (added, own, difference)] + [(own * degraded.detach()).sum()])
        self.guided[step] = self.guided[step] + sums if step in self.guided else sums
        self.sigmas[step] = sigma

    def acted(self, step: int, prediction: torch.Tensor) -> None:
        """One guided call of which nothing but its own prediction is known."""
        finite = prediction.detach().isfinite().all()
        self.alone[step] = self.alone[step] & finite if step in self.alone else finite

    def check(self, step: int) -> None:
        """Raise RuntimeError at a step that was planned, is over, and was not guided."""
        if step in self.planned and step not in self.guided and step not in self.alone:
            raise RuntimeError(
                f"step {step} of {self.steps} should have been guided and was not: none of the transformer's "
                "calls in it is recognised as the conditional pass"
            )

    def report(self, finished: bool = True) -> Report:
        """The numbers, read from the device at once."""
        steps = sorted({*self.guided, *self.alone})
        known = [s for s in steps if s in self.guided]
        sums = torch.stack([self.guided[s] for s in known]).tolist() if known else []
        table = [[x**0.5 for x in row[:3]] for row in sums]
        edited = [self.blocks[s] for s in steps if s in self.blocks]
        shares = iter([change / max(own, 1e-30) for change, own in read(edited)])
        ratios = [(push / max(cond, 1e-30), change / max(cond, 1e-30)) for push, cond, change in table]
        return Report(
            self.steps,
            tuple(self.planned),
            tuple(steps),
            tuple(push for push, _ in ratios),
            tuple(change for _, change in ratios),
            tuple(next(shares) if s in self.blocks else None for s in steps),
            finished,
            tuple(self.notes),
            tuple(dot / max(own, 1e-30) for _, own, _, dot in sums),
            tuple(self.sigmas[s] for s in known),
            self.in_pass,
        )

    def finish(self) -> Report:
        """The report of a run that came to its end.

        Raises:
            RuntimeError: the push is zero in every planned step, or a degraded prediction is not finite.
        """
        report = self.report()
        known = [s for s in report.guided if s in self.guided]
        broken = [s for s, change in zip(known, report.change, strict=True) if not change < float("inf")]
        broken += [s for s, finite in self.alone.items() if not finite]
        if broken:
            which = "prediction" if self.in_pass or self.alone else "degraded prediction"
            raise RuntimeError(
                f"the {which} is not finite in {named(broken)}: the hidden states overflow this dtype; take a smaller "
                "dose, or float32 or bfloat16"
            )
        if self.weight and report.planned and report.nil == report.guided:
            raise RuntimeError(
                "the guidance changed nothing: in every planned step the degraded prediction d is c, to "
                "within 1e-6 of c, or the disrupted block returns the same with and without it; take another "
                "block, channels or dose"
            )
        if self.weight and report.nil:
            logger.warning("the guidance changed nothing in %s", named(report.nil))
        return report


def log_of(guider: Plan, steps: int) -> Log:
    """The empty log of a run of `steps` steps."""
    planned = [i for i in range(steps) if guider.acts(i, steps)]
    return Log(steps, planned, guider.weight or float(guider.pushes), guider.own_edit is not None)


def named(steps: Sequence[int]) -> str:
    """Steps in words: `steps 3, 4, 9`, not more than eight of them."""
    return f"step{'' if len(steps) == 1 else 's'} {some(steps, LISTED)}"
