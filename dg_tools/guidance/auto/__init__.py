"""`auto`: find a weak model that lacks detail, on the model's own pictures, or say that there is none.

`choose` does it all; `price` forecasts its cost. `scan` tries blocks and doses (rho) in one denoising step, without
references, and judges them by `metrics.WeakModelRule`. `samples` compares the two best settings by guided pictures at
two weights, against runs with the gain alone that Detail Guidance contains. `store` keeps the choice under the hash of
the weights, and the finished parts of an interrupted choice.
"""

from __future__ import annotations

from dg_tools.guidance.auto.choose import auto_profile
from dg_tools.guidance.auto.measure import measured_on
from dg_tools.guidance.auto.price import Forecast, forecast
from dg_tools.guidance.auto.scan import scan_blocks
from dg_tools.guidance.auto.store import cache_folder, default_profile, known_profile

__all__ = [
    "Forecast",
    "auto_profile",
    "cache_folder",
    "default_profile",
    "forecast",
    "known_profile",
    "measured_on",
    "scan_blocks",
]
