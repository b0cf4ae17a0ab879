"""Prompts without pictures: general ones of this package, captions for the embedded models, or from a file."""

from __future__ import annotations

from pathlib import Path

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
    "a portrait of a young woman with freckles",
    "a steam train in a snowy valley",
    "a glass vase with tulips by a window",
    "a lizard on a sunlit rock",
    "a market stall full of spices",
    "a lighthouse in a storm",
    "a wooden desk with books and a lamp",
    "a close-up of a dandelion",
    "a child flying a kite on a beach",
    "a blue door in a white wall",
    "an owl on a mossy branch",
    "a slice of chocolate cake on a plate",
    "a mountain lake at dawn",
    "a blacksmith at the forge",
    "a city skyline in fog",
    "a pair of worn leather boots",
    "a field of wheat under dark clouds",
    "a bicycle against a brick wall",
    "a goldfish in a round bowl",
    "a desert with a single tree",
    "a watercolour of a village square",
    "a violin on a velvet cloth",
    "a horse galloping through shallow water",
    "a kitchen with copper pans",
)
EMOJI = ("red apple", "owl", "house", "a tree on green", "cat face", "strawberry on white", "fish", "sun on blue")


def general_prompts(count: int = 8) -> list[str]:
    """The first `count` of the 32 general prompts in this package, in plain English, for any text-to-image model.

    Args:
        count: how many, 1 to 32.

    Raises:
        ValueError: a number outside this range.

    Example:
        >>> general_prompts(2)
        ['a red apple on a wooden table', 'an old fisherman mending a net']
    """
    if not 1 <= count <= len(GENERAL):
        raise ValueError(
            f"{count} general prompts requested; there are {len(GENERAL)}: request 1 to {len(GENERAL)}, or write your "
            "own to a file and read it with read_prompts"
        )
    return list(GENERAL[:count])


def prompts_for(dit: DiT) -> tuple[str, ...]:
    """The prompts that `auto` tries a model on: emoji captions where it was trained on them, else general ones."""
    try:
        references(dit)
    except FileNotFoundError:
        return GENERAL
    return EMOJI


def read_prompts(file: str | Path) -> list[str]:
    """The prompts in a text file, UTF-8, one per line; empty lines and lines that begin with # are left out.

    Raises:
        FileNotFoundError: no file at the path.
        ValueError: a file that is not text, holds no prompt, or holds one twice.

    Example:
        >>> _ = Path("prompts.txt").write_text("red apple")
        >>> read_prompts("prompts.txt")
        ['red apple']
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file; pass a text file with one prompt per line")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}): save it as UTF-8, one prompt per line") from None
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        if prompt in first:
            raise ValueError(f"{file}: line {number} repeats the prompt of line {first[prompt]}: keep one of them")
        first[prompt] = number
    if not first:
        raise ValueError(f"{file} holds no prompt: write one per line")
    return list(first)
