"""Pictures whose correspondences are known exactly: a picture, and another made from it by a map.

A warped picture at place p shows what its original shows at g(p), and g is known. So the right answer for every token
of the warped picture is exact, and no human label is needed. A picture that only looks different (recoloured, flat) has
g = identity, and a positional embedding alone would answer it: so those are warped as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from dg_tools.datasets.examples import Example, Items, examples, masks_of, pictures_of
from dg_tools.datasets.references import References
from dg_tools.metrics.keypoints import token_centres
from dg_tools.models.dit import DiT

TASKS = ("warped", "flipped", "recoloured", "flat")
TURN, ZOOM, SHIFT, WAVE = 45.0, 1.25, 0.2, 0.05  # of a warp, at most: degrees, factor, the last two in picture sides


@dataclass(frozen=True)
class Map:
    """g: from places in the warped picture to places in the original, (row, column) in tokens from the centre.

    Attributes:
        matrix: (2, 2), turn and zoom, or a mirror.
        shift: (2,), in heights and widths of the picture.
        wave: (2,) amplitudes of a sinusoidal flow, in the same, with `phase` (2,) and one period over the picture.
    """

    matrix: torch.Tensor
    shift: torch.Tensor
    wave: torch.Tensor
    phase: torch.Tensor

    def __call__(self, place: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """G of places (..., 2) in a picture of `size` (2,) tokens."""
        flow = self.wave * torch.sin(2 * math.pi * (place / size).flip(-1) + self.phase)
        return place @ self.matrix.T + size * (self.shift + flow)


def mirror() -> Map:
    """Left and right exchanged."""
    nothing = torch.zeros(2)
    return Map(torch.diag(torch.tensor([1.0, -1.0])), nothing, nothing, nothing)


def warp(chance: np.random.Generator) -> Map:
    """A turn, a zoom, a shift and a smooth flow, drawn at random."""
    angle, zoom = math.radians(chance.uniform(-TURN, TURN)), ZOOM ** chance.uniform(-1, 1)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    draw = lambda limit: torch.tensor(chance.uniform(-limit, limit, 2), dtype=torch.float32)  # noqa: E731
    return Map(zoom * turn, draw(SHIFT), draw(WAVE), draw(math.pi))


@dataclass(frozen=True)
class Warped:
    """Warped pictures of one task, on one grid of tokens.

    Attributes:
        task: one of `TASKS`.
        pictures: (N, 3, H, W) in [-1, 1].
        truth: (N, tokens, 2): where in the original each token lies, (row, column) in tokens.
        keypoints: (N, tokens): which of them show the object, and lie within the original.
    """

    task: str
    pictures: torch.Tensor
    truth: torch.Tensor
    keypoints: torch.Tensor

    def part(self, indices: list[int]) -> Warped:
        """Those of some of the pictures."""
        return Warped(self.task, self.pictures[indices], self.truth[indices], self.keypoints[indices])


def applied(g: Map, picture: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture (C, H, W) seen through g, its edge continued; and g at the token centres, (tokens, 2).

    The last are places counted from the centre of token (0, 0).
    """
    height, width = picture.shape[-2:]
    size, middle = torch.tensor(grid, dtype=torch.float32), (torch.tensor(grid) - 1) / 2
    pixels = (token_centres(height, width) + 0.5) * size / torch.tensor([height, width]) - size / 2
    at = (2 * g(pixels, size) / size).flip(-1).view(1, height, width, 2)  # (x, y) in -1..1, as grid_sample wants it
    view = F.grid_sample(picture[None], at, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return view, g(token_centres(*grid) - middle, size) + middle


def warped_pictures(
    dit: DiT, items: Items, tasks: Sequence[str], *, folder: References | None = None, seed: int = 0
) -> tuple[torch.Tensor, tuple[Warped, ...]]:
    """Originals (N, 3, H, W) and their warped pictures, one `Warped` per task.

    Args:
        dit: whose token grid counts.
        items: `Reference`s, (prompt, picture), (prompt, picture, mask) or `Example`s.
        tasks: of `TASKS`; `flat` needs `Reference`s, and means the other style, whichever the original has.
        folder: where `Reference`s have their pictures.
        seed: of the warps; each picture has its own, which does not depend on the others.

    Raises:
        ValueError: an unknown task, `flat` without references, or an object that covers no token.
    """
    originals = examples(dit, items, folder, truth=True)
    check_tasks(originals, tasks)
    pictures, masks = pictures_of(originals), masks_of(originals)
    masks = torch.ones(len(originals), *pictures.shape[-2:]) if masks is None else masks
    warped = []
    for task in tasks:
        source = pictures
        if task == "flat":
            source = torch.stack([in_other_style(x) for x in originals])
        elif task == "recoloured":
            source = pictures[:, [1, 2, 0]]  # red takes green's values, green blue's, blue red's
        warped.append(of_task(dit, task, source, masks, seed))
    return pictures, tuple(warped)


def in_other_style(example: Example) -> torch.Tensor:
    """A reference's picture (3, H, W) in the other style."""
    assert example.reference is not None and example.references is not None  # `check_tasks` has checked this
    return example.references.picture(example.reference.other_style)


def of_task(dit: DiT, task: str, source: torch.Tensor, masks: torch.Tensor, seed: int) -> Warped:
    """Every picture (N, 3, H, W) with its mask (N, H, W) seen through its own map."""
    height, width = source.shape[-2:]
    grid = dit.grid(height, width)
    views, places = [], []
    for i, (picture, mask) in enumerate(zip(source, masks, strict=True)):
        g = mirror() if task == "flipped" else warp(np.random.default_rng([seed, i, TASKS.index(task)]))
        both, truth = applied(g, torch.cat([picture, mask[None]]), grid)
        views.append(both)
        places.append(truth)
    stacked, truth = torch.stack(views), torch.stack(places)
    covered = F.avg_pool2d(stacked[:, 3:], dit.pixels_per_token).flatten(1)
    low, high = torch.tensor([-0.5, -0.5]), torch.tensor(grid) - 0.5
    keypoints = (covered >= 0.5) & ((truth >= low) & (truth <= high)).all(-1)
    empty = [i for i, one in enumerate(keypoints) if not one.any()]
    if empty:
        raise ValueError(f"pictures {empty}: the object covers no token by half, so there is nothing to match")
    return Warped(task, stacked[:, :3], truth, keypoints)


def check_tasks(items: Sequence[Example], tasks: Sequence[str]) -> None:
    """Raise ValueError for unknown tasks, and for those that these pictures do not have."""
    wrong = [t for t in tasks if t not in TASKS]
    if wrong or not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks={list(tasks)}; distinct ones of {', '.join(TASKS)} are needed")
    if "flat" in tasks and not all(x.reference is not None for x in items):
        raise ValueError("the task 'flat' needs references, which have another style: leave it out of tasks=")
