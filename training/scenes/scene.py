"""Scenes: what a training picture shows, its caption, and the picture itself, composed by code.

    scenes = Scenes(Path("runs/emoji128/references"))
    apple = Scene("red-apple", "3d", "blue", "weave", seed=3)
    apple.caption                       # "red apple, 3d on blue weave"
    scenes.picture(apple)               # (3, 128, 128) in [-1, 1]
    scenes.mask(apple)                  # (128, 128) in [0, 1]: how much of each pixel the object covers

The object is the same each time: it can be recalled, and has its reference. The material is drawn anew from the seed:
it can only be synthesised, and has a known spectrum.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from training.scenes.materials import MATERIALS, draw
from training.scenes.recipe import SceneSettings
from training.scenes.sprites import COLUMNS, STYLES


@dataclass(frozen=True)
class Scene:
    """One picture in words.

    Attributes:
        name: the object, such as `red-apple`; None shows the background alone.
        style: `3d`, `shaded` or `flat`; None where there is no object.
        colour: a named colour.
        material: a name in `MATERIALS`; None is the plain colour.
        seed: of the material's phase, angle, scale and light.
    """

    name: str | None
    style: str | None
    colour: str
    material: str | None
    seed: int = 0

    @property
    def background(self) -> str:
        """`blue weave`, or `blue`."""
        return f"{self.colour} {self.material}" if self.material else self.colour

    @property
    def caption(self) -> str:
        """The full caption, `red apple, 3d on blue weave`; of a background alone `blue weave`."""
        return self.said()

    def said(self, style: bool = True, background: bool = True) -> str:
        """The caption, with or without the style and the background; a background alone is always said."""
        if self.name is None:
            return self.background
        words = self.name.replace("-", " ")
        words += f", {self.style}" if style else ""
        return words + (f" on {self.background}" if background else "")


class Scenes:
    """Sprites of one folder, composed over materials.

    Attributes:
        names: of the objects, in order.
        colours: name -> sRGB.
        size, sprite: pixels along a side of a picture, and of a sprite in its centre.
        held_out: (name, style) pairs that training never shows.

    Raises:
        FileNotFoundError: `names.json` is not in the folder.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "names.json").is_file():
            raise FileNotFoundError(f"{folder} has no names.json: write it with python -m training.scenes.sprites")
        meta = json.loads((folder / "names.json").read_text(encoding="utf-8"))
        self.folder, self.names, self.size = folder, meta["names"], meta["size"]
        self.sprite, self.shadow = meta["sprite"], meta["shadow"]
        self.colours = {k: tuple(v) for k, v in meta["backgrounds"].items()}
        self.held_out = {(n, s) for n, s in meta["held_out"]}

    @cached_property
    def sheets(self) -> dict[str, np.ndarray]:
        """(names, sprite, sprite, 4) uint8 by style."""
        sheets = {}
        for style in STYLES:
            sheet = np.asarray(Image.open(self.folder / f"{style}.webp").convert("RGBA"))
            tiles = sheet.reshape(sheet.shape[0] // self.sprite, self.sprite, COLUMNS, self.sprite, 4).swapaxes(1, 2)
            sheets[style] = tiles.reshape(-1, self.sprite, self.sprite, 4)[: len(self.names)]
        return sheets

    def pairs(self, held_out: bool | None = None) -> list[tuple[str, str]]:
        """All (name, style) pairs, or those of one side of the split."""
        every = [(n, s) for n in self.names for s in STYLES]
        return every if held_out is None else [p for p in every if (p in self.held_out) == held_out]

    def rgba(self, name: str, style: str) -> np.ndarray:
        """One sprite in the middle of an empty picture, (size, size, 4) float32 in [0, 1].

        Raises:
            KeyError: an unknown name or style, with some of the known ones.
        """
        for value, known in ((name, self.names), (style, STYLES)):
            if value not in known:
                raise KeyError(f"{value!r} is unknown; {len(known)} are known, such as {', '.join(known[:5])}")
        canvas = np.zeros((self.size, self.size, 4), np.float32)
        edge = (self.size - self.sprite) // 2
        tile = self.sheets[style][self.names.index(name)]
        canvas[edge : edge + self.sprite, edge : edge + self.sprite] = tile.astype(np.float32) / 255
        return canvas

    def background(self, scene: Scene) -> np.ndarray:
        """The background alone, (size, size, 3) in [0, 1]."""
        colour = self.colours[scene.colour]
        if scene.material is None:
            plain = np.asarray(colour, np.float32) / 255
            return np.broadcast_to(plain, (self.size, self.size, 3)).copy()
        return draw(scene.material, colour, self.size, scene.seed)

    def picture(self, scene: Scene) -> torch.Tensor:
        """(3, size, size) in [-1, 1]: the object over its shadow over the background."""
        picture = self.background(scene)
        if scene.name is not None and scene.style is not None:
            rgba = self.rgba(scene.name, scene.style)
            alpha = rgba[..., 3:]
            soft = gaussian_filter(alpha[..., 0], 3 * self.size / 128)
            cast = np.roll(soft, round(4 * self.size / 128), axis=0)  # light from above: the shadow falls down
            picture = picture * (1 - np.float32(self.shadow) * cast[..., None])
            picture = rgba[..., :3] * alpha + picture * (1 - alpha)
        return torch.from_numpy(picture * np.float32(2) - np.float32(1)).permute(2, 0, 1).contiguous()

    def pictures(self, scenes: list[Scene]) -> torch.Tensor:
        """(N, 3, size, size) in [-1, 1]."""
        return torch.stack([self.picture(s) for s in scenes])

    def mask(self, scene: Scene) -> torch.Tensor:
        """(size, size) in [0, 1]: how much of each pixel the object covers; zeros where there is none."""
        if scene.name is None or scene.style is None:
            return torch.zeros(self.size, self.size)
        return torch.from_numpy(self.rgba(scene.name, scene.style)[..., 3].copy())

    def drawn(self, count: int, settings: SceneSettings, seed: int | tuple[int, ...]) -> list[Scene]:
        """`count` random scenes of the training set; the same for the same seed."""
        chance = np.random.default_rng(seed)
        pairs, colours, materials = self.pairs(held_out=False), list(self.colours), list(MATERIALS)
        scenes = []
        for _ in range(count):
            bare = chance.random() < settings.bare
            name, style = (None, None) if bare else pairs[chance.integers(len(pairs))]
            plain = not bare and chance.random() < settings.plain
            material = None if plain else materials[chance.integers(len(materials))]
            colour = colours[chance.integers(len(colours))]
            scenes.append(Scene(name, style, colour, material, int(chance.integers(2**31))))
        return scenes
