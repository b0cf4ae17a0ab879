"""The explorers' charts: one question each, the current point marked, and cells that can be clicked.

Made without pyplot, because explorers draw in threads. The first axes of a figure hold its grid: one cell per token,
channel, block or step.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure

from dg_tools.plots.pictures import grey_under
from dg_tools.plots.style import INK, MASSIVE, POINT, QUIET, name_lines, side_by_side, wrap

HUE = to_rgb(MASSIVE)  # of a size over a picture
SIGNS = 1024  # most tokens whose sign can be read


class Chart(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        into = io.BytesIO()
        self.savefig(into, format="png", dpi=100, facecolor="white")
        return into.getvalue()


def sheet(
    width: float, height: float, left: float = 0.15, bottom: float = 0.17, right: float = 0.97
) -> tuple[Figure, Any]:
    """A figure with one axes and fixed margins: a layout engine would cost more than the drawing."""
    figure = Chart(figsize=(width, height))
    return figure, figure.add_axes((left, bottom, right - left, 0.9 - bottom))


def token_field(
    values: np.ndarray,
    grid: tuple[int, int],
    picture: np.ndarray | None = None,
    *,
    title: str = "",
    label: str = "activation",
    opacity: float = 0.6,
    signed: bool = True,
) -> Figure:
    """One value per image token: over a picture in grey its size as one hue, with a minus where it is negative.

    Without a picture colours are symmetric around zero where `signed`.

    Args:
        values: (tokens,), token y * columns + x; NaN where there is none.
        grid: (rows, columns).
        picture: (H, W, 3).
        title: over it.
        label: of the colour bar.
        opacity: of the colours, 0 (picture only) to 1.
        signed: whether zero is the middle of the scale.
    """
    field = np.asarray(values, np.float32).reshape(grid)
    most = float(np.nanmax(np.abs(field))) if np.isfinite(field).any() else 1.0
    most = most or 1.0
    figure = Chart(figsize=(4.3, 3.7))
    axis = figure.add_axes((0.02, 0.03, 0.76, 0.83))
    extent = (0, grid[1], grid[0], 0)
    settings: dict[str, Any] = {"extent": extent, "interpolation": "nearest"}
    if picture is None:
        ends: dict[str, Any] = (
            {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if signed else {"cmap": "viridis", "vmin": np.nanmin(field)}
        )
        shown: Any = axis.imshow(field, aspect=1.0, **ends, **settings)
    else:
        settings["aspect"] = cell_aspect(picture, grid)
        grey_under(axis, picture, **settings)
        strength = np.nan_to_num(opacity * np.abs(field) / most)
        axis.imshow(field, cmap=ListedColormap([MASSIVE]), alpha=strength, **settings)
        shown = ScalarMappable(
            Normalize(0, most), LinearSegmentedColormap.from_list("clear", [(*HUE, 0), (*HUE, opacity)])
        )
        below = np.argwhere(field < 0)
        if 0 < len(below) < np.isfinite(field).sum() and field.size <= SIGNS:
            for y, x in below:
                axis.text(x + 0.5, y + 0.5, "\u2013", ha="center", va="center", fontsize=8, color=INK)
            label = f"|{label}| (\u2013: negative)"
        else:
            label = f"|{label}|" + (", all negative" if 0 < len(below) == np.isfinite(field).sum() else "")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(shown, cax=figure.add_axes((0.81, 0.1, 0.04, 0.7)))
    bar.ax.tick_params(labelsize=7, color=QUIET, labelcolor=INK)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=8, color=INK)
    axis.set_title(wrap(title, 60), fontsize=8, color=INK)
    return figure


def cell_aspect(picture: np.ndarray, grid: tuple[int, int]) -> float:
    """Height of a cell over its width, as the picture has it."""
    return (picture.shape[0] / grid[0]) / (picture.shape[1] / grid[1])


def profile(
    values: np.ndarray,
    at: int,
    *,
    marked: Sequence[int] = (),
    log: bool = False,
    title: str = "",
    xlabel: str = "channel",
    ylabel: str = "activation",
) -> Figure:
    """A value by channel (or token), the marked ones in red with their numbers, and the current one in blue.

    Args:
        values: (n,); in log scale their size is drawn.
        at: the current one.
        marked: which of them are massive.
        log: |value| on a logarithmic axis.
        title, xlabel, ylabel: words.
    """
    values = np.abs(np.asarray(values, np.float32)) if log else np.asarray(values, np.float32)
    figure, axis = sheet(5.2, 2.5)
    if not np.isfinite(values).any():
        axis.text(0.5, 0.5, "nothing here", transform=axis.transAxes, ha="center", color=QUIET)
        words(axis, title, xlabel, ylabel)
        return figure
    places = np.arange(len(values))
    axis.vlines(places, 0 if not log else positive_floor(values), values, color=QUIET, lw=max(0.6, 220 / len(values)))
    for i in marked:
        axis.vlines(i, 0 if not log else positive_floor(values), values[i], color=MASSIVE, lw=2.2)
        axis.annotate(
            str(i), (i, values[i]), fontsize=7, color=MASSIVE, ha="center", va="bottom" if values[i] >= 0 else "top"
        )
    axis.plot([at], [values[at]], "v", color=POINT, ms=6)
    axis.set_xlim(-0.5, len(values) - 0.5)
    if log:
        axis.set_yscale("log")
    else:
        axis.axhline(0, color=INK, lw=0.6)
    axis.margins(y=0.15)
    words(axis, title, xlabel, f"|{ylabel}|" if log else ylabel)
    return figure


def course(
    lines: dict[str, np.ndarray],
    at: int,
    *,
    ticks: Sequence[Any],
    log: bool = True,
    title: str = "",
    xlabel: str = "block",
    ylabel: str = "mean |x| over tokens",
) -> Figure:
    """Sizes by block or by step, with the current one marked; the first line is the current channel.

    Args:
        lines: name -> (n,).
        at: the current place.
        ticks: names of the places.
        log: logarithmic axis.
        title, xlabel, ylabel: words.
    """
    figure, axis = sheet(4.2, 2.5, right=0.76)
    places = np.arange(len(ticks))
    styles = [{"color": MASSIVE, "marker": "o"}, {"color": INK, "ls": "--"}, {"color": QUIET, "marker": "s"}]
    for (name, values), style in zip(lines.items(), styles, strict=False):
        axis.plot(places, values, ms=3, lw=1.2, label=name, **style)
    axis.axvline(at, color=POINT, lw=1.6)
    axis.plot([at], [next(iter(lines.values()))[at]], "v", color=POINT, ms=6)
    axis.set_xlim(-0.5, len(ticks) - 0.5)
    names = [str(tick) for tick in ticks]
    fit = max(2, min(12, side_by_side(names, 60)))
    shown = places[:: max(1, -(-len(places) // fit))]
    axis.set_xticks(shown, [names[i] for i in shown])
    if log and any((np.asarray(v) > 0).any() for v in lines.values()):
        axis.set_yscale("log")
    words(axis, title, xlabel, ylabel)
    name_lines(axis, size=7)
    return figure


def words(axis: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Title and axis names in one size; a title in its place and no minor ticks, which halves the time of drawing."""
    axis.set_title(title, fontsize=9, color=INK, y=1.02)
    axis.minorticks_off()
    axis.set_xlabel(xlabel, fontsize=8, color=INK)
    axis.set_ylabel(ylabel, fontsize=8, color=INK)
    axis.tick_params(labelsize=7, color=QUIET, labelcolor=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)


def positive_floor(values: np.ndarray) -> float:
    """Where a logarithmic axis begins."""
    above = values[np.isfinite(values) & (values > 0)]
    return float(above.min()) if len(above) else 1e-6


def difference(picture: np.ndarray, reference: np.ndarray, *, most: float, title: str = "") -> Figure:
    """Mean difference of the colours by pixel, around a true zero.

    Args:
        picture, reference: (H, W, 3) in 0..1.
        most: end of the colour scale, the same for pictures that are compared.
        title: over it.
    """
    figure = Chart(figsize=(3.2, 2.9))
    axis = figure.add_axes((0.02, 0.03, 0.76, 0.85))
    change = (picture - reference).mean(-1)
    image = axis.imshow(change, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, cax=figure.add_axes((0.81, 0.1, 0.04, 0.7)))
    bar.ax.tick_params(labelsize=7, color=QUIET, labelcolor=INK)
    bar.outline.set_visible(False)
    bar.set_label("change of brightness (of 0 to 1)", fontsize=7, color=INK)
    axis.set_title(title, fontsize=9, color=INK)
    return figure


def spectra(frequency: np.ndarray, powers: dict[str, np.ndarray], *, title: str = "") -> Figure:
    """Power by spatial frequency of several pictures.

    Args:
        frequency: (rings,) cycles per pixel.
        powers: name -> (rings,).
        title: over it.
    """
    figure, axis = sheet(4.6, 2.9, right=0.78)
    for (name, power), colour in zip(powers.items(), (INK, MASSIVE, QUIET, POINT), strict=False):
        axis.plot(frequency, power, label=name, color=colour, lw=1.4)
    axis.set_yscale("log")
    words(axis, title, "cycles per pixel (0.5: every other pixel)", "power")
    name_lines(axis, size=7)
    return figure
