"""Figures of a report as SVG text: the same figure gives the same bytes, and the text loads nothing."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Drawing
from PIL import Image

from dg_tools.palette import INK, MASSIVE, QUIET, READABLE, SERIES
from dg_tools.plots.report import PAPER, WIDTH
from dg_tools.report.parts import Figure, jsonable

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.image_inline": True,
}  # text stays text: it can be searched and read aloud
DPI = 160  # of what is drawn as pixels in an SVG
POINTS = 72 * WIDTH  # a column's width
SMALL = 256  # pixels: a picture up to this side is kept without loss
THEME = {INK: "var(--ink)", MASSIVE: "var(--massive)", QUIET: "var(--quiet)", PAPER: "var(--paper)"}
THEME |= {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES[1:], 2)}
THEME |= {READABLE[c]: f"var(--words-{i})" for i, c in enumerate(SERIES, 1) if c in READABLE}


def drawn(
    name: str, title: str, draw: Callable[..., Drawing], numbers: Mapping[str, Any], words: str = "", **arrays: Any
) -> Figure:
    """A figure of a report, drawn from the numbers that the report keeps.

    Args:
        name, title, words: of the figure.
        draw: such as `dg_tools.plots.report.gates_figure`.
        numbers: its arguments, kept in report.json.
        **arrays: arguments that are too large to keep as numbers, such as a picture.

    Example:
        >>> drawn("headroom", "Headroom in float16 by block.", headroom_figure, numbers)  # doctest: +SKIP
    """
    plain = jsonable(numbers, f"numbers of figure {name!r}")
    return Figure(name, title, svg_text(draw(**plain, **arrays), name), plain, words)


def svg_text(figure: Drawing, name: str) -> str:
    """A matplotlib figure as SVG text without date; its ids begin with `name`, so that pages hold several."""
    file = io.StringIO()
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid=")', rf"\1{name}-", text)
    return re.sub(r'(url\(#|href="#)', rf"\1{name}-", text)


def themed(svg: str) -> str:
    """The SVG text with a page's colours instead of the figure's own."""
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    return svg


def strip(
    name: str, title: str, pictures: Sequence[Any], titles: Sequence[str], notes: Sequence[str] = (), words: str = ""
) -> Figure:
    """Pictures in rows of four, each with its title above it and perhaps a note under it.

    Args:
        name, title, words: of the figure.
        pictures: (H, W, 3) uint8 arrays or PIL, of one size.
        titles, notes: one per picture.

    Raises:
        ValueError: no picture; not as many titles or notes as pictures.
    """
    if not pictures or len(titles) != len(pictures) or len(notes) not in (0, len(pictures)):
        raise ValueError(f"figure {name!r}: {len(pictures)} pictures, {len(titles)} titles, {len(notes)} notes")
    images = [p if isinstance(p, Image.Image) else Image.fromarray(np.asarray(p)) for p in pictures]
    across, gap, line = min(4, len(images)), 8.0, 13.0
    side = (POINTS - 3 * gap) / 4
    high = side * images[0].height / images[0].width
    cell = line + high + (line if notes else 0) + gap
    down = -(-len(images) // across)
    parts = []
    for i, image in enumerate(images):
        x, y = (i % across) * (side + gap), (i // across) * cell
        sharp = ' style="image-rendering: pixelated"' if image.width < side else ""
        parts.append(f'<text x="{x:.1f}" y="{y + line - 4:.1f}">{escape(titles[i])}</text>')
        parts.append(
            f'<image x="{x:.1f}" y="{y + line:.1f}" width="{side:.1f}" height="{high:.1f}"{sharp} '
            f'xlink:href="{data_of(image)}"/>'
        )
        if notes:
            parts.append(
                f'<text class="note" x="{x:.1f}" y="{y + line + high + line - 2:.1f}">{escape(notes[i])}</text>'
            )
    size = POINTS, down * cell
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1" '
        f'width="{size[0]:.1f}pt" height="{size[1]:.1f}pt" viewBox="0 0 {size[0]:.1f} {size[1]:.1f}" '
        f'font-family="sans-serif" font-size="9" style="fill: {INK}">'
    )
    numbers = {"titles": list(titles), "notes": list(notes)}
    return Figure(name, title, "\n".join([head, *parts, "</svg>\n"]), numbers, words)


def bytes_of(picture: Any) -> np.ndarray:
    """A picture (3, H, W) in [-1, 1], a tensor, as (H, W, 3) uint8."""
    scaled: np.ndarray = ((picture.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return scaled.transpose(1, 2, 0)


def data_of(image: Image.Image) -> str:
    """A picture as a data address: PNG where it is small, else WebP."""
    file = io.BytesIO()
    kind = "png" if max(image.size) <= SMALL else "webp"
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": 90, "method": 4}
    image.convert("RGB").save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
