"""How near do hidden states come to the largest number of a dtype?"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
import xarray as xr

BRANCHES = {"attn": "attn_max", "mlp": "mlp_max"}


def limit_of(dtype: str) -> float:
    """The largest number of a floating dtype, by its name in torch.

    Raises:
        ValueError: there is no such dtype.
    """
    kind = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is not a floating dtype of torch: 'float16' and 'bfloat16' are")
    return float(torch.finfo(kind).max)


def headroom(data: xr.Dataset, dtype: str = "float16") -> pd.DataFrame:
    """See `Activations.headroom`."""
    limit = limit_of(dtype)
    places = {}
    if "token_max" in data:
        largest = data["token_max"].max("token")
        places = {str(s): largest.sel(stream=s) for s in data["stream"].values}
    places |= {place: data[variable] for place, variable in BRANCHES.items() if variable in data}
    if not places:
        raise ValueError("these activations have no statistics of sizes: capture them again")
    rows = []
    for place, values in places.items():
        by_step = values.max([d for d in values.dims if d not in ("step", "site")]).transpose("site", "step")
        for site, sizes in zip(data["site"].values, by_step.values, strict=True):
            if np.isnan(sizes).all():  # no text there, or no such branch
                continue
            step = int(np.nanargmax(sizes))
            share = float(sizes[step]) / limit
            rows.append(
                {
                    "site": str(site),
                    "place": place,
                    "largest": float(sizes[step]),
                    "step": int(data["step"].values[step]),
                    "sigma": float(data["sigma"].values[step]),
                    "share": share,
                    "octaves": -math.log2(share) if share > 0 else math.inf,
                }
            )
    return pd.DataFrame(rows)
