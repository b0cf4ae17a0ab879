"""The demo's figure: a strip of pictures over the dose with its curve, and guidances beside each other, zoomed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, QUIET, finish, headline, styled, wrap

READABLE = 2.0  # a larger dose breaks the picture, and would set the scale of the curve
TIMES = 5  # a difference is drawn five times as large, around grey


@styled
def overview(
    strips: Mapping[str, Mapping[float, np.ndarray]],
    curve: pd.DataFrame,
    compared: Mapping[str, Mapping[str, np.ndarray]],
    captions: Mapping[str, str],
    *,
    against: Mapping[str, str],
    title: str = "",
    width: float = 10.0,
) -> Figure:
    """Above, pictures and detail over rho; below, guidances from the same noise: picture, middle enlarged, difference.

    Args:
        strips: by row, the picture at each rho, (H, W, 3) in 0..1. The first row is of the massive channels.
        curve: columns who (`massive`, or a control's name), rho, amount, low, high: means with 95% intervals, in
            doublings at equal contrast against the clean picture.
        compared: by prompt, the picture of each guidance.
        captions: of the guidances, in words; in the order of the columns.
        against: guidance -> the guidance whose picture is subtracted from its own; no difference for the others.
        title: of the figure; empty: what the least and the largest readable dose do to detail.
        width: in inches; text is legible when the figure is shown at 880 pixels.
    """
    rhos = sorted(next(iter(strips.values())))
    rows = 3 * len(compared)
    cell = width / max(len(rhos), len(captions))
    heights = [cell * len(strips) + 0.35, 2.0, cell * rows + 0.95]
    figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.01)
    parts: Any = figure.subfigures(3, 1, height_ratios=heights)
    draw_strips(parts[0], strips, rhos)
    draw_curve(parts[1], curve, rhos)
    draw_compared(parts[2], compared, captions, against)
    headline(figure, title or found(curve), size=11)
    return finish(figure)


def found(curve: pd.DataFrame) -> str:
    """What the least and the largest readable dose do to detail, in one sentence."""
    mean = curve[(curve["who"] == "massive") & (curve["rho"] <= READABLE)].sort_values("rho")
    ends = [f"{row['amount']:+.2f} at {row['rho']:g} times" for _, row in mean.iloc[[0, -1]].iterrows()]
    return f"Detail by the size of the massive channels: {ends[0]} and {ends[1]} (doublings)"


def draw_strips(part: Any, strips: Mapping[str, Mapping[float, np.ndarray]], rhos: Sequence[float]) -> None:
    """One row per kind of channels; the clean picture is marked."""
    axes = part.subplots(len(strips), len(rhos), squeeze=False)
    for row, (name, pictures) in zip(axes, strips.items(), strict=True):
        for axis, rho in zip(row, rhos, strict=True):
            axis.set(xticks=[], yticks=[], frame_on=rho == 1)
            if rho in pictures:
                axis.imshow(pictures[rho], interpolation="nearest")
            for side in axis.spines.values():
                side.set(color=MASSIVE, linewidth=2)
            if row is axes[0]:
                words = f"rho {rho:g}" + ("\nclean" if rho == 1 else "\nzeroed" if rho == 0 else "")
                axis.set_title(words, fontsize=10, color=MASSIVE if rho == 1 else INK)
        row[0].set_ylabel(name, fontsize=10, color=INK)


def draw_curve(part: Any, curve: pd.DataFrame, rhos: Sequence[float]) -> None:
    """Detail over rho, with intervals; controls in grey."""
    axis = part.subplots()
    place = {rho: i for i, rho in enumerate(rhos)}
    names = [name for name in dict.fromkeys(curve["who"]) if name != "massive"]
    for name in names:
        rows = curve[curve["who"] == name].sort_values("rho")
        axis.plot([place[r] for r in rows["rho"]], rows["amount"], "o-", color=QUIET, ms=4, lw=1.2)
    rows = curve[curve["who"] == "massive"].sort_values("rho")
    middle = rows["amount"].to_numpy()
    error = np.stack([middle - rows["low"], rows["high"] - middle])
    axis.errorbar([place[r] for r in rows["rho"]], middle, error, fmt="o-", color=MASSIVE, ms=6, lw=2, capsize=3)
    seen = curve[curve["rho"] <= READABLE]
    pad = 0.15 * float(seen["high"].max() - seen["low"].min()) + 0.05
    bottom, top = seen["low"].min() - pad, seen["high"].max() + pad
    axis.set_ylim(bottom, top)
    for rho, value in zip(rows["rho"], middle, strict=True):
        if not bottom < value < top:
            axis.text(place[rho], top - 0.3 * pad, f"{value:+.1f}", va="top", ha="center", fontsize=10, color=MASSIVE)
    axis.axhline(0, color=INK, lw=0.6)
    axis.axvline(place[1.0], color=MASSIVE, lw=0.8, ls=":")
    axis.set(xlim=(-0.5, len(rhos) - 0.5))
    axis.set_xticks(range(len(rhos)), [f"{rho:g}" for rho in rhos], fontsize=10)
    axis.tick_params(axis="y", labelsize=9)
    axis.set_ylabel("detail at equal contrast,\ndoublings", fontsize=10, color=INK)
    words = {"fontsize": 9, "xycoords": "axes fraction", "va": "bottom"}
    axis.annotate("massive channels times rho (95%)", (0.01, 0.13), color=MASSIVE, **words)
    if names:
        axis.annotate("other channels that move the velocity as much", (0.01, 0.02), color=QUIET, **words)


def draw_compared(
    part: Any, compared: Mapping[str, Mapping[str, np.ndarray]], captions: Mapping[str, str], against: Mapping[str, str]
) -> None:
    """Three rows per prompt: the picture, its middle half enlarged, and five times its difference."""
    axes = part.subplots(3 * len(compared), len(captions), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for i, (prompt, pictures) in enumerate(compared.items()):
        rows = axes[3 * i : 3 * i + 3]
        for column, name in enumerate(captions):
            if name not in pictures:
                continue
            picture = pictures[name]
            rows[0][column].imshow(picture, interpolation="nearest")
            rows[1][column].imshow(middle_of(picture), interpolation="nearest")
            if name in against:
                difference = picture - pictures[against[name]]
                rows[2][column].imshow((0.5 + TIMES * difference).clip(0, 1), interpolation="nearest")
        for axis, words in zip(rows[:, 0], (wrap(prompt, 16), "enlarged", f"difference\nx {TIMES}"), strict=True):
            axis.set_ylabel(words, fontsize=9, color=INK)
    for axis, words in zip(axes[0], captions.values(), strict=True):
        axis.set_title(words, fontsize=9, color=INK)


def middle_of(picture: np.ndarray) -> np.ndarray:
    """The middle half of a picture in both directions."""
    height, width = picture.shape[:2]
    return picture[height // 4 : height - height // 4, width // 4 : width - width // 4]
