"""Cards that objects show in a notebook: facts, thumbnails and small drawings, as HTML.

A card is plain HTML with its pictures and SVG inside: it has no script and loads nothing. Words and lines have the
colour of the page's own text, so a card is readable in a dark theme too.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from dg_tools.palette import MASSIVE, POINT, QUIET, SERIES

SIDE = 72  # pixels of a thumbnail's longer side
CELL = "border:0;background:none;padding:1px 10px 1px 0;text-align:left;vertical-align:middle"
SMALL = "font-size:11px;opacity:.75"


def card(title: str, facts: Mapping[str, Any] | None = None, *parts: str) -> str:
    """A card: a title, facts by name, and parts that are HTML already.

    Example:
        >>> "144 &lt; 145" in card("DiT", {"width": "144 < 145"})
        True
    """
    rows = "".join(
        f'<tr style="background:none"><td style="{CELL};opacity:.7">{escape(name)}</td>'
        f'<td style="{CELL}">{escape(str(value))}</td></tr>'
        for name, value in (facts or {}).items()
        if value not in (None, "")
    )
    table = f'<table style="border:0;margin:4px 0">{rows}</table>' if rows else ""
    inside = "".join(f'<div style="margin:4px 0">{part}</div>' for part in parts if part)
    style = f"border-left:3px solid {QUIET};padding:2px 0 2px 10px;max-width:820px;overflow-x:auto"
    return (
        f'<div class="dg-card" style="{style}"><div style="font-weight:600">{escape(title)}</div>{table}{inside}</div>'
    )


def thumbnail(picture: Any, alt: str = "", side: int = SIDE) -> str:
    """A picture in the page, at most `side` pixels along its longer side (twice that in the file, for sharp screens).

    Args:
        picture: PIL, or an array (H, W, 3) of bytes.
        alt: what it shows, for readers who cannot see it.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture, np.uint8))
    scale = side / max(image.size)
    width, height = (max(1, round(n * scale)) for n in image.size)
    small = image.convert("RGB")
    small.thumbnail((2 * side, 2 * side))
    into = io.BytesIO()
    small.save(into, format="png")
    code = base64.b64encode(into.getvalue()).decode()
    sharp = ";image-rendering:pixelated" if max(image.size) < side else ""
    return (
        f'<img alt="{escape(alt, quote=True)}" title="{escape(alt, quote=True)}" width="{width}" height="{height}" '
        f'style="display:inline-block;margin:1px;max-width:none{sharp}" src="data:image/png;base64,{code}">'
    )


def picture_table(cells: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]) -> str:
    """A table of cells that are HTML already, with a head for each row and column; empty heads are left out."""
    head = ""
    if any(columns):
        corner = f'<th style="{CELL}"></th>' if any(rows) else ""
        names = "".join(f'<th scope="col" style="{CELL};{SMALL};max-width:110px">{escape(c)}</th>' for c in columns)
        head = f'<tr style="background:none">{corner}{names}</tr>'
    body = ""
    for name, line in zip(rows, cells, strict=True):
        side = f'<th scope="row" style="{CELL};{SMALL};max-width:140px">{escape(name)}</th>' if any(rows) else ""
        inside = "".join(f'<td style="{CELL}">{cell}</td>' for cell in line)
        body += f'<tr style="background:none">{side}{inside}</tr>'
    return f'<table style="border:0;margin:4px 0">{head}{body}</table>'


def svg(width: float, height: float, inside: str, words: str) -> str:
    """A drawing in the colour of the page's text; `words` say what it shows."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    style = "max-width:100%;font:10px sans-serif;overflow:visible"
    about = f'role="img" aria-label="{escape(words, quote=True)}"'
    return f'<svg {about} {size} style="{style}" fill="currentColor">{inside}</svg>'


def curves(
    series: Mapping[str, Sequence[float]], ticks: Sequence[str], *, unit: str, axis: str, log: bool = True
) -> str:
    """Curves over named places, each with its name at its end; NaN is a gap.

    Args:
        series: by name, one value for each tick; a series named `other` is drawn in grey.
        ticks: names of the places.
        unit, axis: what the values and the places are.
        log: a logarithmic axis.
    """
    width, height, left, top, bottom = 420, 150, 44, 18, 30
    wide, high = width - left - 110, height - top - bottom
    every = np.array([list(v) for v in series.values()], float)
    every = np.where(every > 0, every, np.nan) if log else every
    if not np.isfinite(every).any():
        return ""
    seen = np.log10(every) if log else every
    low, most = float(np.nanmin(seen)), float(np.nanmax(seen))
    span = (most - low) or 1.0
    across = lambda i: left + wide * i / max(1, len(ticks) - 1)  # noqa: E731
    up = lambda y: top + high * (1 - (y - low) / span)  # noqa: E731
    parts = [f'<text x="0" y="10">{escape(unit)}</text>']
    for y in (low, most):
        value = 10**y if log else y
        parts.append(f'<text x="{left - 6}" y="{up(y) + 3:.1f}" text-anchor="end">{value:.2g}</text>')
        parts.append(f'<path d="M{left} {up(y):.1f}h{wide}" stroke="currentColor" opacity=".15"/>')
    step = max(1, math.ceil(len(ticks) / 8))
    for i in range(0, len(ticks), step):
        parts.append(f'<text x="{across(i):.1f}" y="{height - 16}" text-anchor="middle">{escape(ticks[i])}</text>')
    parts.append(f'<text x="{left + wide / 2}" y="{height - 3}" text-anchor="middle">{escape(axis)}</text>')
    ends: list[tuple[float, str, str]] = []
    loud = iter(SERIES * (1 + len(series) // len(SERIES)))
    for name, line in zip(series, seen, strict=True):
        colour = QUIET if name.startswith(("median", "other")) else next(loud)
        places = [(across(i), up(y)) for i, y in enumerate(line) if np.isfinite(y)]
        if not places:
            continue
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="{colour}"/>' for x, y in places]
        ends.append((places[-1][1], name, colour))
    for y, name, colour in apart(ends, 11):
        parts.append(f'<text x="{left + wide + 8}" y="{y + 3:.1f}" fill="{colour}">{escape(name)}</text>')
    return svg(width, height, "".join(parts), f"{unit} by {axis}: {', '.join(series)}")


def apart(labels: list[tuple[float, str, str]], gap: float) -> list[tuple[float, str, str]]:
    """Labels (y, name, colour) moved down until none stands on another."""
    placed: list[tuple[float, str, str]] = []
    for y, name, colour in sorted(labels):
        placed.append((max(y, placed[-1][0] + gap) if placed else y, name, colour))
    return placed


def whisker(estimate: float, low: float, high: float, bound: float, null: Sequence[float]) -> str:
    """An estimate with its interval; controls as grey ticks, the bound dashed, zero as a thin line."""
    width, height = 190, 20
    values = [v for v in (estimate, low, high, bound, 0.0, *null) if math.isfinite(v)]
    least, span = min(values), (max(values) - min(values)) or 1.0
    at = lambda v: 4 + (width - 8) * (v - least) / span  # noqa: E731
    parts = [f'<path d="M{at(0):.1f} 2v16" stroke="currentColor" opacity=".3"/>']
    parts.append(f'<path d="M{at(bound):.1f} 2v16" stroke="currentColor" stroke-dasharray="2 2"/>')
    parts += [f'<path d="M{at(v):.1f} 14v4" stroke="{QUIET}"/>' for v in null if math.isfinite(v)]
    if all(map(math.isfinite, (estimate, low, high))):
        parts.append(f'<path d="M{at(low):.1f} 9H{at(high):.1f}" stroke="{MASSIVE}" stroke-width="2"/>')
        parts.append(f'<circle cx="{at(estimate):.1f}" cy="9" r="3.5" fill="{MASSIVE}"/>')
    return svg(width, height, "".join(parts), f"{estimate:.3g} ({low:.3g} to {high:.3g}), bound {bound:g}")


def block_strip(lists: Mapping[str, int], marked: Sequence[int] = ()) -> str:
    """The blocks of a model in execution order, a box each, list by list; marked ones are filled."""
    total = sum(lists.values())
    step = min(18.0, 640 / max(1, total))
    parts, at = [], 0
    for name, count in lists.items():
        for i in range(at, at + count):
            fill = MASSIVE if i in marked else "none"
            parts.append(
                f'<rect x="{i * step + 1:.1f}" y="2" width="{step - 3:.1f}" height="16" fill="{fill}" '
                f'stroke="{MASSIVE if i in marked else QUIET}"><title>block {i}</title></rect>'
            )
        parts.append(f'<text x="{at * step + 1:.1f}" y="30">{escape(name)} {at} to {at + count - 1}</text>')
        at += count
    words = f"{total} blocks" + (f"; marked: {', '.join(map(str, marked))}" if marked else "")
    return svg(total * step + 2, 34, "".join(parts), words)


def window_bars(windows: Mapping[str, tuple[float, float]]) -> str:
    """Parts of a run, as bars from its first step (noise) to its last (picture)."""
    left, wide, line = 130, 240, 16
    parts = []
    for i, (name, (start, stop)) in enumerate(windows.items()):
        y = 4 + i * line
        parts.append(f'<text x="0" y="{y + 9}">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y + 1}" width="{wide}" height="9" fill="{QUIET}" opacity=".25"/>')
        parts.append(
            f'<rect x="{left + wide * start:.1f}" y="{y + 1}" width="{wide * (stop - start):.1f}" height="9" '
            f'fill="{MASSIVE if i else POINT}"/>'
        )
        parts.append(f'<text x="{left + wide + 8}" y="{y + 9}">{start:g} to {stop:g}</text>')
    height = 4 + len(windows) * line + 14
    parts.append(f'<text x="{left}" y="{height - 4}">first step: noise</text>')
    parts.append(f'<text x="{left + wide}" y="{height - 4}" text-anchor="end">last step: picture</text>')
    words = ", ".join(f"{name} {start:g} to {stop:g}" for name, (start, stop) in windows.items())
    return svg(left + wide + 70, height, "".join(parts), words)
