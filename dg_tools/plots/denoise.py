"""One disrupted denoising step: the edit beside controls that do as much harm."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dg_tools.plots.denoise_error import band_title
from dg_tools.plots.style import INK, MASSIVE, QUIET, finish, headline, label_ends, styled, wrap

EDIT: dict[str, Any] = {"color": MASSIVE, "marker": "o", "ms": 5}
CONTROL: dict[str, Any] = {"color": QUIET, "marker": ".", "lw": 1}


@styled
def denoise_figure(result: Any) -> Figure:
    """Six panels from a `denoise` result.

    Above: error by band and sigma relative to the clean run's, for the edit and its equal-harm controls. Below:
    selectivity (high-band minus low-band log ratio) against the controls', with their null distribution; high-band
    damage on the object and on the background; what other edits of the same channels do, with 95% intervals over
    prompts.
    """
    curves, summary = result.tables["by_sigma"], result.tables["variants"]
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    for axis, band in zip(axes[0], ("low", "mid", "high"), strict=True):
        for role, style in (("control", {**CONTROL, "ls": ":", "alpha": 0.5}), ("edit", {**EDIT, "ls": "-"})):
            for _, rows in curves[(curves["role"] == role) & (curves["band"] == band)].groupby("variant", sort=False):
                axis.plot(rows["sigma"], rows["log_ratio"], **style)
        axis.axhline(0, color=INK, lw=0.8)
        axis.set_xlabel("sigma (1 = noise)")
        axis.set_title(band_title(band, result.settings.get("words", {})), fontsize=9)
        axis.sharey(axes[0, 0])
    axes[0, 0].set_ylabel("log(x0 error / clean error)")
    ends = []
    for role, words, colour in (
        ("edit", "massive\nchannels\nzeroed", MASSIVE),
        ("control", "controls of\nthe same harm", QUIET),
    ):
        rows = curves[(curves["role"] == role) & (curves["band"] == "high")]
        ends.append((float(rows[rows["sigma"] == rows["sigma"].max()]["log_ratio"].mean()), words, colour))
    label_ends(axes[0, 2], ends, 0.25, 8)
    null_panel(axes[1, 0], result.outcome("selectivity"))
    region_panel(axes[1, 1], summary)
    others_panel(axes[1, 2], summary)
    headline(figure, result.primary.headline())
    return finish(figure)


def null_panel(axis: Any, outcome: Any) -> None:
    """An outcome's estimate and interval above the histogram of its controls', with the bound that was set."""
    if outcome.null:
        axis.hist(outcome.null, bins=12, color=QUIET, alpha=0.6)
    top = max(axis.get_ylim()[1], 1) * 1.15
    axis.plot([outcome.low, outcome.high], [top, top], color=MASSIVE)
    axis.plot(outcome.estimate, top, **EDIT, ls="")
    axis.annotate("massive channels\n(95% interval)", (outcome.estimate, top), (0, 6), textcoords="offset points",
                  color=MASSIVE, fontsize=8, ha="center")  # fmt: skip
    axis.axvline(outcome.margin, color=INK, lw=0.8, ls="--")
    axis.annotate(f" required: {outcome.direction} {outcome.margin:g}", (outcome.margin, 0.02), fontsize=7,
                  xycoords=("data", "axes fraction"), rotation=90, ha="right", va="bottom")  # fmt: skip
    axis.set(title=f"{outcome.name.capitalize()} against controls", xlabel=wrap(outcome.unit, 44))
    axis.set_ylabel(f"how many of {len(outcome.null)} controls", color=QUIET)
    axis.set_ylim(0, top * 1.6)
    axis.margins(x=0.25)


def region_panel(axis: Any, summary: Any) -> None:
    """High-band log ratio on the object against the background's, the edit among its controls."""
    if "foreground" not in summary:
        axis.text(0.5, 0.5, "no masks: object and background\nare not told apart", ha="center", va="center", fontsize=8)
        axis.set_axis_off()
        return
    for role, style, words in (("control", CONTROL, "controls"), ("edit", EDIT, "massive channels")):
        rows = summary[summary["role"] == role]
        axis.plot(rows["background"], rows["foreground"], **style, ls="")
        if len(rows):
            at = rows.sort_values("foreground").iloc[-1]
            axis.annotate(words, (at["background"], at["foreground"]), (5, 5), textcoords="offset points", fontsize=8,
                          color=style["color"])  # fmt: skip
    limits = [min(axis.get_xlim()[0], axis.get_ylim()[0], 0), max(axis.get_xlim()[1], axis.get_ylim()[1], 0)]
    axis.plot(limits, limits, color=INK, lw=0.8, ls="--")
    axis.annotate("same on both", (limits[0], limits[0]), (8, 0), textcoords="offset points", fontsize=7)
    axis.set(title="Where the high band suffers", xlabel="background, log ratio", ylabel="object, log ratio")
    axis.margins(0.12)


def others_panel(axis: Any, summary: Any) -> None:
    """Total error of the edit and of the further edits, with intervals; ticks: draws of similar variance."""
    shown = summary[summary["role"].isin(["edit", "further"])]
    for row, (_, one) in enumerate(shown.iterrows()):
        style = EDIT if one["role"] == "edit" else {**EDIT, "color": INK}
        axis.plot([one["low_end"], one["high_end"]], [row, row], color=style["color"])
        axis.plot(one["total"], row, **style)
    names = ["zeroed" if v == "zero" else v for v in shown["variant"]]
    alike = summary[summary["role"] == "like variance"]
    if len(alike):
        axis.plot(alike["total"], [len(names)] * len(alike), "|", color=QUIET, ms=10)
        names.append("others of\nlike variance")
    axis.axvline(0, color=INK, lw=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set(title="Other edits", xlabel="log error ratio, whole picture")
