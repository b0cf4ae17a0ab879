"""Sinks: what masking them costs by band, beside masks of equal mass, and how large massive channels are there."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, POINT, QUIET, finish, headline, name_lines, styled


@styled
def sinks_figure(result: Any) -> Figure:
    """Three panels from a `sinks` result: change of x0 by band, sinks in red and each equal-mass mask as a dot; the
    sinks' share of attention by block; and the massive channels' size on sinks over that on other tokens.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.5), layout="constrained")
    cost(axes[0], result.table)
    table = result.tables["by_block"]
    axes[1].plot(table["block"], table["mass"], "o-", ms=3, color=INK)
    axes[1].set(xlabel="block", ylabel="share of the image tokens' attention", ylim=(0, None))
    k = len(result.settings["tokens"])
    axes[1].set_title(f"What {k} {result.settings['stream']} token{'s' * (k > 1)} receive{'s' * (k == 1)}", fontsize=9)
    axes[2].fill_between(table["block"], table["control_median"], table["control_most"], color=QUIET, alpha=0.4, lw=0)
    axes[2].plot(table["block"], table["control_median"], color=QUIET, label="other channels,\nmedian to most")
    axes[2].plot(table["block"], table["channels"], "o-", ms=3, color=MASSIVE, label="massive\nchannels")
    axes[2].axhline(0, color=INK, lw=0.6, ls=":")
    axes[2].set(xlabel="block", ylabel="log2, on sinks over other tokens")
    axes[2].set_title("Do the channels sit on the sinks?", fontsize=9)
    name_lines(axes[2], gap=0.18)
    headline(figure, result.primary.headline())
    return finish(figure)


def cost(axis: Axes, table: Any) -> None:
    """Change of x0 by band and path: the sinks' masks in colour, each equal-mass mask as a grey dot."""
    bands = list(dict.fromkeys(table["band"]))
    paths = {"score": (MASSIVE, "o"), "value": (POINT, "s")}
    mean = table.groupby(["path", "role", "variant", "band"], sort=False)["change"].mean()
    for i, (path, (colour, marker)) in enumerate(paths.items()):
        places = np.arange(len(bands)) + 0.36 * (i - 0.5)
        for _, one in mean[path]["control"].groupby("variant", sort=False):
            axis.plot(places, one.droplevel("variant").reindex(bands), ".", ms=4, color=QUIET)
        own = mean[path]["sinks"].droplevel("variant").reindex(bands)
        axis.plot(places, own, marker, ms=5, color=colour, label=f"sinks,\n{path} path")
    axis.set_xticks(range(len(bands)), bands)
    axis.set(ylabel="change of x0, rms over rms", ylim=(0, None))
    axis.set_title("What masking costs (grey: equal mass)", fontsize=9)
    name_lines(axis, gap=0.18)
