"""Explorers for JupyterLab: look before you compute.

    dg.widgets.ActivationExplorer(dit)          # or an Activations, or the folder of a saved one
    dg.widgets.InterventionExplorer(dit)
    dg.widgets.GuidanceExplorer(dit)
    dg.widgets.ComparisonExplorer("sweeps/emoji")   # or a Sweep

Thin views: the state is in traits, a pure `render` is behind each, so that all of it works without a browser. A slider
looks up what is computed; a button runs the model, in a thread that can be stopped.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dg_tools.widgets.activation import ActivationExplorer
    from dg_tools.widgets.comparison import ComparisonExplorer
    from dg_tools.widgets.guidance import GuidanceExplorer
    from dg_tools.widgets.intervention import InterventionExplorer

__all__ = ["ActivationExplorer", "ComparisonExplorer", "GuidanceExplorer", "InterventionExplorer"]


def __getattr__(name: str) -> Any:
    """Each on first use, so that one on a stored capture does not wait for what runs a model."""
    if name in __all__:
        module = importlib.import_module(f"dg_tools.widgets.{name.removesuffix('Explorer').lower()}")
        return getattr(module, name)
    raise AttributeError(f"module 'dg_tools.widgets' has no attribute {name!r}")
