"""Guidances side by side: the same noise along a row, what each costs above its column."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, finish, headline, styled, wrap


@styled
def comparison_grid(comparison: Any, *, metric: str | None = None, title: str = "", size: float = 1.5) -> Figure:
    """A column for each guidance, a row for each prompt and seed, references first where there are any.

    Args:
        comparison: a `dg_tools.generation._compare.Comparison`.
        metric: a column of its table, written under each picture; None: none.
        title: above the figure.
        size: of a picture, in inches.

    Raises:
        ValueError: no such column.
    """
    table, images = comparison.table, comparison.images
    if metric is not None and metric not in table:
        raise ValueError(f"no metric {metric!r}; there are {', '.join(table.columns[2:])}")
    names = list(dict.fromkeys(table["guidance"]))
    rows, first = len(images) // len(names), int(comparison.references is not None)
    columns = len(names) + first
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns + 0.8, (size + 0.25) * rows + 0.7), squeeze=False, layout="constrained"
    )
    costs = table.groupby("guidance", sort=False)[["block_calls", "seconds"]].mean()
    for row in range(rows):
        about = table.iloc[row * len(names)]
        if first:
            picture = comparison.references[row * len(comparison.references) // rows]
            draw(axes[row, 0], (np.asarray(picture).transpose(1, 2, 0) + 1) / 2)
        for i, name in enumerate(names):
            axis, at = axes[row, first + i], row * len(names) + i
            draw(axis, images[at])
            if metric is not None:
                axis.set_xlabel(f"{table.iloc[at][metric]:.3g}", fontsize=7, color=INK, labelpad=2)
            if row == 0:
                cost = costs.loc[name]
                said = f"{cost['block_calls']:.0f} block calls, {cost['seconds']:.2g} s"
                axis.set_title(f"{wrap(name)}\n{said}", fontsize=7, color=INK)
        axes[row, 0].set_ylabel(wrap(f"{about['prompt']}, seed {about['seed']}"), fontsize=7, color=INK)
    if first:
        axes[0, 0].set_title("reference", fontsize=7, color=INK)
    title = title or "What each guidance makes of the same noise, row by row"
    headline(figure, title + (f" (below: {metric})" if metric else ""))
    return finish(figure)


def draw(axis: Any, picture: Any) -> None:
    """A picture without ticks; its labels stay."""
    shown = np.clip(picture, 0, 1) if isinstance(picture, np.ndarray) else picture
    axis.imshow(shown, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set_visible(False)
