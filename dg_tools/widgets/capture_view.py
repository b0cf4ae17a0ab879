"""The view of one point of a capture: the values of its maps and charts, for the browser and as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dg_tools.activations import Activations
from dg_tools.plots.explorers import course, profile, token_field
from dg_tools.plots.surface import surface
from dg_tools.widgets import capture_lookup as lookup
from dg_tools.widgets.capture_lookup import HiddenStates, Point
from dg_tools.widgets.chart import Curves
from dg_tools.widgets.spikes import Ridges
from dg_tools.widgets.token_map import TokenValues
from dg_tools.widgets.word_maps import word_values


@dataclass(frozen=True)
class CaptureView:
    """The view of a point. The values are looked up at once; a figure is drawn where it is read.

    Attributes:
        tokens: one value per image token; None where the stream is another.
        text: one value per token of another stream; None where the stream is the image.
        by_channel: one value per channel, of the chosen token or of all.
        by_block, by_step: the channel's size by block and by step.
        sentence: the numbers in words.
        words: the prompt's tokens, where the capture has them.
    """

    acts: Activations
    point: Point
    massive: list[int]
    hidden: HiddenStates | None
    tokens: TokenValues | None
    text: Curves | None
    by_channel: Curves
    by_block: Curves
    by_step: Curves
    sentence: str
    words: Sequence[str] | None = None

    @property
    def where(self) -> str:
        """Block and step."""
        return where(self.acts, self.point)

    @property
    def ridges_kept(self) -> bool:
        """Whether there is a surface."""
        return self.hidden is not None

    @cached_property
    def ridges(self) -> Ridges | None:
        """|activation| over token x channel; None where no hidden states were kept."""
        if self.hidden is None:
            return None
        words = {"marked": self.massive, "title": "Token x channel: drag to turn", "log": self.point.log}
        return Ridges.of(self.hidden.values, self.hidden.tokens, self.hidden.channels, **words)

    @property
    def map(self) -> Figure:
        """The tokens over the picture, or along the prompt."""
        if self.tokens is None:
            assert self.text is not None
            return stems(self.text, self.point.token)
        picture, which = lookup.picture_at(self.acts, self.point)
        return token_field(
            self.tokens.values,
            self.acts.grid,
            picture,
            title=f"{self.tokens.title}, sigma {sigma(self.acts, self.point):.3g}\nover {which}",
            signed=self.tokens.signed,
            label=self.tokens.name,
        )

    @property
    def channels(self) -> Figure:
        """The channels."""
        return stems(self.by_channel, self.point.channel)

    @property
    def blocks(self) -> Figure:
        """The channel by block."""
        return lines(self.by_block, self.point.block)

    @property
    def steps(self) -> Figure:
        """The channel by step."""
        return lines(self.by_step, self.point.step)

    @property
    def surface(self) -> Any:
        """Token x channel as a plotly figure; None where no hidden states were kept."""
        if self.hidden is None:
            return None
        return surface(
            self.hidden.values,
            self.massive,
            channels=self.hidden.channels.tolist(),
            tokens=self.hidden.tokens.tolist(),
            at=(self.point.token, self.point.channel),
            log=self.point.log,
            title=self.where,
        )


def stems(curves: Curves, at: int) -> Figure:
    """Curves as a figure of stems."""
    (values,) = curves.lines.values()
    words = {"title": curves.title, "xlabel": curves.xlabel, "ylabel": curves.ylabel}
    return profile(values, at, marked=curves.marked, log=curves.log, **words)


def lines(curves: Curves, at: int) -> Figure:
    """Curves as a figure of lines."""
    words = {"title": curves.title, "xlabel": curves.xlabel, "ylabel": curves.ylabel}
    return course(curves.lines, at, ticks=curves.names or (), log=curves.log, **words)


def where(acts: Activations, point: Point) -> str:
    """Block and step in words."""
    return f"after block {acts.data['site'].values[point.block]}, step {point.step}"


def sigma(acts: Activations, point: Point) -> float:
    """The noise level of the point's step."""
    return float(acts.data["sigma"].values[point.step])


def render(acts: Activations, point: Point, massive: list[int], words: Sequence[str] | None = None) -> CaptureView:
    """The view of a point, from what was captured; `words` are the prompt's tokens."""
    hidden, image = lookup.hidden_at(acts, point), point.stream == "image"
    site = str(acts.data["site"].values[point.block])
    return CaptureView(
        acts,
        point,
        massive,
        hidden,
        tokens=token_values(acts, point, hidden) if image else None,
        text=None if image else text_norms(acts, point, words),
        by_channel=channel_profile(acts, point, hidden, massive),
        by_block=Curves(
            lookup.magnitudes(acts, point, "site"),
            f"Channel {point.channel} by block, step {point.step}",
            "block",
            "mean |x|",
            names=[str(s) for s in acts.data["site"].values],
            log=point.log,
        ),
        by_step=Curves(
            lookup.magnitudes(acts, point, "step"),
            f"Channel {point.channel} by step, block {site}",
            "step (0 = noise)",
            "mean |x|",
            "step",
            names=[str(s) for s in acts.data["step"].values],
            log=point.log,
        ),
        sentence=sentence(acts, point, hidden),
        words=words,
    )


def token_values(acts: Activations, point: Point, hidden: HiddenStates | None) -> TokenValues:
    """One value per image token: a word's attention where one is chosen, else the channel's activation where it was
    kept, else the norm over channels.
    """
    if point.word:
        return word_values(acts, point)
    norms = lookup.token_norms(acts, point)
    field = np.full(acts.grid[0] * acts.grid[1], np.nan, np.float32)
    column = hidden.column(point.channel) if hidden else None
    if hidden is not None and column is not None:
        field[hidden.tokens] = column
        return TokenValues(field, f"channel {point.channel} {where(acts, point)}", "activation", True)
    field[: len(norms)] = norms
    return TokenValues(field, f"norm of each token {where(acts, point)}", "norm over channels", False)


def text_norms(acts: Activations, point: Point, words: Sequence[str] | None) -> Curves:
    """The norm of each token of a stream that is not the image's."""
    norms = lookup.token_norms(acts, point)
    names = None if words is None or len(words) != len(norms) else list(words)
    title = f"{point.stream} tokens {where(acts, point)}"
    return Curves(
        {"norm": norms}, title, f"{point.stream} token", "norm over channels", stems=True, names=names, log=point.log
    )


def channel_profile(acts: Activations, point: Point, hidden: HiddenStates | None, massive: list[int]) -> Curves:
    """One value per channel: the token's activations where they were kept, else the mean over tokens."""
    row = hidden.row(point.token) if hidden else None
    if hidden is not None and row is not None:
        values = np.full(acts.data.sizes["channel"], np.nan, np.float32)
        values[hidden.channels] = row
        title, ylabel = f"token {point.token} {where(acts, point)}", "activation"
    else:
        values = lookup.by_channel(acts, point)
        title, ylabel = f"mean over {point.stream} tokens {where(acts, point)}", "mean |x|"
    return Curves({ylabel: values}, title, "channel", ylabel, stems=True, marked=massive, log=point.log)


def sentence(acts: Activations, point: Point, hidden: HiddenStates | None) -> str:
    """The numbers at a point, in words."""
    columns = acts.grid[1]
    place = f" (row {point.token // columns}, column {point.token % columns})" if point.stream == "image" else ""
    means = lookup.by_channel(acts, point)
    if not np.isfinite(means).any():
        return f"There is no {point.stream} stream after this block (SD3 drops the text in its last one)."
    size, median = float(means[point.channel]), float(np.median(means))
    attends = ""
    if point.word and point.stream == "image":
        share = float(word_values(acts, point).values[point.token])
        attends = (
            f" Token {point.token} gives {share:.3g} of its attention to {point.word!r}." if np.isfinite(share) else ""
        )
    words = (
        f"Channel {point.channel}: mean |x| over {point.stream} tokens {size:.3g}, "
        f"{size / median:.3g} x the median channel's. Noise level sigma {sigma(acts, point):.3g}.{attends}"
    )
    row = hidden.row(point.token) if hidden else None
    if hidden is not None and row is not None and (index := np.flatnonzero(hidden.channels == point.channel)).size:
        words = f"Token {point.token}{place}, channel {point.channel}: {float(row[index[0]]):.3g}. " + words
    return words
