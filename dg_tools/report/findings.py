"""Everything that a report on one model found, as its sections take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dg_tools.experiments.result import Result
from dg_tools.models.dit import DiT
from dg_tools.report.channels import Found, Stream
from dg_tools.report.kept_run import KeptRun
from dg_tools.report.own_samples import OwnSamples
from dg_tools.report.own_weak import Chosen
from dg_tools.report.plan import Forecast
from dg_tools.report.subjects import Subjects
from dg_tools.report.verdict import Row


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        dit, given: the model, and its prompts.
        found: the massive channels, on the first part. stream: the statistics of the second.
        hidden: (tokens, channels) of one picture at the cell where a channel stands out most.
        headroom: rows of `Activations.headroom` in float16. run: the run that these are of, as the page shows it.
        dose: the curve; None where there is none, for the reason `why_no_dose`.
        chosen: the weak models. drawn: the samples.
        claims: all rows.
        expected: the forecast. costs: what was measured, by stage.
    """

    dit: DiT
    given: Subjects
    found: Found
    stream: Stream
    hidden: np.ndarray
    headroom: list[dict[str, Any]]
    run: KeptRun
    dose: Result | None
    why_no_dose: str
    chosen: Chosen
    drawn: OwnSamples
    claims: list[Row]
    expected: Forecast
    costs: Mapping[str, Mapping[str, float]]

    @property
    def strongest(self) -> tuple[float, int, int]:
        """Noise level, block and channel where a channel stands out most."""
        level, block, channel = self.found.strongest
        return self.stream.sigmas[level], block, channel
