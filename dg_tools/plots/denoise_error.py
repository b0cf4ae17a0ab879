"""One denoising step under given edits: error by band against controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, QUIET, finish, name_lines, several, styled, wrap


def band_title(band: str, words: Mapping[str, str]) -> str:
    """A band with its edges where they are known, on two lines at most."""
    return f"{band}: {words[band]}".replace(" (", "\n(") if band in words else band


@styled
def denoise_error_figure(table: Any, *, title: str = "", words: Mapping[str, str] | None = None) -> Figure:
    """Error of an edit against its controls, relative to the clean run: one panel per band, sigma along x.

    Controls are grey dots with a band from the smallest to the largest of 90% of them.

    Args:
        table: tidy, with columns edit, role (edit, control), sigma, band, ratio.
        title: of the figure.
        words: the edges of each band; None: they are not shown.
    """
    bands = list(dict.fromkeys(table["band"]))
    edits = list(dict.fromkeys(table[table["role"] == "edit"]["edit"]))
    figure, axes = plt.subplots(
        1, len(bands), figsize=(3.1 * len(bands) + 1.2, 3.3), squeeze=False, sharey=True, layout="constrained"
    )
    shades = several(len(edits))
    for axis, band in zip(axes[0], bands, strict=True):
        part = table[table["band"] == band]
        control = part[part["role"] == "control"]
        if len(control):
            by = control.groupby("sigma")["ratio"]
            axis.fill_between(by.median().index, by.quantile(0.05), by.quantile(0.95), color=QUIET, alpha=0.25, lw=0)
            axis.plot(control["sigma"], control["ratio"], ".", color=QUIET, ms=3, alpha=0.5)
            axis.plot(by.median(), "-", color=QUIET, lw=1, label=f"controls ({control['edit'].nunique()}, 90% band)")
        for edit, colour in zip(edits, shades, strict=False):
            rows = part[part["edit"] == edit].sort_values("sigma")
            axis.plot(rows["sigma"], rows["ratio"], "o-", ms=4, color=colour, label=wrap(str(edit), 26))
        axis.axhline(1.0, color=INK, lw=0.8)
        axis.set(xlabel="sigma (1 = noise)", yscale="log")
        for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formatter("{x:.3g}")
        axis.set_title(band_title(band, words or {}), fontsize=9)
    axes[0, 0].set_ylabel("x0 error / clean error")
    low, high = float(table["ratio"].quantile(0.02)), float(table["ratio"].quantile(0.98))
    drawn = table[table["role"] == "edit"]["ratio"]
    low, high = min(low, 1.0, float(drawn.min())), max(high, 1.0, float(drawn.max()))  # one odd draw sets no axis
    axes[0, 0].set_ylim(low / 1.15, high * 1.15)
    name_lines(axes[0, -1], gap=0.2, size=8)
    figure.suptitle(title or "What each edit costs in one step from the same z_t, beside its controls", fontsize=10)
    return finish(figure)
