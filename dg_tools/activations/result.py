"""What a capture returns: one labelled dataset of statistics, with the settings that it was captured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dg_tools.activations.journal import save
from dg_tools.cards import card, curves, thumbnail

RUNS = ("prompt", "seed", "branch", "step", "site", "stream", "token", "channel")
SHOWN = 8  # pictures and prompts on a card


@dataclass
class Activations:
    """Captured activations.

    Attributes:
        data: an xarray.Dataset. Dims are among prompt, seed, branch (cond, uncond), step (with sigma), site, stream
            (image, text; reference where there are reference pictures), token, channel, rank, part, q. Variables are
            `mean`, `abs_mean`, `variance`, `positive` (share of tokens above 0), `abs_max` over tokens, by channel;
            `token_norm`, `token_max` over channels, by token (NaN beyond a stream's end); `top_value`,
            `top_channel`, `top_token` of the largest |x|; `median_abs_mean`; `clipped` (values at the
            dtype's limit or not finite); `quantile` of |x| where requested; `gate`, `shift`, `scale` of AdaLN by part;
            `attn_write`, `mlp_write` (mean |gated output| by channel);
            `attn_max`, `mlp_max` (largest |x| of these branches' outputs before the gate); `temb`, the time-text
            embedding (embedding); `hidden_states` (raw_step, raw_site, raw_token) where requested by `raw=`; `picture`.
            A video's image tokens have the coordinate `frame` (-1 beyond them).
            Its attributes: settings, model, hash of the weights, dtype and versions. If blocks are compiled, `left_out`
            lists missing variables: outputs of attention and MLP do not leave the compiled code.
    """

    data: xr.Dataset

    def __repr__(self) -> str:
        sizes = ", ".join(f"{k} {v}" for k, v in self.data.sizes.items())
        state = "" if self.data.attrs.get("finished", True) else "; unfinished"
        return f"Activations({sizes}; {self.data.nbytes / 2**20:.1f} MiB{state})"

    def _repr_html_(self) -> str:
        data, attrs = self.data, self.data.attrs
        facts = {
            "model": attrs.get("model"),
            "captured": ", ".join(f"{k} {data.sizes[k]}" for k in RUNS if k in data.sizes),
            "prompts": "; ".join(map(str, data["prompt"].values[:SHOWN])) if "prompt" in data.coords else "",
            "image tokens": f"{self.grid[0]} x {self.grid[1]}" if "grid" in attrs else "",
            "edits": "; ".join(attrs.get("edits", [])),
            "variables": ", ".join(map(str, data.data_vars)),
            "size": f"{data.nbytes / 2**20:.1f} MiB" + ("" if attrs.get("finished", True) else ", unfinished"),
        }
        return card("Activations", facts, self._thumbnails(), self._by_block())

    def _thumbnails(self) -> str:
        """The first pictures, one for each prompt and seed."""
        if "picture" not in self.data:
            return ""
        runs = [d for d in self.data["picture"].dims if d not in ("y", "x", "rgb")]
        pictures = self.data["picture"].transpose(*runs, "y", "x", "rgb")
        shown = []
        for at in list(np.ndindex(*(pictures.sizes[d] for d in runs)))[:SHOWN]:
            one = pictures.isel(dict(zip(runs, at, strict=True)))
            words = ", ".join(f"{d} {one[d].item()}" for d in runs if d in one.coords)
            shown.append(thumbnail(one.values, words))
        return "".join(shown)

    def _by_block(self) -> str:
        """The largest |x| of the image stream by block, beside the median channel."""
        if not {"top_value", "median_abs_mean"} <= set(self.data.data_vars) or "image" not in self.data["stream"]:
            return ""
        part = self.data[["top_value", "median_abs_mean"]].sel(stream="image").isel(rank=0)
        over = [d for d in part["top_value"].dims if d != "site"]
        lines = {
            "largest |x|": abs(part["top_value"]).mean(over).values.tolist(),
            "median channel's mean |x|": part["median_abs_mean"].mean(over).values.tolist(),
        }
        return curves(lines, [str(s) for s in part["site"].values], unit="|x|, image stream", axis="block")

    @property
    def grid(self) -> tuple[int, int]:
        """Image tokens as (rows, columns)."""
        rows, columns = self.data.attrs["grid"]
        return rows, columns

    @property
    def frames(self) -> int:
        """Latent frames of a video, whose image tokens come one frame after the other; 1 for a picture."""
        return int(self.data["frame"].max()) + 1 if "frame" in self.data.coords else 1

    def save(self, folder: str | Path) -> None:
        """Write a zarr store with a list of its files and their checksums, which `open_activations` reads.

        An existing store in this folder is replaced.

        Raises:
            FileExistsError: a folder that holds something else.
            OSError: the store could not be completed (a full disk); a previous store is still there.
        """
        save(self.data, Path(folder))

    def headroom(self, dtype: str = "float16") -> pd.DataFrame:
        """How near each block comes to the largest number of a dtype: one row for each block and place in it.

        A model that was trained in bfloat16 may overflow in float16, whose largest number is 65,504. A capture in the
        model's own dtype shows that without a trial. Values that are not captured, such as the products inside
        attention and the wide layer of the MLP, may be larger.

        Args:
            dtype: `float16`, `bfloat16`, `float8_e4m3fn` or another floating dtype of torch.

        Returns:
            Columns: `site`; `place`, the stream (image, text) at the block's output, or the output of a branch (attn,
            mlp) before its gate; `largest`, the largest |x| over all prompts, seeds, branches, steps, tokens and
            channels; `step` and `sigma` of it; `share` of the dtype's largest number; `octaves` left: 1 is a factor of
            2, below 0 overflows.

        Raises:
            ValueError: a dtype that is not a floating one.

        Example:
            >>> acts = dg.capture(dit, "red apple", steps=2)
            >>> acts.headroom("float16").nsmallest(1, "octaves")[["site", "place"]]
               site place
            22   10  text
        """
        from dg_tools.activations.headroom import headroom

        return headroom(self.data, dtype)

    def to_dataframe(self, variable: str | None = None) -> Any:
        """One variable as a tidy pandas table.

        Args:
            variable: None gives a summary: for each prompt, seed, branch, step, site and stream the numbers that have
                no channels or tokens (`median_abs_mean`, `clipped`, and the largest value with channel and token).

        Raises:
            KeyError: an unknown variable; the message lists the known ones.
        """
        if variable is not None:
            if variable not in self.data:
                raise KeyError(
                    f"variable {variable!r} is not in these activations; there are {', '.join(map(str, self.data))}"
                )
            return self.data[variable].to_dataframe().reset_index()
        part = self.data[[v for v in self.data if v in ("median_abs_mean", "clipped")]]
        for name in ("top_value", "top_channel", "top_token"):
            if name in self.data:
                part[name] = self.data[name].isel(rank=0)
        if not len(part.data_vars):
            raise KeyError(f"these activations have no statistics; name a variable: {', '.join(map(str, self.data))}")
        return part.to_dataframe().reset_index()
