"""What all figures share: colours, wrapped captions, and that a returned figure is shown once."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

INK, MASSIVE, QUIET = "#22313f", "#c0392b", "#95a5a6"


def finish(figure: Figure) -> Figure:
    """Close: a returned figure is shown once, by whoever asked for it."""
    plt.close(figure)
    return figure


def wrap(text: str, width: int = 34) -> str:
    """Long captions over several lines."""
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""])


def side_by_side(names: Sequence[str], characters: int) -> int:
    """How many of these tick labels fit beside each other, with gaps, where so many characters fit."""
    return characters // (max(map(len, names)) + 2)
