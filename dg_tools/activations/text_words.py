"""The words of a prompt beside the tokens of a captured text stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dg_tools.models.dit import DiT
from dg_tools.models.text_tokens import text_tokens

PAD = "·"  # a token that only fills up


def text_words(dit: DiT, prompts: Sequence[Any], data: xr.Dataset) -> list[list[str]]:
    """One list per prompt: the text of each token, and a dot for one that only fills up.

    Empty where the family's record does not say which token is which word, or where there is no text stream.
    """
    if not dit.family.tokenizers or "text" not in data["stream"].values:
        return []
    norms = data["token_norm"].sel(stream="text").transpose("prompt", ..., "token").values
    words = []
    for prompt, kept in zip(prompts, norms, strict=True):
        there = np.isfinite(kept).reshape(-1, kept.shape[-1]).any(0)
        count = int(np.flatnonzero(there)[-1]) + 1 if there.any() else 0
        try:
            table = text_tokens(dit, str(prompt), count)
        except ValueError:  # the call has another length of text than these tokenizers make
            return []
        words.append([PAD if pad else str(piece) for piece, pad in zip(table["piece"], table["pad"], strict=True)])
    return words
