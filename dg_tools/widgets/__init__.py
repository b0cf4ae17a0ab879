"""Explorers of captures, edits, guidance and stored sweeps: controls and clicks, in JupyterLab or on their own page.

    dg.widgets.ActivationExplorer(dit)          # or an Activations, or the folder of a saved one
    dg.widgets.InterventionExplorer(dit)
    dg.widgets.GuidanceExplorer(dit)
    dg.widgets.ComparisonExplorer("sweeps/emoji")   # or a Sweep

Maps, charts and surfaces are drawn in the browser: a slider looks up results, and its answer is there within 100 ms. A
button runs the model, in a thread that can be stopped; what other settings made is dimmed until it is run.
`explorer.to_html("page.html")` writes what is shown as one file that needs no kernel, `explorer.save("view.svg")` its
figures, and `dg-tools explore` opens the explorers without JupyterLab.

The state of an explorer is in traits, and `render` returns its figures, so all of it works without a browser. Each
explorer has two files: `guidance.py` holds its behaviour, `guidance_page.py` its controls and their layout. `front/`
holds what runs in the browser.
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
