"""Figures from arrays and results: returned, never shown, each readable alone.

matplotlib for what must be read everywhere; plotly where turning the figure is the point. One file a subject.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dg_tools.plots.activations import (
    gates,
    magnitude_by_block,
    magnitude_by_sigma,
    token_channel_surface,
    token_channel_surface_plotly,
)
from dg_tools.plots.one_step import band_errors, equal_harm
from dg_tools.plots.pictures import channel_map, image_grid
from dg_tools.plots.where import token_coverage

__all__ = ["band_errors", "channel_map", "equal_harm", "gates", "image_grid", "magnitude_by_block"]
__all__ += ["magnitude_by_sigma"]
__all__ += ["token_channel_surface", "token_channel_surface_plotly", "token_coverage"]

FIGURES: dict[str, Callable[[Any], Any]] = {}  # experiment -> its figure, from its `Result`
FIGURES["tokens"] = token_coverage
FIGURES["denoise"] = equal_harm
