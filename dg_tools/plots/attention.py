"""Where attention goes: by block to which tokens, and the map of a word over the picture."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import MASSIVE, POINT, QUIET, finish, label_ends, styled


@styled
def word_over_picture(field: Any, picture: Any, *, word: str = "") -> Figure:
    """A word's map: the picture, how much attention each place gives to the word, and both, laid over each other.

    Args:
        field: (rows, columns), one weight per image token.
        picture: (H, W, 3), 0..255 or 0..1.
        word: for the title.
    """
    field, picture = np.asarray(field, float), np.asarray(picture)
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.9), layout="constrained")
    extent = (0, picture.shape[1], picture.shape[0], 0)
    axes[0].imshow(picture, extent=extent)
    axes[2].imshow(picture.mean(-1), extent=extent, cmap="gray")
    shown = axes[1].imshow(field, extent=extent, cmap="viridis", interpolation="nearest")
    spread = field - field.min()
    axes[2].imshow(
        field, extent=extent, cmap="viridis", alpha=0.75 * spread / (spread.max() or 1.0), interpolation="bilinear"
    )
    figure.colorbar(shown, ax=axes[1], fraction=0.046, label="share of the place's attention")
    for axis, title in zip(axes, ("picture", f"attention to {word!r}", "over the picture"), strict=True):
        axis.set(xticks=[], yticks=[], frame_on=False)
        axis.set_title(title, fontsize=9)
    return finish(figure)


@styled
def attention_mass(result: Any, *, query: str = "image", k: int = 12) -> Figure:
    """From an `Attention`: by block, the share of a stream's attention that goes to image, text and pad tokens; and the
    key tokens that receive most, as a multiple of an equal share.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    shares(left, result.by_stream(), query)
    sinks(right, result.sinks(k, query=query), query)
    return finish(figure)


def shares(axis: Axes, table: Any, query: str) -> None:
    """Stacked shares by attention product, in execution order."""
    rows = table[table["query"] == query].sort_values(["block", "site"])
    words = (rows["text"] - rows["pad"].fillna(0)).to_numpy()
    bottom = np.zeros(len(rows))
    parts = (("image tokens", rows["image"].to_numpy(), POINT), ("text tokens", words, MASSIVE))
    ends: list[tuple[float, str, str]] = []
    for name, values, colour in (*parts, ("pad tokens", rows["pad"].fillna(0).to_numpy(), QUIET)):
        axis.bar(range(len(rows)), values, bottom=bottom, color=colour)
        if len(rows) and values.any():
            ends.append((float(bottom[-1] + values[-1] / 2), name, colour))
        bottom = bottom + values
    every = max(1, len(rows) // 12)
    axis.set_xticks(range(0, len(rows), every), rows["site"].tolist()[::every], fontsize=7)
    axis.set(xlabel="block", ylabel=f"share of {query} tokens' attention", ylim=(0, 1.02))
    label_ends(axis, ends)


def sinks(axis: Axes, table: Any, query: str) -> None:
    """The key tokens that receive most, as bars."""
    names = [
        f"{row.stream} {row.token}" + (f" {row.piece!r}" if row.piece else "") + (" (pad)" if row.pad else "")
        for row in table.itertuples()
    ]
    axis.barh(range(len(table)), table["times"], color=[QUIET if pad else POINT for pad in table["pad"]])
    axis.axvline(1, color=MASSIVE, lw=0.8, ls=":")
    axis.set_yticks(range(len(table)), names, fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="mass, in times an equal share (grey: pads)")
    axis.set_title(f"who receives most from {query} tokens", fontsize=9)
