"""Which claims hold on one model? The rules, set beforehand; measurements; verdicts; the files that are kept; the page.

`measure(dit, items, out=...)` makes a report on any model; `forecast` says beforehand what that costs.

`rules` holds the bounds. `channels` and `samples` measure, `channel_rows` and `sample_rows` judge (arrays in, rows
out), `verdict` is one row, `cells` writes it. `column` does one model that has references, and `kept` reads it: the
evidence is made of these. A model without references has `subjects` (which prompts), `stages` (what is done is kept),
`own_channels`, `own_weak`, `own_samples`, `own_runs`, `own_dose` and `own_rows`; `contents` makes the sections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use

_HOME = {"measure": "_measure", "forecast": "plan", "Forecast": "plan", "Report": "sections"}

__all__ = ["Forecast", "Report", "forecast", "measure"]

if TYPE_CHECKING:
    from dg_tools.report._measure import measure
    from dg_tools.report.plan import Forecast, forecast
    from dg_tools.report.sections import Report

__getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
