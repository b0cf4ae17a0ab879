"""The map of a word over the picture, from the attention that a capture keeps beside its activations: pure reads.

`attention` keeps a word's map by attention product, step and head. In a capture it is the variable `word_map`,
whose products are named in `attention_site`, so that it is saved and opened with everything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dg_tools.activations import Activations
from dg_tools.activations.attention_result import Attention
from dg_tools.kinds import counted, kind_of
from dg_tools.widgets import capture_lookup as lookup
from dg_tools.widgets.capture_lookup import Point
from dg_tools.widgets.token_map import TokenValues

NOT_KEPT = "?"  # the choice that says how to keep words
SHARED = ("prompt", "seed", "branch", "step")


def with_attention(acts: Activations, found: Attention) -> Activations:
    """The capture with the word maps of `attention` on the same runs.

    Raises:
        TypeError: an object that is not an `Attention`.
        ValueError: an attention without word maps, or of other runs or another size.
    """
    if not isinstance(found, Attention):
        raise TypeError(f"attention= is {kind_of(found)}; pass what dg_tools.activations.attention gave")
    if "word_map" not in found.data:
        raise ValueError("this attention has no map of any word: pass words=[...] to attention")
    for name in SHARED:
        own, other = (list(map(str, data[name].values)) for data in (acts.data, found.data))
        if own != other:
            raise ValueError(f"the attention is of {name} {other}, the capture of {own}: read both from the same call")
    if acts.grid != found.grid:
        raise ValueError(
            f"the attention has {found.grid} image tokens, the capture {acts.grid}: read both at the same size"
        )
    maps = found.data["word_map"].rename(site="attention_site").drop_vars(["block", "sigma"])
    blocks = ("attention_site", found.data["block"].values)
    return Activations(acts.data.assign(word_map=maps, attention_block=blocks))


def check(acts: Activations, name: str, value: Any) -> None:
    """Raise ValueError for a `word` or a `head` whose map the capture does not have."""
    words, heads = lookup.words_kept(acts), lookup.head_count(acts)
    if name == "word" and value and value not in words:
        there = f"it has {', '.join(map(repr, words))}" if words else "it has none"
        word = "apple" if value == NOT_KEPT else value
        raise ValueError(
            f'this capture has no map of that word; {there}. Capture with "words\' attention" ticked, or pass '
            f"ActivationExplorer(acts, attention=attention(dit, prompts, words=[{word!r}], ...)), with the same seeds "
            "and steps"
        )
    if name == "head" and not -1 <= value < max(heads, 1):
        raise ValueError(f"head {value} requested; this capture has 0 to {heads - 1}, and -1 is their mean")


def fields(acts: Activations, point: Point) -> np.ndarray:
    """A word's maps in one run: (step, block, head, tokens), mean over the block's products; NaN where none sees it."""
    maps = lookup.part(acts, "word_map", point, word=lookup.words_kept(acts).index(point.word))
    values = maps.transpose("step", "attention_site", "head", "row", "column").values
    values = values.reshape(*values.shape[:3], -1)
    made = np.full((len(values), acts.data.sizes["site"], *values.shape[2:]), np.nan, np.float32)
    for block in range(made.shape[1]):
        here = values[:, acts.data["attention_block"].values == block]
        seen = here[:, ~np.isnan(here).all((0, 2, 3))]
        if seen.shape[1]:
            made[:, block] = seen.mean(1)
    return made


def word_values(acts: Activations, point: Point) -> TokenValues:
    """How much of its attention each place of the picture gives to the point's word."""
    maps = fields(acts, point)[point.step, point.block]
    values = maps.mean(0) if point.head < 0 else maps[point.head]
    heads = f"mean of {counted(len(maps), 'head')}" if point.head < 0 else f"head {point.head}"
    site = acts.data["site"].values[point.block]
    title = f"attention to {point.word!r}, block {site}, step {point.step}, {heads}"
    if np.isnan(values).all():
        title = f"no attention to {point.word!r} was kept at block {site}"
    return TokenValues(values.astype(np.float32), title, "share of the place's attention", False)
