"""What `attention` returns: the mass that each key token receives, and the maps of words over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from dg_tools.kinds import some

Query = Literal["image", "text"]


@dataclass
class Attention:
    """Attention of sampling runs.

    Attributes:
        data: an xarray.Dataset. `mass` (prompt, seed, branch, step, site, head, query, key): the weight that a key
            token receives, mean over the query tokens of one stream (`image`, `text`); over all keys it sums to 1. Keys
            are image tokens, then text tokens, whichever comes first in the model: coordinates `stream` and `token`
            (index in its stream). A site is an attention product; `block` is the block that it is in. `piece` and `pad`
            (prompt, key): what a text token is, and whether it only fills the prompt up, for the conditional rows.
            `word_map` (..., head, word, row, column): the weight that each image token gives to a word, summed over the
            word's tokens. `weights` (..., map_step, map_site, head, from_key, key): whole maps, from each token
            (numbered as the keys) to each. `picture` (y, x, rgb). NaN where a product does not see a token.
    """

    data: xr.Dataset

    def __repr__(self) -> str:
        sizes = ", ".join(f"{k} {v}" for k, v in self.data.sizes.items())
        return f"Attention({sizes}; {self.data.nbytes / 2**20:.1f} MiB)"

    @property
    def grid(self) -> tuple[int, int]:
        """Image tokens as (rows, columns)."""
        rows, columns = self.data.attrs["grid"]
        return rows, columns

    def by_stream(self) -> pd.DataFrame:
        """Share of the attention of each stream's queries that goes to image tokens, text tokens and pad tokens.

        Returns:
            One row for each site and query: site, block, query, image, text, pad (which is part of text); mean over
            prompts, seeds, branches, steps and heads. Without tokenizers in the family's record `pad` is NaN.
        """
        mass = self.data["mass"]
        shares = {name: mass.where(mass["stream"] == name).sum("key") for name in ("image", "text")}
        shares["pad"] = mass.where(self.data["pad"]).sum("key") if "pad" in self.data else shares["text"] * np.nan
        there = mass.notnull().any("key")
        over = [d for d in ("prompt", "seed", "branch", "step", "head") if d in mass.dims]
        means = {name: share.where(there).mean(over) for name, share in shares.items()}
        return xr.Dataset(means).to_dataframe().reset_index().dropna(subset=["image"]).reset_index(drop=True)

    def sinks(self, k: int = 10, *, query: Query = "image", blocks: Sequence[int] | None = None) -> pd.DataFrame:
        """The key tokens that receive the most attention.

        Args:
            k: how many.
            query: the stream whose queries count, `image` or `text`.
            blocks: mean over these blocks; None: over all that see both streams.

        Returns:
            Columns: stream, token, piece and pad (of the first prompt, where known), mass (mean over everything else),
            times (mass divided by an equal share, 1 / keys), tallest (the largest `times` in a single block).

        Raises:
            ValueError: fewer than one token, or a query or blocks that are not there.
        """
        if k < 1:
            raise ValueError(f"k={k}; at least 1")
        mass = self.mean_mass(query, blocks)
        count = int(mass.notnull().any("site").sum())
        mean, most = mass.mean("site"), mass.max("site")
        table = pd.DataFrame(
            {
                "stream": self.data["stream"].values,
                "token": self.data["token"].values,
                "piece": self.data["piece"].isel(prompt=0).values if "piece" in self.data else "",
                "pad": self.data["pad"].isel(prompt=0).values if "pad" in self.data else False,
                "mass": mean.values,
                "times": mean.values * count,
                "tallest": most.values * count,
            }
        )
        return table.dropna(subset=["mass"]).nlargest(k, "mass").reset_index(drop=True)

    def mean_mass(self, query: Query = "image", blocks: Sequence[int] | None = None) -> xr.DataArray:
        """Mean `mass` for the queries of one stream, (site, key), at the sites that see both streams.

        If no site sees both, as in a model with separate cross-attention, all sites with these queries are used.

        Raises:
            ValueError: a query or blocks that are not there.
        """
        mass = self.data["mass"].sel(query=query) if query in self.data["query"].values else None
        if mass is None:
            raise ValueError(f"query={query!r}; allowed: {', '.join(map(str, self.data['query'].values))}")
        mass = mass.mean([d for d in mass.dims if d not in ("site", "key")])
        if blocks is not None:
            known = set(self.data["block"].values.tolist())
            if not set(blocks) <= known:
                raise ValueError(f"blocks={list(blocks)} requested; attention was read at blocks {sorted(known)}")
            mass = mass.sel(site=np.isin(mass["block"], list(blocks)))
        seen = mass.notnull()
        both = seen.all("key")
        keep = both if bool(both.any()) else seen.any("key")
        if not bool(keep.any()):
            raise ValueError(f"no attention of {query} tokens at these blocks")
        return mass.sel(site=keep)

    def token_mass(
        self, stream: Query = "text", *, query: Query = "image", blocks: Sequence[int] | None = None
    ) -> np.ndarray:
        """The mass of each token of one stream, (tokens,): mean over everything else; for `MaskTokens.controls`."""
        mass = self.mean_mass(query, blocks).mean("site")
        return np.nan_to_num(mass.values[self.data["stream"].values == stream])

    def word_map(self, word: str, *, blocks: Sequence[int] | None = None, prompt: int = 0) -> np.ndarray:
        """The attention that each place of the picture gives to a word: (rows, columns).

        It is the mean over seeds, branches, steps, heads and blocks; `data["word_map"]` has each separately.

        Args:
            word: one of those that `attention(words=...)` was given.
            blocks: mean over these blocks; None: over all.
            prompt: which prompt, by its index.

        Raises:
            KeyError: a word whose map was not kept.
            ValueError: blocks at which attention was not read.
        """
        words = self.data["word"].values.tolist() if "word" in self.data.coords else []
        if word not in words:
            kept = f"there are maps of {some(map(repr, words), 8)}" if words else "none was kept"
            raise KeyError(f"word {word!r} has no map; {kept}: pass words=[{word!r}] to attention")
        field = self.data["word_map"].sel(word=word).isel(prompt=prompt)
        if blocks is not None:
            known = field["block"].values.tolist()
            field = field.sel(site=np.isin(field["block"], list(blocks)))
            if not field.sizes["site"]:
                raise ValueError(
                    f"blocks={list(blocks)} requested; attention was read at blocks {some(sorted(set(known)), 60)}"
                )
        return field.mean([d for d in field.dims if d not in ("row", "column")]).values

    def plot(self, word: str | None = None, **kwargs: Any) -> Any:
        """Figure: the map of a word over the picture; with `word=None`, how much each stream receives at each block."""
        from dg_tools.plots import attention_mass, word_over_picture

        if word is None:
            return attention_mass(self, **kwargs)
        picture = self.data["picture"].isel(prompt=kwargs.get("prompt", 0), seed=0).values
        return word_over_picture(self.word_map(word, **kwargs), picture, word=word)
