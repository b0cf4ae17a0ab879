"""Joins single runs into one capture: adds the settings, orders the runs, and marks missing ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dg_tools.activations.recorder import LARGEST, WRITES
from dg_tools.activations.result import Activations
from dg_tools.forward.compiled import compiled_parts
from dg_tools.interventions import Edit
from dg_tools.models.dit import DiT
from dg_tools.models.provenance import provenance, version

logger = logging.getLogger("dg_tools")


def check_quantiles(quantiles: Sequence[float]) -> None:
    """Raise ValueError for a quantile outside 0 to 1."""
    if not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"quantiles={tuple(quantiles)}; each is a share, 0 to 1")


def settings(dit: DiT, height: int, width: int, edits: Sequence[Edit]) -> dict[str, Any]:
    """Settings of a capture: model, weights, precision, versions, size, edits, and what is left out."""
    source = provenance(dit)
    versions = {**source["versions"], "dg_tools": version("dg-tools")}
    flat = {p: versions[p] for p in ("torch", "diffusers", "nnsight")}
    size = {"grid": list(dit.grid(height, width)), "height": height, "width": width}
    found = {**source, "versions": versions, **flat, **size, "edits": [e.sentence() for e in edits]}
    if compiled_parts(dit.transformer):
        found["left_out"] = f"{', '.join((*WRITES, *LARGEST))} of compiled blocks"
        logger.warning("not captured: %s, since the compiled code does not return them", found["left_out"])
    return found


def combined(runs: Sequence[xr.Dataset], prompts: Sequence[str], seeds: Sequence[int]) -> xr.Dataset:
    """One dataset of the runs, which come in the order of their prompts, then seeds."""
    if len(runs) == 1:  # what xarray does with several takes as long as a step of a small model
        return runs[0].expand_dims(prompt=list(prompts), seed=list(seeds)).copy(deep=True)
    table = [list(runs[i : i + len(seeds)]) for i in range(0, len(runs), len(seeds))]
    data = xr.combine_nested(table, concat_dim=["prompt", "seed"], combine_attrs="override", join="exact")
    return data.assign_coords(prompt=list(prompts), seed=list(seeds)).transpose("prompt", "seed", ...)


def unfinished(
    runs: Sequence[xr.Dataset], prompts: Sequence[str], seeds: Sequence[int], attrs: dict[str, Any]
) -> Activations | None:
    """The finished runs of a capture that was stopped; missing runs are NaN and have no picture. None: no run."""
    if not runs:
        return None
    blank = runs[0].map(lambda v: xr.full_like(v, np.nan if v.dtype.kind == "f" else 0))
    rows = -(-len(runs) // len(seeds))
    data = combined([*runs, *[blank] * (rows * len(seeds) - len(runs))], prompts[:rows], seeds)
    data.attrs = {**attrs, "finished": False}
    return Activations(data)
