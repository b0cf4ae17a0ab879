"""Each explorer in JupyterLab: it shows, a control moves it, a click changes what is shown, an error is read in it."""

from __future__ import annotations

import pytest
from conftest import Notebook

CELLS = [
    "import dg_tools as dg\ndit = dg.load()",
    "acts = dg.widgets.ActivationExplorer(dit, steps=4)\nacts",
    "edits = dg.widgets.InterventionExplorer(dit, steps=2)\nedits",
    "guided = dg.widgets.GuidanceExplorer(dit, steps=2)\nguided",
]


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    address, folder = lab
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    made = Notebook(page, address, folder / "explore.ipynb", CELLS)
    made.run(0)
    yield made
    page.close()


@pytest.fixture(autouse=True)
def clean(notebook):
    yield
    notebook.check()


def test_it(notebook):
    notebook.run(1)
    explorer = notebook.explorer("activation")
    explorer.get_by_role("button", name="Capture").click()
    notebook.until("not acts.runner.busy and acts.activations is not None")
    explorer.locator(".js-plotly-plot canvas").first.wait_for(timeout=60000)
    notebook.picture("try", explorer)
