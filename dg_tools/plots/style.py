"""What all figures share: colours, wrapped captions, pictures from tables; a returned figure is shown once."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

INK, MASSIVE, QUIET = "#22313f", "#c0392b", "#95a5a6"


def finish(figure: Figure) -> Figure:
    """Close the figure, so that a notebook shows it once: as the value of its cell."""
    plt.close(figure)
    return figure


def wrap(text: str, width: int = 34) -> str:
    """Long captions over several lines."""
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""])


def side_by_side(names: Sequence[str], characters: int) -> int:
    """How many of these tick labels fit beside each other, with gaps, in a line of `characters`."""
    return characters // (max(map(len, names)) + 2)


def from_tidy(table: Any, columns: Sequence[str] = ("r", "g", "b")) -> np.ndarray:
    """An array (y, x, columns) from a table with one row per place `y`, `x`."""
    ordered = table.sort_values(["y", "x"])
    return ordered[list(columns)].to_numpy().reshape(int(ordered["y"].max()) + 1, -1, len(columns))
