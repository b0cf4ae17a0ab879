"""The dose curve: samples over rho, the amount of detail under them, controls in grey; what explains it."""

from __future__ import annotations

import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dg_tools.plots.style import INK, MASSIVE, QUIET, finish, from_tidy, name_lines, several, styled, wrap

EXPLAINED = {  # who -> line style and words
    "norms kept": ("--", "LayerNorm kept, 1 step"),
    "gain alone": (":", "gain alone, 1 step"),
}


@styled
def dose_figure(result: Any) -> Figure:
    """From a `dose` result: a strip of pictures over rho, and under each picture its point of the curve.

    Above: the first prompt at every rho, one row per CFG scale. Below: detail at equal contrast against the clean
    picture in samples, thick, and in one step, thin, with controls in grey (the line: the largest other channels; the
    ticks: random channels, all scaled to move the velocity as much); then the low band's correlation with the clean
    picture. On the right: detail by block and rho in one step, and each channel's share of the stream's energy, filled
    where the channel is massive.
    """
    settings, table = result.settings, result.table
    rhos = settings["rhos"]
    place = {rho: i for i, rho in enumerate(rhos)}
    pictures = result.tables["pictures"]
    rows = list(dict.fromkeys(v.split(", ", 1)[1] for v in pictures["variant"]))
    figure = plt.figure(figsize=(14, 4.6 + 1.1 * len(rows)), layout="constrained")
    sides: Any = figure.subfigures(1, 2, width_ratios=(2.1, 1))
    left, right = sides
    grid = left.add_gridspec(len(rows) + 2, len(rhos), height_ratios=(*[1.0] * len(rows), 2.4, 0.9), wspace=0.0)
    for row, name in enumerate(rows):
        for rho, i in place.items():
            axis = left.add_subplot(grid[row, i])
            axis.imshow(from_tidy(pictures[pictures["variant"] == f"rho {rho:g}, {name}"]).clip(0, 1))
            axis.set(xticks=[], yticks=[], frame_on=False)
            if not row:
                axis.set_title(f"rho {rho:g}", fontsize=9, color=MASSIVE if rho == 1 else INK)
            if not i:
                axis.set_ylabel(re.sub(r"^(s|sigma) ", r"\1 = ", name), fontsize=8)
    curve, low = left.add_subplot(grid[len(rows), :]), left.add_subplot(grid[len(rows) + 1, :])
    draw_curves(curve, table, settings, place)
    draw_low(low, table, settings, place)
    above, below = right.subplots(2, 1, height_ratios=(1.5, 1))
    draw_map(above, table, settings)
    draw_shares(below, result.tables["channels"], settings)
    figure.suptitle(wrap(result.verdict, 190), fontsize=9)
    return finish(figure)


def line(rows: pd.DataFrame, column: str, place: dict[float, int]) -> tuple[list[int], list[float]]:
    """Points of a curve over rho: places along x, and means over pictures and noise levels."""
    mean = rows.groupby("rho")[column].mean().dropna()
    return [place[rho] for rho in mean.index], mean.tolist()


def draw_curves(axis: Any, table: pd.DataFrame, settings: dict[str, Any], place: dict[float, int]) -> None:
    """Detail at equal contrast over rho."""
    block = settings["block"]
    step = table[(table["kind"] == "step") & (table["block"] == block)]
    random = step[step["who"].str.startswith("control ")]
    draws = random.groupby(["who", "rho"])["amount"].mean()
    axis.plot([place[r] for _, r in draws.index], draws, "_", color=QUIET, ms=11, alpha=0.5)
    one = place[1.0]
    axis.plot(*with_clean(*line(step[step["who"] == "largest others"], "amount", place), one), "-", color=QUIET, lw=1,
              label="largest others, 1 step")  # fmt: skip
    for who, (style, words) in EXPLAINED.items():
        axis.plot(
            *with_clean(*line(step[step["who"] == who], "amount", place), one), style, color=INK, lw=1, label=words
        )
    alone = [who for who in dict.fromkeys(step["who"]) if who.endswith(" alone") and who != "gain alone"]
    for who, mark, colour in zip(alone, "^vDP*X" * len(alone), several(len(alone)), strict=False):
        axis.plot(*with_clean(*line(step[step["who"] == who], "amount", place), one), f"{mark}-", color=colour, lw=0.5,
                  ms=3, label=f"channel {who}")  # fmt: skip
    axis.plot(*line(step[step["who"] == "massive"], "amount", place), "o-", color=MASSIVE, lw=1, ms=3, mfc="white",
              label=f"massive, 1 step, block {block}")  # fmt: skip
    for scale, style in zip(settings["scales"], ("s-", "s--", "s-.", "s:"), strict=False):
        for sampled in settings["sampled"][:1]:
            at = (table["kind"] == "sample") & (table["scale"] == scale) & (table["block"] == sampled)
            axis.plot(*line(table[at & (table["who"] == "massive")], "amount", place), style, color=MASSIVE, lw=2, ms=5,
                      label=f"massive, samples, s = {scale:g}")  # fmt: skip
            others = table[at & (table["who"] == "largest others")]
            if len(others):
                axis.plot(*with_clean(*line(others, "amount", place), one), style, color=QUIET, lw=1.5, ms=3,
                          label=f"largest others, samples, s = {scale:g}")  # fmt: skip
    axis.axhline(0, color=INK, lw=0.6)
    shown = table[(table["rho"] <= 2) & ~((table["kind"] == "step") & (table["block"] != block))]
    keys = [k for k in ("kind", "who", "block", "scale", "rho") if k in shown]  # no scale where nothing was sampled
    means = shown.groupby(keys, dropna=False)["amount"].mean()
    pad = 0.1 * (means.max() - means.min()) + 0.05
    axis.set_ylim(means.min() - pad, means.max() + 3 * pad)  # beyond rho 2 a picture breaks, and would set the scale
    axis.set_xticks([])
    axis.set_xlim(-0.5, len(place) - 0.5)
    axis.set_ylabel("detail at equal contrast,\ndoublings against clean", fontsize=8)
    last = draws[draws.index.get_level_values("rho") == draws.index.get_level_values("rho").max()]
    more = [(float(last.mean()), f"random, 1 step ({random['who'].nunique()} draws)", QUIET)] if len(last) else []
    name_lines(axis, gap=0.075, size=7, more=more)


def with_clean(places: list[int], values: list[float], clean: int) -> tuple[list[int], list[float]]:
    """A curve through the clean picture, where nothing is edited: 0 at rho 1."""
    points = sorted({**dict(zip(places, values, strict=True)), clean: 0.0}.items())
    return [p for p, _ in points], [v for _, v in points]


def draw_low(axis: Any, table: pd.DataFrame, settings: dict[str, Any], place: dict[float, int]) -> None:
    """Correlation of the low band with the clean picture's."""
    massive = table["who"] == "massive"
    step = table[massive & (table["kind"] == "step") & (table["block"] == settings["block"])]
    axis.plot(*line(step, "low correlation", place), "o-", color=MASSIVE, lw=1, ms=3, mfc="white")
    for scale, style in zip(settings["scales"], ("s-", "s--", "s-.", "s:"), strict=False):
        at = (table["kind"] == "sample") & (table["scale"] == scale) & (table["block"] == settings["sampled"][0])
        axis.plot(*line(table[at & massive], "low correlation", place), style, color=MASSIVE, lw=2, ms=4)
    axis.axhline(1, color=INK, lw=0.6)
    axis.set_xticks(range(len(place)), [f"{rho:g}" for rho in place], fontsize=8)
    axis.set_xlim(-0.5, len(place) - 0.5)
    axis.set_xlabel("rho: factor on the massive channels", fontsize=8)
    axis.set_ylabel("low band,\ncorrelation", fontsize=8)


def draw_map(axis: Any, table: pd.DataFrame, settings: dict[str, Any]) -> None:
    """Detail by block and rho in one step."""
    rows = table[(table["kind"] == "step") & (table["who"] == "massive")]
    mean = rows.groupby(["block", "rho"])["amount"].mean().unstack("rho")
    part = mean[[r for r in mean.columns if r <= 2]]
    limit = max(float(np.nanmax(np.abs(part.to_numpy()))), 1e-3)
    image = axis.imshow(part, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axis.set_xticks(range(part.shape[1]), [f"{r:g}" for r in part.columns], fontsize=7)
    axis.set_yticks(range(len(part)), [str(b) for b in part.index], fontsize=7)
    axis.get_yticklabels()[list(part.index).index(settings["block"])].set_color(MASSIVE)
    axis.set_xlabel("rho", fontsize=8)
    axis.set_ylabel("block", fontsize=8)
    axis.set_title("Detail in one step", fontsize=9)
    axis.figure.colorbar(image, ax=axis, fraction=0.046, label="doublings at equal contrast")


def draw_shares(axis: Any, channels: pd.DataFrame, settings: dict[str, Any]) -> None:
    """Each channel's share of the stream's energy, by block."""
    shades = several(len(settings["channels"]))
    for channel, mark, colour in zip(settings["channels"], "os^vDP" * len(shades), shades, strict=False):
        rows = channels[channels["channel"] == channel]
        massive = rows[rows["massive"].astype(bool)]
        axis.plot(rows["block"], rows["energy_share"], f"{mark}-", color=colour, mfc="white", lw=0.8, ms=5,
                  label=f"channel {channel}")  # fmt: skip
        axis.plot(massive["block"], massive["energy_share"], mark, color=colour, ms=5)
    axis.set_ylim(0, None)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("block", fontsize=8)
    axis.set_ylabel("share of energy", fontsize=8)
    axis.set_title("Share of the stream's energy (filled: massive)", fontsize=9)
    name_lines(axis)
