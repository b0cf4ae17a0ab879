"""The recipe of a model of objects on materials: that of `training.recipe`, with scenes and stages added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from training.recipe import DiTSettings, Recipe, VAESettings

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class SceneSettings:
    """What a training picture shows.

    Attributes:
        sprite: pixels along a side of an object's sprite, centred in the picture.
        plain: share of pictures whose background is a plain colour instead of a material.
        bare: share of pictures without an object.
        style_said, background_said: share of captions that name the style, and the background.
        shadow: how dark an object's shadow is, 0 to 1.
    """

    sprite: int
    plain: float
    bare: float
    style_said: float
    background_said: float
    shadow: float


@dataclass(frozen=True)
class Stage:
    """One stretch of the transformer's training.

    Attributes:
        steps: how many.
        size: pixels along a side of its pictures.
        batch: pictures per step.
        keep: share of image tokens that the transformer sees, the same number in each picture.
        cell: tokens are kept or dropped in squares of cell x cell.
        sigma_mean: of the normal variable whose logistic function is sigma.
    """

    steps: int
    size: int
    batch: int
    keep: float
    cell: int
    sigma_mean: float


@dataclass(frozen=True)
class PoolSettings:
    """Latents come in shards of `shard` pictures; each picture is used about `reuse` times, out of `window` shards."""

    shard: int
    reuse: int
    window: int


@dataclass(frozen=True)
class SceneRecipe(Recipe):
    """One training, from names to weights; `finish` steps at its end bring the rate down along a cosine."""

    folder: ClassVar[Path] = RECIPES

    scenes: SceneSettings
    pool: PoolSettings
    stages: list[Stage]
    finish: int

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """A recipe from what `to_json` gave."""
        parts = {
            "vae": VAESettings(**record["vae"]),
            "dit": DiTSettings(**record["dit"]),
            "scenes": SceneSettings(**record["scenes"]),
            "pool": PoolSettings(**record["pool"]),
            "stages": [Stage(**s) for s in record["stages"]],
        }
        return cls(**{**record, **parts})

    def check(self) -> None:
        """Raise SystemExit where sizes do not fit together."""
        super().check()
        if sum(s.steps for s in self.stages) != self.dit.steps:
            raise SystemExit(
                f"the stages have {sum(s.steps for s in self.stages)} steps, dit.steps is {self.dit.steps}"
            )
        for stage in self.stages:
            side = stage.size // self.vae.factor // self.dit.patch
            if self.size % stage.size or side % stage.cell:
                raise SystemExit(
                    f"stage size {stage.size} must divide {self.size}, and cell {stage.cell} its {side} tokens a side"
                )

    @property
    def tokens(self) -> int:
        """Image tokens along a side, of the full picture."""
        return self.latent_size // self.dit.patch

    def stage(self, step: int) -> tuple[Stage, int]:
        """The stage that a step belongs to, and the first step of that stage; the last stage beyond the end."""
        first = 0
        for stage in self.stages:
            if step < first + stage.steps:
                return stage, first
            first += stage.steps
        return self.stages[-1], first - self.stages[-1].steps
