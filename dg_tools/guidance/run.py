"""The runs inside a guidance: the log of each while it goes, and its report afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dg_tools.cards import card
from dg_tools.families import BlockList
from dg_tools.forward.call import Call
from dg_tools.guidance.report import Log, Plan, Report, log_of
from dg_tools.interventions import Disrupt
from dg_tools.interventions.report import squares
from dg_tools.kinds import counted


class Run:
    """The reports of the runs inside `dg.detail_guidance`, which yields it; the last one is `report`.

    Attributes:
        reports: one for every run that ended, or that another run followed.
    """

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._log: Log | None = None
        self._number = -1

    def __repr__(self) -> str:
        count = len(self.reports) + (self._log is not None)
        if not count:
            return "Run(no guided call of the pipeline yet)"
        return f"Run({counted(count, 'guided call')} of the pipeline; the last one: {self.report})"

    def _repr_html_(self) -> str:
        report = self.report
        return card(repr(self)) if report is None else report._repr_html_()

    @property
    def report(self) -> Report | None:
        """The report on the last run, finished or not; None before the first."""
        if self._log is not None:
            return self._log.report(finished=False)
        return self.reports[-1] if self.reports else None

    def begin(self, guider: Plan, number: int, steps: int) -> None:
        """Open the log of run `number` at its first call or step, after checking the guider's window."""
        if number == self._number:
            return
        self.interrupt()
        self._number = number
        guider.check_window(steps)
        self._log = log_of(guider, steps)

    def add(self, step: int, cond: Tensor, degraded: Tensor, push: Tensor | None = None, sigma: float = 0.0) -> None:
        """One guided call, as in `Log`."""
        if self._log is not None:
            self._log.add(step, cond, degraded, push, sigma)

    def acted(self, step: int, prediction: Tensor) -> None:
        """One guided call, as in `Log`."""
        if self._log is not None:
            self._log.acted(step, prediction)

    def note(self, sentence: str) -> None:
        """A sentence of this run's report, once."""
        if self._log is not None and sentence and sentence not in self._log.notes:
            self._log.notes.append(sentence)

    def disrupted(self, call: Call, sums: Tensor) -> None:
        """One disrupted block output, as in `Log`."""
        if self._log is not None:
            self._log.disrupted(call, sums)

    def check(self, step: int) -> None:
        """Check, before the scheduler's step, that this step was guided as planned."""
        if self._log is not None:
            self._log.check(step)

    def advance(self, step: int, steps: int) -> None:
        """After the scheduler's step: the last one ends the run."""
        if self._log is not None and step + 1 == self._log.steps:
            log, self._log = self._log, None
            self.reports.append(log.report())
            log.finish()

    def interrupt(self) -> None:
        """A run that did not come to its end is reported as it is."""
        if self._log is not None:
            self.reports.append(self._log.report(finished=False))
            self._log = None


def disrupting(disrupt: Disrupt, record: BlockList, call: Call, log: Log | Run | None) -> Callable[[Any], Any]:
    """The disruption of a block's output, as the block returns it; the log is told how far it goes."""

    def edit(output: Any) -> Any:
        result = disrupt.must_edit(output, record, call)
        after, before = (record.get(x, disrupt.stream, call.image_tokens) for x in (result, output))
        if log is not None and after is not None and before is not None:
            log.disrupted(call, squares(after, before))
        return result

    return edit
