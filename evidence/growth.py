"""How do outlier channels grow while a model is trained, and is it the same channel all along?

Every training logs `outliers.csv`: at some steps, by block and noise level, the channel with the largest mean |x| over
image tokens and its ratio to the median channel. Here: at each step the block where that ratio is largest, at one noise
level.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from dg_tools.massive import RATIO
from dg_tools.models.files import ZOO
from dg_tools.plots.style import QUIET, finish, name_lines, several, styled
from dg_tools.report.cells import number, table

FIGURE = "growth.png"
SIGMA = 0.5  # the middle of the noise levels that a training logs

Logs = dict[str, pd.DataFrame]  # model -> its training's log


def logs(seeds: Path, shipped: Sequence[str]) -> Logs:
    """Logs by model: the small ones' beside their digests, then the shipped ones'."""
    files = {p.stem: p for p in sorted(seeds.glob("*.csv"))}
    files |= {name: ZOO / name / "outliers.csv" for name in shipped if (ZOO / name / "outliers.csv").is_file()}
    return {name: pd.read_csv(file) for name, file in files.items()}


def largest(log: pd.DataFrame, sigma: float = SIGMA) -> pd.DataFrame:
    """One row per step: the block at which the top channel stands out most; of a step logged twice, the later rows."""
    rows = log[log["sigma"] == sigma].drop_duplicates(["step", "block"], keep="last")
    return rows.loc[rows.groupby("step")["ratio"].idxmax()].sort_values("step").reset_index(drop=True)


@styled
def draw(logs: Logs) -> Figure:
    """Ratio of the top channel against the step, one line per model; open marks: another channel than at the end."""
    figure, axis = plt.subplots(figsize=(8.6, 4.2), layout="constrained")
    for (name, log), colour in zip(logs.items(), several(len(logs)), strict=False):
        top = largest(log)
        other = top[top["channel"] != top["channel"].iloc[-1]]
        label = f"{name}: channel {top['channel'].iloc[-1]}\nfrom step {since(top)} on"
        axis.plot(top["step"], top["ratio"], "o-", color=colour, ms=4, lw=1.4, label=label)
        axis.plot(other["step"], other["ratio"], "o", color=colour, ms=4, mfc="white")
    axis.axhline(RATIO, color=QUIET, lw=0.8, ls="--")
    axis.set(xscale="log", yscale="log", xlabel="training step", ylabel="top channel's mean |x| / median channel's")
    axis.set_title(
        f"Outlier channels grow with training (sigma {SIGMA}, block where the ratio is largest)", fontsize=10
    )
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(ScalarFormatter())
    axis.tick_params(axis="y", which="minor", labelsize=7)
    name_lines(axis, gap=0.1)
    return finish(figure)


def since(top: pd.DataFrame) -> int:
    """The step from which on the last top channel was on top without a break."""
    channel = top["channel"].iloc[-1]
    other = top.index[top["channel"] != channel]
    return int(top["step"].iloc[other[-1] + 1 if len(other) else 0])


def section(logs: Logs, picture: str) -> str:
    """The section's text: figure, table, and what they say."""
    lines = ["## How outlier channels grow", ""]
    if not logs:
        return "\n".join([*lines, "No training's log is stored."])
    lines += [f"![growth of outlier channels]({picture})", ""]
    lines += [
        "Ratio of the channel with the largest mean |x| over image tokens to the median channel, from the log of each "
        f"training (averaged weights), at sigma {SIGMA} and the block where it is largest. At an open mark another "
        f"channel is on top than at the end; the dashed line is {RATIO:g} times.",
        "",
    ]
    tops = {name: largest(log) for name, log in logs.items()}
    header = ["training", "ratio, first", "ratio, last", f"past {RATIO:g} at step", "block", "top channel"]
    header += ["on top since step", "on top at noise levels", "tokens of one sign", "std / |mean| over tokens"]
    ends = {name: int(top["channel"].iloc[-1]) for name, top in tops.items()}
    grown = sum(top["ratio"].iloc[-1] > top["ratio"].iloc[0] for top in tops.values())
    steady = sum(since(top) < top["step"].iloc[-1] for top in tops.values())
    passed = sum(top["ratio"].iloc[-1] > RATIO for top in tops.values())
    lines += [table(header, [row(name, log) for name, log in logs.items()]), ""]
    lines += [
        f"- At the end the ratio is larger than at the first logged step in {grown} of {len(logs)} trainings, and "
        f"more than {RATIO:g} in {passed}.",
        f"- The channel on top at the end was so at the logged step before already in {steady} of {len(logs)}.",
        f"- Top channels at the end: {', '.join(f'{c} (`{name}`)' for name, c in ends.items())}; "
        f"{len(set(ends.values()))} different numbers in {len(ends)} trainings. First weights are random, so a number "
        "means nothing outside its own training, with one reserve: all of SD3's class start from the same fixed "
        "sine-cosine position embedding, which may favour some channels.",
    ]
    return "\n".join(lines)


def row(name: str, log: pd.DataFrame) -> list[str]:
    """A training's row: how far its top channel stands out, where, since when, and what it is like at the end."""
    top = largest(log)
    first, end, past = top.iloc[0], top.iloc[-1], top[top["ratio"] > RATIO]
    levels = [int(largest(log, sigma)["channel"].iloc[-1]) for sigma in sorted(log["sigma"].unique())]
    return [
        f"`{name}`",
        f"{number(first['ratio'])} at step {first['step']:.0f}",
        f"{number(end['ratio'])} at step {end['step']:.0f}",
        f"{past['step'].iloc[0]}" if len(past) else "-",
        f"{end['block']:.0f} (of 0 to {log['block'].max()})",
        f"{end['channel']:.0f}",
        f"{since(top)}",
        f"{levels.count(int(end['channel']))} of {len(levels)}",
        number(end["same_sign"]),
        number(end["variation"]),
    ]
