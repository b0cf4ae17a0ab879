"""What is trained, and where it goes: a recipe (TOML) and a run folder.

A recipe is the whole description of a training; the run folder holds everything that comes of it, so that any
command can be stopped and started again.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class VAESettings:
    """The autoencoder: `len(channels) - 1` halvings, `latent_channels` channels out; `decoder_steps` are added at the
    end with the encoder frozen.
    """

    latent_channels: int
    channels: list[int]
    steps: int
    batch: int
    learning_rate: float
    kl_weight: float
    decoder_steps: int

    @property
    def factor(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class DiTSettings:
    """The transformer and the text encoders trained along with it; `single_layers` is FLUX's second list of blocks;
    `dual_attention` gives the first half of SD3's blocks a second attention over the image, as in SD3.5-medium.

    sigma is the logistic function of a normal variable with `sigma_mean` and `sigma_std`. SD3 has 0 and 1; a mean above
    0 spends more steps where the caption decides, which a latent with many channels moves towards pure noise.
    """

    layers: int
    heads: int
    head_dim: int
    patch: int
    clip_width: int
    clip_length: int
    t5_width: int
    t5_length: int
    steps: int
    batch: int
    learning_rate: float
    warmup: int
    ema: float
    unconditional: float
    sigma_mean: float
    sigma_std: float
    save_every: int
    validate_every: int
    architecture: str = "sd3"
    single_layers: int = 0
    dual_attention: bool = False


@dataclass(frozen=True)
class Recipe:
    """One training, from names to weights; `folder` has the recipes that ship."""

    folder: ClassVar[Path] = RECIPES

    name: str
    seed: int
    size: int
    names: int
    categories: list[str]
    fill: list[str]
    vae: VAESettings
    dit: DiTSettings

    @classmethod
    def load(cls, recipe: str) -> Self:
        """A recipe by name (`cpu`, `gpu`, `toy`) or by the path of a TOML file.

        Raises:
            SystemExit: no such recipe, or a key that is missing, unknown or impossible.
        """
        path = Path(recipe) if recipe.endswith(".toml") else cls.folder / f"{recipe}.toml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in cls.folder.glob("*.toml")))
            raise SystemExit(f"recipe {recipe!r} is unknown: pass one of {known}, or the path of a .toml file")
        try:
            made = cls.from_json(dict(name=path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))))
        except (TypeError, KeyError) as error:
            raise SystemExit(f"{path}: {error}") from None
        made.check()
        return made

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """A recipe from what `to_json` gave, as a model's `training.json` keeps it."""
        return cls(**{**record, "vae": VAESettings(**record["vae"]), "dit": DiTSettings(**record["dit"])})

    def check(self) -> None:
        """Raise SystemExit where sizes do not fit together."""
        step = self.vae.factor * self.dit.patch
        if self.size % step:
            raise SystemExit(f"size {self.size} is not a multiple of {step} (VAE factor x patch)")
        if self.dit.architecture not in ("sd3", "flux"):
            raise SystemExit(f"architecture = {self.dit.architecture!r}: sd3 or flux")
        if self.dit.dual_attention and self.dit.architecture != "sd3":
            raise SystemExit("dual_attention is SD3.5-medium's: architecture = 'sd3' only")
        if self.names < 2:
            raise SystemExit(f"names = {self.names}: at least 2 are needed")

    @property
    def latent_size(self) -> int:
        return self.size // self.vae.factor

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def write_safely(path: Path, write: Any) -> None:
    """Call `write(temporary_path)`, then move the result over `path`: a crash or a full disk keeps the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        before = f"; {path} from before is intact" if path.exists() else ""
        raise SystemExit(f"could not write {path}: {error}{before}") from None


def append_json(path: Path, row: dict[str, Any]) -> None:
    """Append one line to a JSON-lines log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")


def append_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows, with a header where the file is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
