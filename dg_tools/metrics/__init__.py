"""Measures of detail and of pictures, on tensors alone; no model is imported here.

`bands`: power by spatial frequency, coherent with a reference or not. `cell_bands`: the same in cycles per latent cell,
and the amount of detail at equal contrast. `deficit`: whether a weak model lacks detail. `pictures`: what one picture
shows of detail, noise, contrast and content. `loudness`: the gain of one tensor against another.
`distributions`: two sets of pictures. `published`: metrics that others defined, from the libraries that keep them.
`keypoints`: whether matched places are the right ones. `learned`: scores by large networks (optional). `intervals`:
confidence intervals of means.

Pictures are float tensors (N, C, H, W), on one scale throughout a call ([-1, 1] or [0, 1]); powers are in its square.
"""

from __future__ import annotations

from dg_tools.metrics.bands import (
    BANDS,
    Bands,
    Split,
    band_correlation,
    band_error,
    band_masks,
    band_pass,
    band_power,
    coherent_error,
    coherent_power,
    region_error,
    same_shape,
    spectrum,
)
from dg_tools.metrics.cell_bands import (
    CELL_BANDS,
    HIGH,
    LOW,
    amount_change,
    band_changes,
    band_name,
    cell_correlation,
    cell_error,
    cell_masks,
    cell_power,
    fineness,
    low_correlation,
)
from dg_tools.metrics.deficit import Deficit, Judgement, WeakModelRule, detail_deficit
from dg_tools.metrics.distributions import (
    Distance,
    RadialSpectrum,
    kernel_distance,
    log_spectral_distance,
    radial_spectrum,
    statistics_distance,
)
from dg_tools.metrics.intervals import bootstrap_interval, bootstrap_ratio
from dg_tools.metrics.keypoints import chance_level, correct_keypoints, match_distance, nearest_tokens
from dg_tools.metrics.loudness import gain, row_gain
from dg_tools.metrics.pictures import (
    UNITS,
    Share,
    axis_share,
    contrast,
    describe,
    detail_share,
    flat_noise,
    laplacian_variance,
    luminance,
    normalised_laplacian_variance,
    reduced_distance,
    retrieval_margin,
    retrieval_rank,
    top_k,
)
from dg_tools.metrics.published import blur_effect, structural_similarity

__all__ = ["BANDS", "UNITS", "Bands", "Distance", "RadialSpectrum", "Share", "Split", "axis_share", "band_correlation"]
__all__ += ["band_error", "band_masks", "band_pass", "band_power", "blur_effect", "bootstrap_interval"]
__all__ += ["bootstrap_ratio", "coherent_error", "coherent_power", "contrast", "describe", "detail_share", "flat_noise"]
__all__ += ["kernel_distance", "laplacian_variance", "log_spectral_distance", "luminance"]
__all__ += ["normalised_laplacian_variance", "radial_spectrum", "region_error", "retrieval_rank", "same_shape"]
__all__ += ["spectrum", "statistics_distance", "structural_similarity", "top_k"]
__all__ += ["chance_level", "correct_keypoints", "match_distance", "nearest_tokens"]
__all__ += [
    "CELL_BANDS",
    "HIGH",
    "LOW",
    "amount_change",
    "band_changes",
    "band_name",
    "cell_correlation",
    "cell_error",
    "cell_masks",
]
__all__ += ["cell_power", "fineness", "gain", "low_correlation", "reduced_distance", "retrieval_margin"]
__all__ += ["row_gain"]
__all__ += ["Deficit", "Judgement", "WeakModelRule", "detail_deficit"]
