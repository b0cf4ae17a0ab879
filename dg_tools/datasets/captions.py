"""Check a prompt's words against the captions that an embedded model was trained on.

A small model draws something for any prompt, but a picture of a word that it was not trained on means nothing. So the
explorers and the command line warn first, and name the nearest training captions.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a reader typed is checked before torch is loaded
    from dg_tools.datasets.references import References
    from dg_tools.models.dit import DiT


def check_prompt(prompt: str) -> str:
    """The prompt without spaces around it.

    Raises:
        ValueError: an empty one.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty: write what the picture should show, such as: red apple on blue")
    return prompt.strip()


def check_seed(seed: str | int) -> int:
    """A seed from what a reader typed.

    Raises:
        ValueError: no whole number from 0 up.
    """
    text = str(seed).strip()
    if not re.fullmatch(r"\d+", text) or int(text) >= 2**63:
        raise ValueError(f"the seed {text!r} is not a whole number from 0 up: write one such as 0 or 42")
    return int(text)


def unknown_words(prompt: str, known: References) -> list[str]:
    """Words of a prompt that no training caption has, in order."""
    from dg_tools.datasets.references import STYLES

    words = {w for name in known.names for w in name.split("-")} | set(STYLES) | set(known.backgrounds) | {"on"}
    return [w for w in dict.fromkeys(re.findall(r"[^\s,]+", prompt.lower())) if w.strip(".") not in words]


def nearest_captions(prompt: str, known: References, count: int = 3) -> list[str]:
    """Names from the training captions that are spelled most like the prompt, or like one of its words."""
    names = [name.replace("-", " ") for name in known.names]
    head = re.split(r",| on ", prompt.lower())[0].strip()
    near = difflib.get_close_matches(head, names, count, 0.5)
    for word in head.split():
        near += [n for n in names if word in n.split()][:count]
        near += difflib.get_close_matches(word, names, count, 0.6)
    return list(dict.fromkeys(near))[:count]


def advice(dit: DiT, prompt: str) -> str | None:
    """A sentence about words that the embedded model never saw, with the nearest captions.

    None if there are no such words, or if the model's captions are not known.
    """
    from dg_tools.datasets.references import references

    try:
        known = references(dit)
    except FileNotFoundError:
        return None
    strange = unknown_words(prompt, known)
    if not strange:
        return None
    near = nearest_captions(prompt, known) or [name.replace("-", " ") for name in known.names[:3]]
    return (
        f"This model never saw {', '.join(repr(w) for w in strange)} in training, so its picture may show anything. "
        f"Nearest known captions: {'; '.join(near)}."
    )
