"""Matches between two pictures, and the share of correct ones by recipe, block and control."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.denoise import null_panel
from dg_tools.plots.style import INK, MASSIVE, POINT, QUIET, SERIES, finish, from_tidy, headline, name_lines, styled

RIGHT, WRONG = POINT, MASSIVE
COLOURS = {"raw": QUIET, "discard": SERIES[2], "adaln": SERIES[4], "ditf": MASSIVE, "mrep": SERIES[3]}


@styled
def token_matches(
    query: np.ndarray,
    target: np.ndarray,
    matches: np.ndarray,
    truth: np.ndarray,
    keypoints: np.ndarray,
    *,
    grid: tuple[int, int],
    threshold: float = 1.0,
    title: str = "",
) -> Figure:
    """Lines from the keypoints of one picture to their matches in the other: blue within the threshold, red beyond.

    Args:
        query, target: pictures (H, W, 3), bytes or 0..1.
        matches: (tokens,) index of the matched token.
        truth: (tokens, 2) true places, (row, column) in tokens.
        keypoints: (tokens,) which to draw.
        grid: rows and columns of tokens.
        threshold: in tokens.
    """
    figure, axis = plt.subplots(figsize=(5.2, 2.9), layout="constrained")
    draw_matches(axis, query, target, matches, truth, keypoints, grid, threshold)
    axis.set_title(title, fontsize=9)
    return finish(figure)


def draw_matches(
    axis: Any,
    query: Any,
    target: Any,
    matches: Any,
    truth: Any,
    keypoints: Any,
    grid: tuple[int, int],
    threshold: float,
) -> None:
    """The two pictures beside each other, and the lines."""
    query, target = np.asarray(query), np.asarray(target)
    height, width = query.shape[:2]
    gap = max(1, width // 8)
    side, step = width + gap, height / grid[0]
    axis.imshow(query, extent=(0, width, height, 0), interpolation="nearest")
    axis.imshow(target, extent=(side, side + width, height, 0), interpolation="nearest")
    for token in np.flatnonzero(keypoints):
        row, column = divmod(int(token), grid[1])
        to_row, to_column = divmod(int(matches[token]), grid[1])
        right = np.hypot(to_row - truth[token][0], to_column - truth[token][1]) <= threshold
        across, down = (
            [(column + 0.5) * step, side + (to_column + 0.5) * step],
            [(row + 0.5) * step, (to_row + 0.5) * step],
        )
        axis.plot(across, down, color=RIGHT if right else WRONG, lw=0.8, marker=".", ms=4, alpha=0.9)
    axis.set(xlim=(0, side + width), ylim=(height, 0), aspect="equal")
    axis.set_axis_off()


@styled
def correspondence_figure(result: Any) -> Figure:
    """Five panels from a `correspondence` result: one pair matched by raw and by DiTF's features, PCK by task, PCK by
    block on the development pictures, and the primary outcome against its controls.
    """
    figure, axes = plt.subplot_mosaic(
        [["raw", "ditf", "null"], ["tasks", "tasks", "blocks"]], figsize=(10.5, 6.2), layout="constrained"
    )
    threshold = float(result.table["threshold"].min())
    matches, choices = result.tables["matches"], result.tables["chosen"].set_index("variant")
    query, target = (from_tidy(result.tables[name]) for name in ("query", "target"))
    grid = int(matches["row"].max()) + 1, int(matches["column"].max()) + 1
    truth = matches[["true_row", "true_column"]].to_numpy()
    for name in ("raw", "ditf"):
        draw_matches(axes[name], query, target, matches[name], truth, matches["keypoint"], grid, threshold)
        at = choices.loc[name]
        words = f"input of block {int(at['block'])}, sigma {at['sigma']:g}"
        axes[name].set_title(f"{name}: {words}\n(left: query; red: more than {threshold:g} token away)", fontsize=9)
    null_panel(axes["null"], result.outcome("recipe"))
    task_panel(axes["tasks"], result, threshold)
    block_panel(axes["blocks"], result.tables["development"])
    headline(figure, result.primary.headline())
    return finish(figure)


def task_panel(axis: Any, result: Any, threshold: float) -> None:
    """PCK of each recipe by task, its controls as dots, chance and position as lines."""
    table = result.table[result.table["threshold"] == threshold]
    levels = result.tables["levels"]
    levels = levels[levels["threshold"] == threshold].groupby("task", sort=False)[["chance", "position"]].mean()
    mean = table.groupby(["variant", "recipe", "role", "task"], sort=False)["pck"].mean().reset_index()
    for i, task in enumerate(levels.index):
        for j, (recipe, colour) in enumerate(COLOURS.items()):
            rows = mean[(mean["task"] == task) & (mean["recipe"] == recipe)]
            if rows.empty:  # results that were saved before the recipe was there
                continue
            x = i + 0.17 * (j - 2)
            axis.bar(x, rows[rows["role"] == "recipe"]["pck"], 0.15, color=colour)
            axis.annotate(recipe, (x, 0), (0, 3), textcoords="offset points", rotation=90, fontsize=7, ha="center",
                          color="white")  # fmt: skip
            controls = rows[rows["role"] == "control"]["pck"]
            axis.plot(
                [x] * len(controls),
                controls,
                ".",
                color=INK,
                ms=3,
                alpha=0.6,
            )
        for name, style in (("chance", ":"), ("position", "--")):
            axis.plot(
                [i - 0.42, i + 0.42],
                [levels.loc[task, name]] * 2,
                style,
                color=INK,
                lw=1,
            )
            if i == len(levels) - 1:
                axis.annotate(f"{name},\nno model", (i + 0.42, levels.loc[task, name]), (4, 0), fontsize=7, va="center",
                              textcoords="offset points")  # fmt: skip
    axis.set_xticks(range(len(levels)), levels.index)
    axis.set(ylabel="correct keypoints, %", ylim=(0, 105), title=f"PCK within {threshold:g} token, test pictures")
    axis.text(0.01, 0.99, "dots: controls of the same recipe", transform=axis.transAxes, fontsize=7, va="top")


def block_panel(axis: Any, development: Any) -> None:
    """PCK by block on the development pictures, at the best noise level of each block."""
    for recipe, colour in COLOURS.items():
        rows = development[development["variant"] == recipe].groupby("block")["pck"].max()
        if rows.empty:
            continue
        axis.plot(rows.index, rows, "o-", ms=3, color=colour, label=recipe)
    axis.set(
        xlabel="block whose input is read", ylabel="correct keypoints, %", title="Development pictures, best sigma"
    )
    name_lines(axis)
