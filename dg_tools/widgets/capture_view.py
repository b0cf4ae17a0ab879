"""The view of one point of a capture: figures and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dg_tools.activations import Activations
from dg_tools.plots.explorers import course, profile, token_field
from dg_tools.plots.surface import surface
from dg_tools.widgets import capture_lookup as lookup
from dg_tools.widgets.capture_lookup import HiddenStates, Point


@dataclass(frozen=True)
class CaptureView:
    """The view of a point.

    Attributes:
        map: one value per token, over the picture (image), or along the prompt (text).
        channels: one value per channel, of the chosen token or of all.
        blocks, steps: the channel's size by block and by step.
        surface: plotly figure of token x channel; None where no hidden states were kept.
        sentence: the numbers in words.
    """

    map: Figure
    channels: Figure
    blocks: Figure
    steps: Figure
    surface: Any
    sentence: str


def render(acts: Activations, point: Point, massive: list[int]) -> CaptureView:
    """The view of a point, from what was captured."""
    hidden, data = lookup.hidden_at(acts, point), lookup.run_at(acts, point)
    site, sigma = str(data["site"].values[point.block]), float(data["sigma"].values[point.step])
    where = f"after block {site}, step {point.step} (sigma {sigma:.2f})"
    return CaptureView(
        map=token_map(acts, point, hidden, where),
        channels=channel_profile(acts, point, hidden, massive, where),
        blocks=course(
            lookup.magnitudes(acts, point, "site"),
            point.block,
            ticks=list(data["site"].values),
            log=point.log,
            title=f"by block, step {point.step}",
        ),
        steps=course(
            lookup.magnitudes(acts, point, "step"),
            point.step,
            ticks=list(data["step"].values),
            log=point.log,
            title=f"by step, block {site}",
            xlabel="step (0 = noise)",
        ),
        surface=None
        if hidden is None
        else surface(
            hidden.values,
            massive,
            channels=hidden.channels.tolist(),
            tokens=hidden.tokens.tolist(),
            at=(point.token, point.channel),
            log=point.log,
            title=where,
        ),
        sentence=sentence(acts, point, hidden),
    )


def token_map(acts: Activations, point: Point, hidden: HiddenStates | None, where: str) -> Figure:
    """One value per token: the channel's activation where it was kept, else the norm over channels."""
    norms = lookup.token_norms(acts, point)
    if point.stream != "image":
        return profile(
            norms,
            min(point.token, max(len(norms) - 1, 0)),
            log=point.log,
            title=f"text tokens {where}",
            xlabel="text token",
            ylabel="norm over channels",
        )
    picture, which = lookup.picture_at(acts, point)
    field = np.full(acts.grid[0] * acts.grid[1], np.nan, np.float32)
    column = hidden.column(point.channel) if hidden else None
    if hidden is not None and column is not None:
        field[hidden.tokens] = column
    else:
        field[: len(norms)] = norms
    name = f"channel {point.channel}" if column is not None else "norm of each token"
    return token_field(
        field,
        acts.grid,
        picture,
        title=f"{name} {where}\nover {which}",
        signed=column is not None,
        label="activation" if column is not None else "norm over channels",
    )


def channel_profile(
    acts: Activations, point: Point, hidden: HiddenStates | None, massive: list[int], where: str
) -> Figure:
    """One value per channel: the token's activations where they were kept, else the mean over tokens."""
    row = hidden.row(point.token) if hidden else None
    if hidden is not None and row is not None:
        values = np.full(acts.data.sizes["channel"], np.nan, np.float32)
        values[hidden.channels] = row
        title, ylabel = f"token {point.token} {where}", "activation"
    else:
        values = lookup.by_channel(acts, point)
        title, ylabel = f"mean over {point.stream} tokens {where}", "mean |x|"
    return profile(values, point.channel, marked=massive, log=point.log, title=title, ylabel=ylabel)


def sentence(acts: Activations, point: Point, hidden: HiddenStates | None) -> str:
    """The numbers at a point, in words."""
    columns = acts.grid[1]
    place = f" (row {point.token // columns}, column {point.token % columns})" if point.stream == "image" else ""
    means = lookup.by_channel(acts, point)
    if not np.isfinite(means).any():
        return f"There is no {point.stream} stream after this block (SD3 drops the text in its last one)."
    size, median = float(means[point.channel]), float(np.median(means))
    words = (
        f"Channel {point.channel}: mean |x| over {point.stream} tokens {size:.3g}, "
        f"{size / median:.3g} x the median channel's."
    )
    row = hidden.row(point.token) if hidden else None
    if hidden is not None and row is not None and (index := np.flatnonzero(hidden.channels == point.channel)).size:
        words = f"Token {point.token}{place}, channel {point.channel}: {float(row[index[0]]):.3g}. " + words
    return words
