"""Does a picture keep its meaning, where no reference says what it should show?

By CLIP and DINO as margins where their weights are on this machine: is the picture nearer to its own prompt, or to its
own clean sample, than to any other's? Else by the low band, which is layout and colours only. The bounds are set here,
before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dg_tools.metrics.learned import CLIP, DINO, at_hand

CLIP_POINTS = 1.0  # of 100: about what another noise seed changes
SIMILARITY = 0.1  # of a cosine between pictures: a tenth of its range from unrelated to the same
DISTANCE = 0.2  # LPIPS: pictures that are told apart side by side only
LOW_BAND = 0.05  # of the correlation with the clean sample's low band: a twentieth of its range
ORDER = (
    "clip margin",
    "dino margin",
    "clip",
    "dino",
)  # a statement on semantics rests on the first that there is
NAMES = {
    "clip margin": "CLIP's margin of the own prompt over the nearest other",
    "dino margin": "DINO's margin of the own clean sample over the nearest other prompt's",
    "clip": "the CLIP score",
    "dino": "DINO's similarity with the clean sample",
}
NOT_AT_HAND = "no score by CLIP or DINO was at hand"


class Score(NamedTuple):
    """A further score, such as `metrics.learned.ClipScore()`, and the largest difference that counts as no change.

    `of` takes pictures (N, 3, H, W) in [-1, 1], their prompts and the clean samples, and gives (N,).
    """

    of: Callable[[torch.Tensor, Sequence[str], torch.Tensor], torch.Tensor]
    margin: float


def semantic_scores(prompts: Iterable[str], *, clip: str | Path = CLIP, dino: str | Path = DINO) -> dict[str, Score]:
    """The scores whose weights are on this machine, with their bounds; nothing is downloaded.

    Args:
        prompts: of the pictures; margins need at least two different ones.
        clip, dino: a folder with a CLIP or DINOv2 model of transformers, or its id in the Hub's cache.

    Returns:
        Some of `clip`, `clip margin` (points), `dino`, `dino margin` (-2..2) and `lpips`; none where nothing is there.

    Raises:
        FileNotFoundError: a path of a folder that does not hold the model.

    Example:
        >>> experiments.detail(dit, prompts, scores=semantic_scores(prompts, clip="my-clip"))   # doctest: +SKIP
    """
    found, several = at_hand(clip, dino), len(set(prompts)) > 1
    scores = {}
    for name, bound in (("clip", CLIP_POINTS), ("dino", SIMILARITY)):
        if name in found:
            scores[name] = Score(found[name], bound)
            if several:
                scores[f"{name} margin"] = Score(found[name].margin, bound)
    if "lpips" in found:
        scores["lpips"] = Score(found["lpips"], DISTANCE)
    return scores


def rests_on(names: Iterable[str]) -> str:
    """Which of the outcomes or columns by these names a statement on semantics rests on; `low_band` where none is."""
    there = set(names)
    return next((name for name in ORDER if name in there), "low_band")


def basis(name: str) -> str:
    """What `rests_on` gave, in words."""
    if name == "low_band":
        return f"the correlation of the low band with the clean sample's, since {NOT_AT_HAND}"
    return NAMES[name]
