"""Guidances by perception and distortion, what they improve, and their directions at the same z_t."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, POINT, QUIET, SERIES, finish, headline, name_clouds, name_lines, styled

KINDS = {  # role -> colour, marker, size, label
    "base": (INK, "o", 46, "cond, CFG"),
    "equal compute": (INK, "D", 30, "the same, as many block calls as DG"),
    "one pass": (SERIES[2], "P", 36, "gain, Detail Daemon: no further pass"),
    "DG": (MASSIVE, "o", 46, "DG"),
    "part of DG": (MASSIVE, "^", 30, "DG along and across CFG"),
    "control guidance": (QUIET, "s", 26, "other degraded predictions"),
    "control draw": (QUIET, ".", 14, "control draws"),
    "sweep": (MASSIVE, "x", 22, "sweep of w, block, window"),
    "baseline": (POINT, "+", 26, "PAG, SLG, SEG and others, as many settings"),
}
DISTANCES = {
    "spectrum": "mean spectra, dB apart",
    "statistics": "detail statistics, std apart",
    "kernel": "kernel distance, VAE features",
}
LINES = {"u": SERIES[3], "blur": POINT, "twin": SERIES[2], "control 0": QUIET, "d": MASSIVE}
NAMES = {"u": "c - u (CFG)", "blur": "c - blur", "twin": "c - weak model", "control 0": "c - d' (shift control)"}
NAMES |= {"d": "c - d (DG)"}


@styled
def guidance_figure(result: Any) -> Figure:
    """Seven panels from a `guidance` result.

    Above: each run by its correlation with its own reference (right: less distortion) and by the distance of the
    samples as a set from the references (down: better perception), three distances; arrows go from a base to its DG.
    Below: improvements in rightness and amount, with 95% intervals and bounds, each relative to CFG or cond at the same
    number of block calls; cosines with c - d, norms and spectra of the directions, along the CFG run.
    Where prompts have no pictures: each run by its change of detail from the plain sample, whole and by band, and by
    the low band that it keeps.
    """
    tables = result.tables
    if "plane" not in tables:
        return alone_figure(result)
    mean = result.table.groupby("rule", sort=False)["high_correlation"].mean()
    figure, axes = plt.subplot_mosaic(
        [[*DISTANCES, "outcomes"], ["cosines", "norms", "spectra", "outcomes"]], figsize=(14, 6.6), layout="constrained"
    )
    for name, words in DISTANCES.items():
        perception_distortion(axes[name], tables["plane"], mean, name, words)
    outcomes(axes["outcomes"], result)
    directions(axes, tables)
    headline(figure, result.primary.headline())
    plane = tables["plane"].assign(x=tables["plane"]["rule"].map(mean))
    name_roles(axes["spectrum"], plane, plane["x"], plane["spectrum"])  # the other two have the same marks
    return finish(figure)


@styled
def alone_figure(result: Any) -> Figure:
    """Of prompts without pictures: detail against the low band by run, detail by band, outcomes, directions."""
    figure, axes = plt.subplot_mosaic(
        [["change", "change", "bands", "outcomes"], ["cosines", "norms", "spectra", "outcomes"]],
        figsize=(14, 6.6),
        layout="constrained",
    )
    runs = result.tables["runs"]
    mean = result.table.groupby("rule", sort=False).mean(numeric_only=True).loc[runs["rule"]]
    for role in reversed(KINDS):
        colour, marker, size, _ = KINDS[role]
        if (at := (runs["role"] == role).to_numpy()).any():
            axes["change"].scatter(mean[at]["amount"], mean[at]["low_band"], c=colour, marker=marker, s=size, lw=0.8)
    axes["change"].set(
        xlabel="detail, doublings from the plain sample at equal contrast", ylabel="low band, with its base"
    )
    axes["change"].axvline(0, color=QUIET, lw=0.8)
    axes["change"].set_title("How much detail, and is the picture kept?", fontsize=9)
    bands = [c for c in mean.columns if c.startswith("amount ")]
    for row in runs[runs["role"].isin(["base", "DG"])].to_dict("records"):
        colour, marker, _, _ = KINDS[row["role"]]
        axes["bands"].plot(
            mean.loc[row["rule"], bands].to_numpy(float), marker=marker, ms=3, color=colour, label=row["rule"]
        )
    axes["bands"].set_xticks(range(len(bands)), [c.removeprefix("amount ") for c in bands], fontsize=6, rotation=20)
    axes["bands"].axhline(0, color=QUIET, lw=0.8)
    axes["bands"].set(xlabel="cycles per latent cell", ylabel="detail, doublings")
    name_lines(axes["bands"], gap=0.07, size=6)
    axes["bands"].set_title("Detail by band", fontsize=9)
    outcomes(axes["outcomes"], result)
    directions(axes, result.tables)
    headline(figure, result.primary.headline())
    name_roles(axes["change"], runs, mean["amount"], mean["low_band"])
    return finish(figure)


def name_roles(axis: Axes, table: pd.DataFrame, x: pd.Series, y: pd.Series) -> None:
    """Names the runs of each role, at their points x and y."""
    roles, x, y = (np.asarray(values) for values in (table["role"], x, y))
    shown = [role for role in KINDS if (roles == role).any()]
    name_clouds(axis, [(x[roles == r], y[roles == r], KINDS[r][3], KINDS[r][0]) for r in shown], size=6.5)


def directions(axes: dict[str, Axes], tables: dict[str, pd.DataFrame]) -> None:
    """Cosines, norms and spectra of the directions, along the last run that has them."""
    rule = tables["spectra"]["rule"].iloc[-1]
    log = tables["pushes"][tables["pushes"]["rule"] == rule]
    cosines(axes["cosines"], log)
    sizes(axes["norms"], log)
    spectra(axes["spectra"], tables["spectra"][tables["spectra"]["rule"] == rule])
    for name in ("cosines", "norms", "spectra"):
        axes[name].set_title(f"{axes[name].get_title()}, along {rule}", fontsize=9)


def perception_distortion(axis: Axes, table: pd.DataFrame, mean: pd.Series, distance: str, words: str) -> None:
    """One distance against the correlation; draws and sweep behind, DG in front."""
    place = {row["rule"]: (mean[row["rule"]], row[distance]) for row in table.to_dict("records")}
    for role in reversed(KINDS):
        rows = table[table["role"] == role]
        colour, marker, size, _ = KINDS[role]
        if len(rows):
            x, y = zip(*(place[r] for r in rows["rule"]), strict=True)
            axis.scatter(x, y, c=colour, marker=marker, s=size, lw=0.8, alpha=0.85)
    for row in table[table["role"] == "DG"].to_dict("records"):
        arrow = {"arrowstyle": "->", "color": MASSIVE, "lw": 1.2, "shrinkA": 3, "shrinkB": 3}
        axis.annotate("", place[row["rule"]], place[row["base"]], arrowprops=arrow)
        axis.annotate(str(row["base"]), place[row["base"]], xytext=(4, 4), textcoords="offset points", fontsize=6)
    spread = np.array([place[r] for r in table[table["role"].isin(["base", "DG", "equal compute"])]["rule"]])
    for ends, limits in ((spread[:, 0], axis.set_xlim), (spread[:, 1], axis.set_ylim)):
        room = 0.6 * float(np.ptp(ends)) or 0.1  # a run that lies far off would squeeze the rest together
        limits(ends.min() - room, ends.max() + room)
    axis.set(xlabel="high-band correlation, own reference", ylabel=words)
    axis.set_title(f"{words.split(',')[0].capitalize()} (down: nearer as a set)", fontsize=9)


def outcomes(axis: Axes, result: Any) -> None:
    """Improvements in rightness and amount with intervals, bounds and control draws."""
    shown = [o for o in result.outcomes if o.name.split(",")[0] in ("rightness", "amount")]
    for i, outcome in enumerate(reversed(shown)):
        colour = MASSIVE if outcome.name.startswith("rightness") else INK
        axis.plot([v / outcome.margin for v in outcome.null], [i] * len(outcome.null), "|", color=QUIET, ms=7)
        low, high = outcome.low / outcome.margin, outcome.high / outcome.margin
        axis.plot([low, high], [i, i], color=colour, lw=1.5)
        axis.plot(outcome.estimate / outcome.margin, i, "o", color=colour, ms=4)
    axis.set_yticks(range(len(shown)), [o.name for o in reversed(shown)], fontsize=7)
    axis.axvline(0, color=QUIET, lw=0.8)
    for bound in (-1, 1):
        axis.axvline(bound, color=QUIET, lw=0.8, ls=":")
    axis.set_xscale("symlog", linthresh=2)
    axis.set(xlabel="gain over its bound (ticks: draws)")
    axis.set_title("What DG buys (right: gained)", fontsize=9)


def cosines(axis: Axes, log: pd.DataFrame) -> None:
    """Mean cosine of c - d with the other directions, by sigma, with 5% to 95% of the pictures."""
    part = log[(log["quantity"] == "cosine") & (log["of"] == "d")]
    for other, rows in part.groupby("with", sort=False):
        by = rows.groupby("sigma")["value"]
        axis.fill_between(by.mean().index, by.quantile(0.05), by.quantile(0.95), color=LINES[other], alpha=0.12, lw=0)
        axis.plot(by.mean(), "o-", ms=2.5, color=LINES[other], label=NAMES[other])
    axis.axhline(0, color=QUIET, lw=0.8)
    axis.set(xlabel="sigma (1 = noise, 0 = picture)", ylabel="cosine with c - d", ylim=(-1, 1))
    axis.invert_xaxis()
    name_lines(axis, gap=0.1, size=7)
    axis.set_title("Is DG another guidance?", fontsize=9)


def sizes(axis: Axes, log: pd.DataFrame) -> None:
    """Norm of each direction over that of c, by sigma."""
    norm = log[log["quantity"] == "norm"].groupby(["of", "sigma"])["value"].mean()
    for name, colour in LINES.items():
        if name in norm.index.get_level_values("of"):
            axis.plot(norm[name] / norm["c"], "o-", ms=2.5, color=colour, label=NAMES[name])
    axis.set(xlabel="sigma (1 = noise, 0 = picture)", ylabel="norm over |c|", yscale="log")
    axis.invert_xaxis()
    axis.set_title("Size", fontsize=9)


def spectra(axis: Axes, table: pd.DataFrame) -> None:
    """Share of each direction's power by radial frequency, early (dotted) and late (whole lines) in the run."""
    steps = sorted(table["step"].unique())
    for step, style in ((steps[len(steps) // 4], ":"), (steps[(3 * len(steps)) // 4], "-")):
        for name, rows in table[table["step"] == step].groupby("of", sort=False):
            share = rows["power"] / rows["power"].sum()
            label = NAMES[name] if style == "-" else None
            axis.plot(rows["frequency"], share, style, marker="o", ms=2.5, color=LINES[name], label=label)
    axis.set(xlabel="cycles per latent pixel", ylabel="share of power", yscale="log")
    axis.set_title("Spectrum (dotted: early)", fontsize=9)


@styled
def direction_maps(result: Any, names: tuple[str, ...] = ("u", "d"), *, shown: int = 6) -> Figure:
    """Mean power of each direction by place in the picture, at some steps of the CFG run of a `guidance` result.

    Args:
        result: of `experiments.guidance`.
        names: `u` (CFG), `d` (DG), `blur`, `twin` (the weak model), `control 0`.
        shown: steps, evenly spread.
    """
    maps = result.tables["maps"]
    maps = maps[maps["rule"] == maps["rule"].iloc[-1]]
    steps = np.asarray(sorted(maps["step"].unique()))
    steps = steps[np.linspace(0, len(steps) - 1, min(shown, len(steps))).round().astype(int)]
    figure, axes = plt.subplots(
        len(names),
        len(steps),
        figsize=(1.5 * len(steps) + 0.6, 1.7 * len(names) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for row, name in zip(axes, names, strict=True):
        for axis, step in zip(row, steps, strict=True):
            part = maps[(maps["of"] == name) & (maps["step"] == step)]
            axis.imshow(part.pivot(index="y", columns="x", values="power"), cmap="viridis", interpolation="nearest")
            axis.set(xticks=[], yticks=[], frame_on=False)
            if name == names[0]:
                axis.set_title(f"sigma {part['sigma'].iloc[0]:.2f}", fontsize=8)
        row[0].set_ylabel(NAMES[name], fontsize=8)
    along = maps["rule"].iloc[0]
    headline(figure, f"Where each direction is strong along {along} (mean power, each map on its own scale)", size=9)
    return finish(figure)
