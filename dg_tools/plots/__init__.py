"""Figures from arrays and results: returned, never shown, each readable alone.

The figure of experiment `x` is `x_figure` in `plots/x.py`. matplotlib for what must be read everywhere; plotly where
turning the figure is the point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from dg_tools.plots.activations import (
    gates,
    headroom,
    magnitude_by_block,
    magnitude_by_sigma,
    token_channel_surface,
    token_channel_surface_plotly,
)
from dg_tools.plots.attention import attention_mass, word_over_picture
from dg_tools.plots.compare import comparison_grid
from dg_tools.plots.correspondence import correspondence_figure, token_matches
from dg_tools.plots.denoise import denoise_figure
from dg_tools.plots.denoise_error import denoise_error_figure
from dg_tools.plots.detail import detail_figure
from dg_tools.plots.dose import dose_figure
from dg_tools.plots.frames import frames_by_block
from dg_tools.plots.guidance import direction_maps, guidance_figure
from dg_tools.plots.lens import lens_figure
from dg_tools.plots.origin import origin_figure
from dg_tools.plots.overview import overview
from dg_tools.plots.pictures import channel_map, image_grid
from dg_tools.plots.rivals import rivals_figure
from dg_tools.plots.sinks import sinks_figure
from dg_tools.plots.style import STYLE, name_lines
from dg_tools.plots.sweeps import sweep_map
from dg_tools.plots.timestep import timestep_figure
from dg_tools.plots.tokens import tokens_figure
from dg_tools.plots.two_faces import two_faces

__all__ = [
    "STYLE",
    "attention_mass",
    "channel_map",
    "comparison_grid",
    "correspondence_figure",
    "denoise_error_figure",
    "denoise_figure",
    "detail_figure",
    "direction_maps",
    "dose_figure",
    "frames_by_block",
    "gates",
    "guidance_figure",
    "headroom",
    "image_grid",
    "lens_figure",
    "magnitude_by_block",
    "magnitude_by_sigma",
    "name_lines",
    "origin_figure",
    "overview",
    "rivals_figure",
    "sinks_figure",
    "sweep_map",
    "timestep_figure",
    "token_channel_surface",
    "token_channel_surface_plotly",
    "token_matches",
    "tokens_figure",
    "two_faces",
    "word_over_picture",
]

FIGURES: dict[str, Callable[[Any], Figure]] = {  # experiment -> the figure of its `Result`
    "correspondence": correspondence_figure,
    "denoise": denoise_figure,
    "detail": detail_figure,
    "dose": dose_figure,
    "guidance": guidance_figure,
    "origin": origin_figure,
    "rivals": rivals_figure,
    "sinks": sinks_figure,
    "timestep": timestep_figure,
    "tokens": tokens_figure,
}
