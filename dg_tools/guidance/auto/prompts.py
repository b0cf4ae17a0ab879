"""The prompts that `auto` tries a model on: a few of our own for any model, captions for the embedded ones."""

from __future__ import annotations

from dg_tools.datasets.references import references
from dg_tools.models.dit import DiT

GENERAL = (  # what is drawn differs, and so does how much detail it has
    "a red apple on a wooden table",
    "an old fisherman mending a net",
    "a narrow street in the rain at night",
    "a forest in autumn, seen from a hill",
    "a cat asleep on a woollen blanket",
    "a stone bridge over a river",
    "a bowl of noodle soup with herbs",
    "a sailing boat in the harbour",
)
EMOJI = ("red apple", "owl", "house", "a tree on green", "cat face", "strawberry on white", "fish", "sun on blue")


def prompts_of(dit: DiT) -> tuple[str, ...]:
    """The prompts for a model: emoji captions where it was trained on them, else general ones."""
    try:
        references(dit)
    except FileNotFoundError:
        return GENERAL
    return EMOJI
