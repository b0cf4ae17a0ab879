"""`auto`: a weak model that lacks detail, found on the model's own pictures, or the sentence that there is none.

`choose` does it all; `price` says what it costs first. `scan` tries blocks and doses (rho) by one denoising step,
without any reference, and judges them by `metrics.WeakModelRule`; `samples` compares the two best ones by guided
pictures, over two weights, beside the gain that Detail Guidance contains in a run of its own. `store` keeps what was
chosen by the hash of the weights, and what is done of a choice that was interrupted.
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
