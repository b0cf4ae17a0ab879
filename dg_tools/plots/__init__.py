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
from dg_tools.plots.compare import comparison_grid
from dg_tools.plots.correspondence import correspondence_effects, token_matches
from dg_tools.plots.denoise import equal_harm
from dg_tools.plots.denoise_error import band_errors
from dg_tools.plots.detail import detail_and_semantics
from dg_tools.plots.guidance import guidance_plane, push_maps
from dg_tools.plots.lens import lens_pictures
from dg_tools.plots.origin import origin_effects
from dg_tools.plots.pictures import channel_map, guidance_overview, image_grid
from dg_tools.plots.sweeps import sweep_map
from dg_tools.plots.timestep import timestep_effects
from dg_tools.plots.tokens import token_coverage

__all__ = ["band_errors", "channel_map", "detail_and_semantics", "equal_harm", "gates", "image_grid"]
__all__ += ["guidance_overview", "guidance_plane", "magnitude_by_block", "magnitude_by_sigma", "push_maps"]
__all__ += ["token_channel_surface", "token_channel_surface_plotly", "token_coverage"]
__all__ += ["comparison_grid", "correspondence_effects", "lens_pictures", "origin_effects", "sweep_map"]
__all__ += ["timestep_effects", "token_matches"]

FIGURES: dict[str, Callable[[Any], Any]] = {}  # experiment -> its figure, from its `Result`
FIGURES["tokens"] = token_coverage
FIGURES["timestep"] = timestep_effects
FIGURES["origin"] = origin_effects
FIGURES["denoise"] = equal_harm
FIGURES["detail"] = detail_and_semantics
FIGURES["guidance"] = guidance_plane
FIGURES["correspondence"] = correspondence_effects
