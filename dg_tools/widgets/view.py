"""What does one point of a capture look like? Figures and numbers, from what was captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dg_tools.activations import Activations
from dg_tools.plots.explorers import course, profile, token_field
from dg_tools.plots.surface import surface
from dg_tools.widgets import lookup
from dg_tools.widgets.lookup import Point, Raw


@dataclass(frozen=True)
class View:
    """What a point looks like.

    Attributes:
        map: one value a token, over the picture (image), or along the prompt (text).
        channels: one value a channel, of the token looked at or of all.
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


def render(acts: Activations, point: Point, massive: list[int]) -> View:
    """The view of a point: figures and numbers from what was captured."""
    raw, data = lookup.raw_at(acts, point), lookup.run_at(acts, point)
    site, sigma = str(data["site"].values[point.block]), float(data["sigma"].values[point.step])
    where = f"after block {site}, step {point.step} (sigma {sigma:.2f})"
    of_channel = raw.column(point.channel) if raw else None
    of_token = raw.row(point.token) if raw else None
    norms, means = lookup.token_norms(acts, point), lookup.by_channel(acts, point)
    if point.stream == "image":
        picture, which = lookup.picture_at(acts, point)
        field = np.full(acts.grid[0] * acts.grid[1], np.nan, np.float32)
        if raw is not None and of_channel is not None:
            field[raw.tokens] = of_channel
        else:
            field[: len(norms)] = norms
        named = f"channel {point.channel}" if of_channel is not None else "norm of each token"
        shown = token_field(
            field, acts.grid, picture, title=f"{named} {where}\nover {which}", signed=of_channel is not None,
            label="activation" if of_channel is not None else "norm over channels",
        )  # fmt: skip
    else:
        shown = profile(
            norms, min(point.token, max(len(norms) - 1, 0)), log=point.log, title=f"text tokens {where}",
            xlabel="text token", ylabel="norm over channels",
        )  # fmt: skip
    if raw is not None and of_token is not None:
        values = np.full(acts.data.sizes["channel"], np.nan, np.float32)
        values[raw.channels] = of_token
        bars, named = values, f"token {point.token} {where}"
    else:
        bars, named = means, f"mean over {point.stream} tokens {where}"
    ylabel = "activation" if bars is not means else "mean |x|"
    return View(
        map=shown,
        channels=profile(bars, point.channel, marked=massive, log=point.log, title=named, ylabel=ylabel),
        blocks=course(
            lookup.magnitudes(acts, point, "site"), point.block, ticks=list(data["site"].values), log=point.log,
            title=f"by block, step {point.step}",
        ),
        steps=course(
            lookup.magnitudes(acts, point, "step"), point.step, ticks=list(data["step"].values), log=point.log,
            title=f"by step, block {site}", xlabel="step (0 = noise)",
        ),
        surface=None
        if raw is None
        else surface(
            raw.values, massive, channels=raw.channels.tolist(), tokens=raw.tokens.tolist(),
            at=(point.token, point.channel), log=point.log, title=where,
        ),
        sentence=sentence(acts, point, of_token, raw, means),
    )  # fmt: skip


def sentence(acts: Activations, point: Point, of_token: np.ndarray | None, raw: Raw | None, means: np.ndarray) -> str:
    """The numbers at a point."""
    columns = acts.grid[1]
    place = f" (row {point.token // columns}, column {point.token % columns})" if point.stream == "image" else ""
    if not np.isfinite(means).any():
        return f"There is no {point.stream} stream after this block (SD3 drops the text in its last one)."
    size, median = float(means[point.channel]), float(np.median(means))
    said = (
        f"Channel {point.channel}: mean |x| over {point.stream} tokens {size:.3g}, "
        f"{size / median:.3g} x the median channel's."
    )
    if raw is not None and of_token is not None and (found := np.flatnonzero(raw.channels == point.channel)).size:
        said = f"Token {point.token}{place}, channel {point.channel}: {float(of_token[found[0]]):.3g}. " + said
    return said
