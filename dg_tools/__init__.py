"""Study massive activations in diffusion transformers, and sample with Detail Guidance (arXiv 2510.11538)."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from dg_tools._lazy import on_first_use

_HOME = {
    "load": "models._load",
    "capture": "activations",
    "capture_image": "activations",
    "open_activations": "activations",
    "find_massive": "massive",
    "Disrupt": "interventions",
    "CFG": "guidance.cfg",
    "DetailGuidance": "guidance.detail",
    "DetailKnob": "guidance.knob",
    "detail_guidance": "guidance.classic",
    "generate": "generation._generate",
    "denoise_error": "experiments",
    "dose": "experiments",
    "references": "datasets.references",
    "compare": "generation._compare",
    "sweep": "sweeps",
    "features": "activations",
}

__all__ = [
    "CFG",
    "DetailGuidance",
    "DetailKnob",
    "Disrupt",
    "capture",
    "capture_image",
    "denoise_error",
    "detail_guidance",
    "dose",
    "find_massive",
]
__all__ += ["compare", "features", "generate", "load", "open_activations", "references", "sweep"]

if TYPE_CHECKING:
    from dg_tools.activations import capture, capture_image, open_activations
    from dg_tools.activations._features import features
    from dg_tools.datasets.references import references
    from dg_tools.experiments import denoise_error, dose
    from dg_tools.generation._compare import compare
    from dg_tools.generation._generate import generate
    from dg_tools.guidance.cfg import CFG
    from dg_tools.guidance.classic import detail_guidance
    from dg_tools.guidance.detail import DetailGuidance
    from dg_tools.guidance.knob import DetailKnob
    from dg_tools.interventions import Disrupt
    from dg_tools.massive import find_massive
    from dg_tools.models._load import load
    from dg_tools.sweeps import sweep


_MODULES = {"baselines": "guidance.baselines"}  # as dg.plots, on first use
_MODULES |= {name: name for name in ("experiments", "families", "metrics", "plots", "report", "sweeps", "widgets")}
_public = on_first_use(__name__, _HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("dg-tools")
    if name in _MODULES:
        return importlib.import_module(f"dg_tools.{_MODULES[name]}")
    return _public(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, "__version__"})
