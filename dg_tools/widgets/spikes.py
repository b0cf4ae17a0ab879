"""Hidden states as a surface of ridges that the reader turns, in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anywidget
import numpy as np
import traitlets as t

from dg_tools.plots.surface import pooled
from dg_tools.widgets import front
from dg_tools.widgets.chart import packed


@dataclass(frozen=True)
class Ridges:
    """What a surface shows: |activation| over token x channel, made small by maxima, so that no spike is lost.

    Attributes:
        size: (rows, columns) of |x|; a large matrix is pooled.
        tokens, channels: of the rows and columns, the first of each where they are pooled.
        pooled: whether a row or column covers several.
        marked: channels that are coloured and numbered.
        title: over it.
        log: a logarithmic height.
    """

    size: np.ndarray = field(repr=False)
    tokens: list[int]
    channels: list[int]
    pooled: bool = False
    marked: Sequence[int] = ()
    title: str = ""
    log: bool = False

    @classmethod
    def of(cls, hidden: np.ndarray, tokens: np.ndarray, channels: np.ndarray, **words: Any) -> Ridges:
        """Of hidden states (tokens, channels)."""
        small, rows, columns = pooled(np.abs(hidden))
        return cls(small, tokens[rows].tolist(), channels[columns].tolist(), small.shape != hidden.shape, **words)

    def front(self) -> dict[str, Any]:
        """As the browser takes it."""
        return {
            "values": packed(self.size),
            "tokens": self.tokens,
            "channels": self.channels,
            "pooled": self.pooled,
            "marked": [int(c) for c in self.marked],
            "title": self.title,
            "log": self.log,
        }


class Spikes(anywidget.AnyWidget):
    """A surface to turn.

    Attributes:
        data: what `Ridges.front` gives; empty: none.
        at: token and channel of the mark.
        point: token and channel of the last click.
        clicks: counts clicks, also on the point that was chosen already.
        height: pixels; the width is what the page gives.
        label: a description for screen readers.
    """

    _esm = front.module("spikes.js", "renderSpikes")
    _css = front.STYLE
    data = t.Dict({}).tag(sync=True)
    at = t.List(t.Int(), [-1, -1]).tag(sync=True)
    point = t.List(t.Int(), [-1, -1]).tag(sync=True)
    clicks = t.Int(0).tag(sync=True)
    height = t.Int(250).tag(sync=True)
    label = t.Unicode("").tag(sync=True)

    def __repr__(self) -> str:
        return f"Spikes({self.label!r}, {'empty' if not self.data else 'a surface'})"

    def draw(self, ridges: Ridges, at: tuple[int, int]) -> None:
        """Show a surface with one point (token, channel) marked; one message to the browser."""
        with self.hold_sync():
            self.data = {**ridges.front(), "version": self.data.get("version", 0) + 1}
            self.at = list(at)
