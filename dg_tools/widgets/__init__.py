"""Explorers for JupyterLab: captures, edits, guidance and stored sweeps, by controls and clicks.

    dg.widgets.ActivationExplorer(dit)          # or an Activations, or the folder of a saved one
    dg.widgets.InterventionExplorer(dit)
    dg.widgets.GuidanceExplorer(dit)
    dg.widgets.ComparisonExplorer("sweeps/emoji")   # or a Sweep

The state of an explorer is in traits, and `render` draws it, so all of it works without a browser. A slider looks up
results; a button runs the model, in a thread that can be stopped. Each explorer is two files: `guidance.py` is what it
does, `guidance_page.py` its controls and how they stand on the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use

if TYPE_CHECKING:
    from dg_tools.widgets.activation import ActivationExplorer
    from dg_tools.widgets.comparison import ComparisonExplorer
    from dg_tools.widgets.guidance import GuidanceExplorer
    from dg_tools.widgets.intervention import InterventionExplorer

__all__ = ["ActivationExplorer", "ComparisonExplorer", "GuidanceExplorer", "InterventionExplorer"]

# on first use: an explorer of a stored capture does not wait for the packages that run a model
__getattr__ = on_first_use(__name__, {name: name.removesuffix("Explorer").lower() for name in __all__})
