"""Write docs/models.md from docs/models/*.json, which `dg-tools verify MODEL --json` prints.

python -m tools.models_page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dg_tools.families import FAMILIES
from dg_tools.verification import Check

DOCS = Path(__file__).parents[1] / "docs"
FOLDER, PAGE = DOCS / "models", DOCS / "models.md"
OPENING = """# Verified models

`dg-tools verify MODEL` loads a checkpoint and checks five things on it: the family's record fits; a capture holds what
plain hooks find; w = 0 gives the plain call bit for bit; Detail Guidance equals a loop by hand; all of it is put
back. This page lists what was run, and nothing else. [How to add yours](../CONTRIBUTING.md).
"""
TESTED = "Each family is tested on a tiny model of its real class, with random weights."


def runs() -> list[dict[str, Any]]:
    """What was run, by family and name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")]
    return sorted(found, key=lambda run: (run["family"], run["model"]))


def state(run: dict[str, Any]) -> str:
    """How a run ended, in a few words."""
    failed = [check["name"] for check in run["checks"] if check["state"] == "failed"]
    return f"failed: {', '.join(failed)}" if failed else "ok"


def page() -> str:
    """The page, as Markdown."""
    known = runs()
    lines = [OPENING, "## Checkpoints", ""]
    lines += ["| checkpoint | family | state | precision, size | machine | date | dg_tools, torch, diffusers |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for run in known:
        versions = f"{run['dg_tools']}, {run['versions']['torch']}, {run['versions']['diffusers']}"
        size = f"{run['dtype']}, {run['height']} x {run['width']}"
        cells = (f"[{run['model']}](#{anchor(run)})", run["family"], state(run), size, run["machine"], run["date"])
        lines += [f"| {' | '.join(cells)} | {versions} |"]
    lines += [
        "",
        "## Families",
        "",
        "Each family is tested on a tiny model of its real class, with random weights.",
        "",
    ]
    lines += ["| family | transformer | checkpoints verified |", "|---|---|---|"]
    for family in FAMILIES:
        names = ", ".join(run["model"] for run in known if run["family"] == family.name)
        lines += [f"| {family.name} | `{family.transformer}` | {names or 'none'} |"]
    for run in known:
        words = f"{run['pipeline']}, weights {run['weights']}, {run['steps']} steps, {run['seconds']} seconds."
        lines += ["", f"## {run['model']}", "", words, ""]
        lines += [
            "| check | state | what should be so, or why it was not checked | what was found |",
            "|---|---|---|---|",
        ]
        for check in run["checks"]:
            lines += [f"| {check['name']} | {check['state']} | {check['words']} | {Check(**check).found} |"]
    return "\n".join([*lines, ""])


def anchor(run: dict[str, Any]) -> str:
    """The anchor of a run's own section."""
    return "".join(c for c in run["model"].lower().replace(" ", "-") if c.isalnum() or c in "-_")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
