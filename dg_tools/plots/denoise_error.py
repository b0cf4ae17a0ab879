"""One denoising step under given edits: error by band against controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, QUIET, finish, wrap


def band_title(band: str, words: Mapping[str, str]) -> str:
    """A band with its edges where they are known, on two lines at most."""
    return f"{band}: {words[band]}".replace(" (", "\n(") if band in words else band


def denoise_error_figure(table: Any, *, title: str = "", words: Mapping[str, str] | None = None) -> Figure:
    """Error of an edit against its controls, relative to the clean run: one panel per band, sigma along x.

    Args:
        table: tidy, with columns edit, role (edit, control), sigma, band, ratio.
        title: of the figure.
        words: the edges of each band; None: not said.
    """
    bands = list(dict.fromkeys(table["band"]))
    figure, axes = plt.subplots(
        1, len(bands), figsize=(3.2 * len(bands), 3.5), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, band in zip(axes[0], bands, strict=True):
        part = table[table["band"] == band]
        for role, colour, marker in (("control", QUIET, "."), ("edit", MASSIVE, "o")):
            shown = part[part["role"] == role]
            for i, (name, rows) in enumerate(shown.groupby("edit", sort=False)):
                label = (role if role == "control" else str(name)) if i == 0 or role == "edit" else None
                line = "-" if role == "edit" else ":"
                axis.plot(
                    rows["sigma"],
                    rows["ratio"],
                    marker + line,
                    color=colour,
                    alpha=0.9 if role == "edit" else 0.5,
                    label=label,
                )
        axis.axhline(1.0, color=INK, lw=0.8)
        axis.set(xlabel="sigma", yscale="log")
        axis.set_title(band_title(band, words or {}), fontsize=9)
    axes[0, 0].set_ylabel("x0 error / clean error")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, [wrap(x, 90) for x in labels], loc="outside lower center", fontsize=7, frameon=False)
    figure.suptitle(title or "One-step error at the same z_t", fontsize=10)
    return finish(figure)
