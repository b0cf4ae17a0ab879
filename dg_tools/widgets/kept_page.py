"""A page without a kernel: one file that opens from the file system and loads nothing.

    explorer.to_html("apple.html")

The numbers are in the file and every view is drawn from them, so that sliders, clicks and keys work as in the explorer.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dg_tools.widgets import front
from dg_tools.widgets.chart import Curves
from dg_tools.widgets.picture_changes import TIMES, PictureChanges, difference_png
from dg_tools.widgets.png import picture_png

SCRIPTS = (
    "scales.js", "chart.js", "map.js", "spikes.js", "picture.js", "cells.js", "code.js", "kept_lookup.js",
    "kept_sweep_lookup.js", "kept_sweep.js", "kept.js",
)  # fmt: skip
ALLOWED = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{allowed}">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main class="dg-kept dg-explorer">
<h1>{title}</h1>
<p class="dg-about">{about}</p>
</main>
<script type="application/json" id="dg-data">{data}</script>
<script type="module">
{scripts}
openKept();
</script>
</body>
</html>
"""


def page(title: str, about: str, data: Mapping[str, Any]) -> str:
    """The file: `data` has a `capture`, a `sweep`, or `pictures`."""
    return PAGE.format(
        allowed=ALLOWED,
        title=html.escape(title),
        about=html.escape(about),
        style=f"{front.text('page.css')}\n{front.STYLE}",
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        scripts="\n".join(map(front.text, SCRIPTS)),
    )


def write_page(path: str | Path, text: str) -> Path:
    """Write a page; the path.

    Raises:
        ValueError: a path that does not end in .html, or is a folder.
        FileNotFoundError: the folder is not there.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".html", ".htm") or path.is_dir():
        raise ValueError(f"{path} cannot be a page: pass a file name that ends in .html")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent} does not exist: make the folder first, or pass another path")
    path.write_text(text, encoding="utf-8")
    return path


def halves(values: Any) -> str:
    """Numbers as base64 of bfloat16: all of float32's range, to within 0.4 %."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nan = np.isnan(values)
    rounded = np.where(nan, bits, bits + 0x7FFF + ((bits >> 16) & 1))
    return base64.b64encode((rounded >> 16).astype("<u2").tobytes()).decode()


def png_address(png: bytes) -> str:
    """A PNG, or a JPEG, as an address that needs no file."""
    kind = "jpeg" if png.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(png).decode()}" if png else ""


def curves_data(curves: Curves) -> dict[str, Any]:
    """Curves as JSON."""
    data = curves.front()
    series = [{**line, "values": base64.b64encode(line["values"]).decode()} for line in data["series"]]
    return {**data, "series": series, "x": None if data["x"] is None else base64.b64encode(data["x"]).decode()}


def pictures_data(
    images: Mapping[str, Any],
    left: str,
    right: str,
    changes: PictureChanges,
    rows: Sequence[Sequence[str]],
    code: str,
) -> dict[str, Any]:
    """Pictures by name, two of them under one edge, what changed, their numbers and the code that makes them."""
    pictures = {name: png_address(picture_png(image)) for name, image in images.items()}
    (first, reference), *others = changes.arrays.items()
    differences = {
        f"{name} - {first}, x{TIMES} (grey: no change)": png_address(difference_png(array, reference))
        for name, array in others
    }
    edge = {"title": "Before and after (drag the edge)", "pictures": pictures, "left": left, "right": right}
    return {
        "edge": {**edge, "pixelated": reference.shape[1] < 256},
        "shown": {**pictures, **differences},
        "rows": [list(row) for row in rows],
        "curves": [curves_data(changes.curves)],
        "code": code,
    }
