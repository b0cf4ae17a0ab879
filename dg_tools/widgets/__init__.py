"""Explorers for JupyterLab: look before you compute.

    dg.widgets.ActivationExplorer(dit)          # or an Activations, or the folder of a saved one
    dg.widgets.InterventionExplorer(dit)
    dg.widgets.GuidanceExplorer(dit)
    dg.widgets.ComparisonExplorer("sweeps/emoji")   # or a Sweep

Thin views: the state is in traits, a pure `render` is behind each, so that all of it works without a browser. A slider
looks up what is computed; a button runs the model, in a thread that can be stopped.
"""

from dg_tools.widgets.activation import ActivationExplorer
from dg_tools.widgets.comparison import ComparisonExplorer
from dg_tools.widgets.guidance import GuidanceExplorer
from dg_tools.widgets.intervention import InterventionExplorer

__all__ = ["ActivationExplorer", "ComparisonExplorer", "GuidanceExplorer", "InterventionExplorer"]
