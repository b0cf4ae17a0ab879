"""Which word of a prompt each text token belongs to, and which tokens are padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dg_tools.kinds import counted
from dg_tools.models.dit import DiT

MARKS = ("</w>", "\u2581", "\u0120")  # what tokenizers write for the space beside a word


def text_tokens(dit: DiT, prompt: str, count: int) -> pd.DataFrame:
    """The tokens of a prompt as the pipeline makes them, one row each, in the order of the text stream.

    Args:
        dit: from `load`.
        prompt: a string.
        count: tokens of the text stream.

    Returns:
        Columns: token (its index), tokenizer, number (the tokenizer's id), piece (its text), pad (it is padding).

    Raises:
        ValueError: a family whose record names no tokenizers, or fewer tokens than they make.
    """
    names = dit.family.tokenizers
    if not names:
        raise ValueError(
            f"family {dit.family.name!r}: its record does not say which text token is which word; name text tokens by "
            "their index"
        )
    rows: list[dict[str, Any]] = []
    for name in names:
        tokenizer = getattr(dit.pipeline, name, None)
        left = count - len(rows)
        length = left if name == names[-1] else min(left, getattr(tokenizer, "model_max_length", left))
        rows += parts_of(tokenizer, name, prompt, length)
    if len(rows) != count:
        raise ValueError(
            f"the tokenizers ({', '.join(names)}) make {counted(len(rows), 'token')}; the text stream has {count}"
        )
    return pd.DataFrame(rows).rename_axis("token").reset_index()


def parts_of(tokenizer: Any, name: str, prompt: str, length: int) -> list[dict[str, Any]]:
    """The tokens that one tokenizer makes; all are padding if the pipeline does not have that tokenizer."""
    if tokenizer is None:
        return [{"tokenizer": name, "number": -1, "piece": "", "pad": True}] * length
    made = tokenizer(prompt, padding="max_length", max_length=length, truncation=True)
    numbers = list(made["input_ids"])
    pieces = tokenizer.convert_ids_to_tokens(numbers)
    return [
        {"tokenizer": name, "number": int(number), "piece": plain(piece), "pad": not kept}
        for number, piece, kept in zip(numbers, pieces, made["attention_mask"], strict=True)
    ]


def plain(piece: str) -> str:
    """A token's text without the tokenizer's mark for a space."""
    for mark in MARKS:
        piece = piece.replace(mark, "")
    return piece


def tokens_of_word(dit: DiT, table: pd.DataFrame, word: str) -> list[int]:
    """Indices in the text stream of every occurrence of a word, from every tokenizer that finds it.

    Args:
        dit: the model.
        table: of `text_tokens`.
        word: one or several words in a row, as the prompt writes them.

    Raises:
        ValueError: the prompt does not have the word; the message lists its tokens.
    """
    found: list[int] = []
    for name, part in table[~table["pad"]].groupby("tokenizer", sort=False):
        numbers = part["number"].tolist()
        wanted = list(getattr(dit.pipeline, str(name))(word, add_special_tokens=False)["input_ids"])
        found += [int(part["token"].iloc[i + j]) for i in places(numbers, wanted) for j in range(len(wanted))]
    if not found:
        own = " ".join(table[~table["pad"]]["piece"])
        raise ValueError(f"the word {word!r} is not in this prompt; its tokens are: {own}")
    return sorted(set(found))


def places(numbers: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Where a run of numbers begins in a list."""
    length = len(wanted)
    return [i for i in range(len(numbers) - length + 1) if length and list(numbers[i : i + length]) == list(wanted)]
