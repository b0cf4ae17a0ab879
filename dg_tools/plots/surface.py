"""Hidden states as a surface that a browser can turn, made small enough for it without losing a spike."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dg_tools.plots.explorers import positive_floor
from dg_tools.plots.style import POINT, several

MOST = (128, 320)  # cells of a surface that a browser still turns smoothly: tokens, channels


def cuts(size: int, most: int) -> np.ndarray:
    """Where `size` neighbours are cut into at most `most` parts: the first of each part."""
    return np.unique(np.linspace(0, size, min(size, most), endpoint=False).astype(int))


def pooled(size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix made small enough to turn in a browser by taking maxima over neighbours, so that no spike is lost.

    Returns:
        The matrix, and the first row and first column that each of its cells covers.
    """
    rows, columns = (cuts(n, most) for n, most in zip(size.shape, MOST, strict=True))
    return np.maximum.reduceat(np.maximum.reduceat(size, rows, axis=0), columns, axis=1), rows, columns


def spike(size: np.ndarray, row: int, column: int) -> tuple[int, int]:
    """Row and column of the largest value in the surface's cell at (row, column)."""
    parts = []
    for n, most, at in zip(size.shape, MOST, (row, column), strict=True):
        firsts = cuts(n, most)
        i = int(np.searchsorted(firsts, at, side="right")) - 1
        parts.append(slice(firsts[i], firsts[i + 1] if i + 1 < len(firsts) else n))
    cell = size[parts[0], parts[1]]
    y, x = np.unravel_index(int(cell.argmax()), cell.shape)
    return int(parts[0].start + y), int(parts[1].start + x)


def surface(
    hidden: np.ndarray,
    massive: Sequence[int] = (),
    *,
    channels: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    at: tuple[int, int] | None = None,
    log: bool = False,
    title: str = "",
) -> Any:
    """|activation| over token x channel as a plotly figure to turn; massive channels as lines with their numbers.

    Args:
        hidden: (tokens, channels).
        massive: channel numbers to label, those that are among `channels`.
        channels, tokens: numbers of the columns and rows; 0, 1, ... where None.
        at: (token, channel) to mark with a blue point.
        log: logarithmic height.
        title: over it.
    """
    go = graph_objects()
    size = np.abs(np.asarray(hidden, np.float32))
    columns = np.arange(size.shape[1]) if channels is None else np.asarray(channels)
    rows = np.arange(size.shape[0]) if tokens is None else np.asarray(tokens)
    if log:
        size = np.maximum(size, positive_floor(size))
    small, row_cuts, column_cuts = pooled(size)
    figure = go.Figure(
        go.Surface(
            z=small,
            x=columns[column_cuts],
            y=rows[row_cuts],
            showscale=False,
            name="",
            colorscale="Blues",
            surfacecolor=np.log10(np.maximum(small, positive_floor(small))),
            hovertemplate="channel %{x}<br>token %{y}<br>|x| %{z:.3g}<extra></extra>",
        )
    )
    place = {int(c): i for i, c in enumerate(columns)}
    shades = dict(zip(massive, several(len(massive)), strict=False))
    for channel in [c for c in massive if c in place]:
        line = size[:, place[channel]]
        figure.add_scatter3d(
            x=np.full(len(rows), channel),
            y=rows,
            z=line,
            mode="lines+text",
            name=f"channel {channel}",
            line={"color": shades[channel], "width": 6},
            text=[str(channel)] + [""] * (len(rows) - 1),
            textposition="top center",
            textfont={"color": shades[channel]},
            hovertemplate="channel %{x}<br>token %{y}<br>|x| %{z:.3g}<extra></extra>",
        )
    if at is not None:
        token, channel = at
        height = size[list(rows).index(token), place[channel]] if token in rows and channel in place else None
        figure.add_scatter3d(
            x=[channel], y=[token], z=[height], mode="markers", marker={"color": POINT, "size": 5}, name="looked at"
        )
    axes = {
        "xaxis_title": "channel",
        "yaxis_title": "token",
        "zaxis": {"title": "|activation|", "type": "log" if log else "linear"},
        "camera": {"eye": {"x": -1.4, "y": -1.7, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.2}},  # room for ticks
        "aspectmode": "cube",
    }
    figure.update_layout(
        title={"text": title, "font": {"size": 12}},
        scene=axes,
        width=460,
        height=380,
        showlegend=False,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        uirevision="kept",
        paper_bgcolor="white",
        template="plotly_white",
    )
    return figure


def graph_objects() -> Any:
    """Plotly's figures.

    Raises:
        ImportError: plotly is not installed, with the line that installs it.
    """
    try:
        return importlib.import_module("plotly.graph_objects")
    except ModuleNotFoundError as error:
        raise ImportError(f"a figure that turns needs {error.name}: pip install 'dg-tools[lab]'") from error
