"""The picture that the residual stream holds after each block, one row per lens."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.style import finish, styled


@styled
def lens_figure(
    rows: dict[str, np.ndarray], sites: Sequence[str], changes: Sequence[float] | None = None, title: str = ""
) -> Figure:
    """Pictures by block, one row per lens.

    Args:
        rows: name -> (blocks, H, W, 3) in [0, 1].
        sites: the blocks' names.
        changes: relative change of x0 at each block, written under the last row.
    """
    figure, axes = plt.subplots(
        len(rows),
        len(sites),
        figsize=(0.85 * len(sites) + 1, 1.05 * len(rows) + 0.7),
        squeeze=False,
        layout="constrained",
    )
    for i, (name, pictures) in enumerate(rows.items()):
        for b, axis in enumerate(axes[i]):
            axis.imshow(pictures[b].clip(0, 1), interpolation="nearest")
            axis.set(xticks=[], yticks=[], frame_on=False)
            if i == 0:
                axis.set_title(sites[b], fontsize=7)
            if changes is not None and i == len(rows) - 1:
                axis.set_xlabel(f"{changes[b]:.0%}", fontsize=7)
        axes[i, 0].set_ylabel(name, fontsize=7)
    title = title or "What picture the output layer reads after each block"
    figure.suptitle(title + ("" if changes is None else " (below: change of x0)"), fontsize=9)
    return finish(figure)
