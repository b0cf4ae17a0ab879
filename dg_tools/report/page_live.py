"""The interactive figures of a report's page: one run at any place, and two pictures of the strip under one edge.

They are drawn by the script in the page from numbers in the page. Where no script runs, and on paper, the static
drawings alone are shown. The page's policy allows this one script, by its hash, and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape
from typing import Any

from dg_tools.report.kept_run import KeptRun
from dg_tools.report.parts import Figure, Section
from dg_tools.widgets import front

SCRIPTS = ("scales.js", "chart.js", "map.js", "picture.js", "kept_lookup.js", "kept.js", "report.js")
STRIP = "strip"  # the section whose pictures are compared, and its figure
RUN = "channels"  # the section in which the run stands
HINT = "Choose by a click or by arrow keys; the values are those of run.safetensors, within 0.4 % of what was measured."
EDGE = "Two of these pictures under one edge: drag it, or press arrow keys."


def slot(key: str, run: KeptRun | None) -> str:
    """The place of a section's interactive figure, hidden until the script fills it; empty: the section has none."""
    if key == RUN and run is not None:
        title = (
            f"One run of {run.about['prompt']!r} (seed {run.about['seed']}), at every block and {steps_of(run)}. {HINT}"
        )
        return framed("run", title)
    return framed("edge", EDGE) if key == STRIP else ""


def framed(name: str, title: str) -> str:
    """An empty figure with its title."""
    return f'<figure class="dg-kept" data-live="{name}" hidden>\n<figcaption>{escape(title)}</figcaption>\n</figure>'


def steps_of(run: KeptRun) -> str:
    """`8 of its steps`, `step 4`."""
    steps = run.about["steps"]
    return f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} of its steps"


def script() -> str:
    """The one script."""
    return "\n".join(["", *map(front.text, SCRIPTS), "openReport();", ""])


def policy() -> str:
    """What the page may load and run: nothing but pictures in it, its style and its one script."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def scripts(sections: Iterable[Section], run: KeptRun | None) -> str:
    """The numbers, and the script that draws them."""
    figure = next((f for s in sections if s.key == STRIP for f in s.figures if f.name == STRIP), None)
    data = {"run": None if run is None else run.page_data(), "edge": None if figure is None else edge(figure)}
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="dg-data">{text}</script>\n<script type="module">{script()}</script>'


def edge(figure: Figure) -> dict[str, Any] | None:
    """The strip's titles and notes; its pictures are read from the drawing. None: there are no two."""
    titles, notes = (list(figure.numbers.get(name, ())) for name in ("titles", "notes"))
    if len(titles) < 2:
        return None
    guided = titles.index("DG") if "DG" in titles else 1
    return {
        "figure": f"figure-{figure.name}",
        "titles": titles,
        "notes": notes,
        "left": titles[0],
        "right": titles[guided],
    }
