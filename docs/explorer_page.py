"""The explorer in the pages: one capture of the embedded model, made when the pages are built, and what draws it.

`docs/explore.md` names the two files that are written here, `_static/explorer.js` and `_static/explorer.css`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PROMPT, STEPS = "red apple", 8
SCRIPTS = ("scales.js", "chart.js", "map.js", "spikes.js", "picture.js", "kept_lookup.js", "kept.js")
# The site's theme is light, dark, or the system's; its own button changes it.
OPENING = """
const system = matchMedia("(prefers-color-scheme: dark)");
const follow = () => {
  const chosen = document.body.dataset.theme;
  const dark = chosen === "dark" || (chosen !== "light" && system.matches);
  document.documentElement.dataset.dgTheme = dark ? "dark" : "light";
};
system.addEventListener("change", follow);
new MutationObserver(follow).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
follow();
keptCapturePage(DATA, document.getElementById("explorer"));
"""


def captured() -> dict[str, Any]:
    """A capture with a picture and all hidden states of the image at each step, as a kept page takes it."""
    import dg_tools as dg
    from dg_tools.widgets.kept_capture import capture_data

    explorer = dg.widgets.ActivationExplorer(dg.load(), steps=STEPS)
    explorer.run_fields.text.value = PROMPT
    explorer.run()
    assert explorer.activations is not None
    return capture_data(explorer.activations, explorer.state, list(explorer.massive))


def written(app: Sphinx, error: Exception | None) -> None:
    """Write both files."""
    if error is not None or app.builder.name != "html":
        return
    from dg_tools.widgets import front

    scripts = "\n".join(map(front.text, SCRIPTS))
    data = json.dumps(captured(), allow_nan=False)
    folder = Path(app.outdir) / "_static"
    (folder / "explorer.js").write_text(f"(() => {{\n{scripts}\nconst DATA = {data};\n{OPENING}}})();\n", "utf-8")
    (folder / "explorer.css").write_text(f"{front.STYLE}\n{front.text('column.css')}", "utf-8")
