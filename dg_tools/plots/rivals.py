"""Every guidance in one figure: what it changes, with intervals and bounds, and what it costs."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, POINT, QUIET, finish, headline, styled

PANELS = {
    "amt_c": ("Detail", "doublings, equal contrast"),
    "right": ("Rightness", "high-band correlation"),
    "low": ("Low band", "correlation"),
    "margin": ("Margin", "share of the base's"),
}
BOUNDS = {"amt_c": 0.10, "right": -0.02, "low": -0.01, "margin": -0.05}  # lower bounds of the claim
SAID = {"holds": "gives detail,\nloses nothing"}  # of a verdict
COLOURS = {"holds": POINT, "does not hold": MASSIVE, "not tested": QUIET}


@styled
def rivals_figure(result: Any) -> Figure:
    """Five panels from a `rivals` result, one line per guidance, the one with most detail on top.

    Changes from no guidance with 95% intervals: amount of detail, rightness, low band, margin; the dashed line is what
    the lower end must be above. Then the passes per step relative to a run without guidance, and the verdict in words,
    in the colour of its line. DG's name is bold.
    """
    table = result.tables["rivals"].sort_values("amt_c").reset_index(drop=True)
    height = 1.5 + 0.3 * len(table)
    figure, axes = plt.subplots(1, 5, figsize=(13, height), sharey=True, layout="constrained")
    colours = [COLOURS.get(word, INK) for word in table["verdict"]]
    for axis, (name, (title, unit)) in zip(axes, PANELS.items(), strict=False):
        changes(axis, table, name, colours)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(unit, fontsize=8)
    base = result.settings["base"]["passes"]
    axes[-1].barh(range(len(table)), table["passes"] / base, color=QUIET, height=0.5)
    axes[-1].axvline(1, color=INK, lw=0.8)
    axes[-1].set_title("Price", fontsize=9)
    axes[-1].set_xlabel("passes per step", fontsize=8)
    labels = [f"{row['method']}, {row['setting']}" for _, row in table.iterrows()]
    axes[0].set_yticks(range(len(table)), labels, fontsize=8)
    for tick, method in zip(axes[0].get_yticklabels(), table["method"], strict=True):
        tick.set_fontweight("bold" if str(method).startswith("DG") else "normal")
    for axis in axes:
        axis.tick_params(axis="x", labelsize=7)
        axis.grid(axis="y", lw=0.3)
    for y, (word, colour) in enumerate(zip(table["verdict"], colours, strict=True)):
        axes[-1].annotate(SAID.get(word, word), (1, y), (6, 0), color=colour, fontsize=8, va="center",
                          xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    give = int((table["verdict"] == "holds").sum())
    few = f"Detail that costs nothing else comes from {give} of {len(table)} guidances"
    headline(figure, f"{few}: changes from no guidance, {len(result.settings['test'])} prompts that chose nothing")
    return finish(figure)


def changes(axis: Axes, table: Any, name: str, colours: list[str]) -> None:
    """One number of every guidance, with its interval and its bound."""
    for y, (_, row) in enumerate(table.iterrows()):
        axis.plot([row[f"{name}_from"], row[f"{name}_to"]], [y, y], color=colours[y], lw=1.2)
        axis.plot([row[name]], [y], "o", color=colours[y], ms=4)
    axis.axvline(0, color=QUIET, lw=0.8)
    axis.axvline(BOUNDS[name], color=QUIET, lw=0.8, ls="--")
