"""On which tokens are the channels massive? Over the picture, by block and stream; does the rule find the same ones?"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, QUIET, finish, from_tidy, headline, name_lines, styled


@styled
def tokens_figure(result: Any) -> Figure:
    """Five panels from a `tokens` result: the first run's picture, one massive channel over it (last block, last step),
    the share of massive tokens by block beside the controls, and the Jaccard index between blocks and between steps.
    """
    tables, channels = result.tables, result.settings["channels"]
    figure, axes = plt.subplot_mosaic(
        [["picture", "map", "share", "share"], ["block", "block", "step", "step"]],
        figsize=(9.5, 6),
        layout="constrained",
    )
    axes["picture"].imshow(from_tidy(tables["picture"]).clip(0, 1), interpolation="nearest")
    axes["picture"].set_title("Picture of the first run", fontsize=9)
    field = from_tidy(tables["map"], ["value"])[..., 0]
    limit = float(np.abs(field).max()) or 1.0
    image = axes["map"].imshow(field, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes["map"].set_title(f"Channel {channels[0]} by token,\nlast block and step", fontsize=9)
    figure.colorbar(image, ax=axes["map"], fraction=0.046, label="activation")
    for name in ("picture", "map"):
        axes[name].set(xticks=[], yticks=[], frame_on=False)
    share_panel(axes["share"], tables["by_block"], result)
    for factor in ("block", "step"):
        jaccard_panel(figure, axes[factor], tables["jaccard"], factor)
    headline(figure, result.primary.headline())
    return finish(figure)


def share_panel(axis: Axes, by_block: Any, result: Any) -> None:
    """Share of massive tokens by block: the channels' in both streams, and the controls' on image tokens."""
    for stream, style in (("image", "o-"), ("text", "s--")):
        rows = by_block[by_block["stream"] == stream]
        axis.plot(
            rows["block"],
            rows["share"],
            style,
            ms=4,
            color=MASSIVE if stream == "image" else INK,
            label=f"massive channels,\n{stream} tokens",
        )
        if stream == "image":
            axis.fill_between(rows["block"], rows["control_median"], rows["control_most"], color=QUIET, alpha=0.4, lw=0)
            axis.plot(rows["block"], rows["control_median"], color=QUIET, label="controls, median\nto largest")
    axis.axhline(result.primary.margin, color=QUIET, lw=0.8, ls=":")
    axis.set(xlabel="block", ylabel="share of tokens that are massive", ylim=(-0.03, 1.05))
    axis.set_title(f"|x| at least {result.settings['ratio']:g} times the median channel's", fontsize=9)
    name_lines(axis, gap=0.18)


def jaccard_panel(figure: Figure, axis: Axes, table: Any, factor: str) -> None:
    """Jaccard index of the sets of channels that the rule finds at each pair of blocks or steps."""
    rows = table[table["factor"] == factor]
    matrix = rows.pivot(index="first", columns="second", values="jaccard")
    image = axis.imshow(matrix, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    labels = [f"{x:.3g}" if factor == "step" else f"{int(x)}" for x in matrix.index]
    axis.set_xticks(range(len(labels)), labels, fontsize=7)
    axis.set_yticks(range(len(labels)), labels, fontsize=7)
    words = "block" if factor == "block" else "sigma"
    axis.set(xlabel=words, ylabel=words)
    axis.set_title(f"Same channels at two {factor}s?", fontsize=9)
    figure.colorbar(image, ax=axis, fraction=0.046, label="Jaccard index")
