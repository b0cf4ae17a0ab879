"""Detail Guidance, classifier-free guidance and the baselines, and how each acts in a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use

_HOME = {"CFG": "cfg", "DetailGuidance": "detail", "DetailKnob": "knob"}  # on first use

__all__ = ["CFG", "DetailGuidance", "DetailKnob"]

if TYPE_CHECKING:
    from dg_tools.guidance.cfg import CFG
    from dg_tools.guidance.detail import DetailGuidance
    from dg_tools.guidance.knob import DetailKnob

__getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
