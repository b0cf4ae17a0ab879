"""dg_tools: massive activations in diffusion transformers, and Detail Guidance made from them (arXiv 2510.11538)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "load": "models",
    "capture": "activations",
    "capture_image": "activations",
    "open_activations": "activations",
    "find_massive": "massive",
    "Disrupt": "interventions",
    "CFG": "guidance",
    "DetailGuidance": "guidance",
    "detail_guidance": "classic",
    "generate": "generation",
    "denoise_error": "experiments",
    "references": "emoji",
    "compare": "comparison",
    "sweep": "sweeps",
    "features": "correspondence",
}

__all__ = [
    "CFG",
    "DetailGuidance",
    "Disrupt",
    "capture",
    "capture_image",
    "denoise_error",
    "detail_guidance",
    "find_massive",
]
__all__ += ["compare", "features", "generate", "load", "open_activations", "references", "sweep"]

if TYPE_CHECKING:
    from dg_tools.activations import capture, capture_image, open_activations
    from dg_tools.classic import detail_guidance
    from dg_tools.comparison import compare
    from dg_tools.correspondence import features
    from dg_tools.emoji import references
    from dg_tools.experiments import denoise_error
    from dg_tools.generation import generate
    from dg_tools.guidance import CFG, DetailGuidance
    from dg_tools.interventions import Disrupt
    from dg_tools.massive import find_massive
    from dg_tools.models import load
    from dg_tools.sweeps import sweep


_MODULES = ("baselines", "experiments", "metrics", "plots", "sweeps", "widgets")  # as dg.plots, on first use


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"dg_tools.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"dg_tools.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dg_tools' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
