"""The pictures that an embedded model was trained on: the true picture for every prompt, in two styles.

Every name is drawn in two styles, shaded and flat. Shaded minus flat is an axis of style, not of detail: most shaded
pictures have less high-band power than the flat ones. `names.json`, beside the sprites and their licence, says which
pairs of name and style were held out of training.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.models.files import ZOO
from dg_tools.models.loaded import check_loaded

STYLES = ("shaded", "flat")
COLUMNS = 32  # sprites in a row of a sheet


@dataclass(frozen=True)
class Reference:
    """One picture: what it shows, how it was drawn, over which named colour."""

    name: str
    style: str
    background: str
    held_out: bool

    @property
    def prompt(self) -> str:
        """The full caption, `red apple, flat on blue`."""
        return caption(self.name, self.style, self.background)

    @property
    def other_style(self) -> Reference:
        """The same name and background in the other style."""
        other = STYLES[1 - STYLES.index(self.style)]
        return Reference(self.name, other, self.background, self.held_out)


class References:
    """Sprites of one folder, composed over named backgrounds.

    Attributes:
        names: in order.
        backgrounds: name -> sRGB.
        size: pixels along a side.
        held_out: (name, style) pairs that training never saw.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "names.json").is_file():
            raise FileNotFoundError(f"{folder} holds no references: names.json is missing")
        meta = json.loads((folder / "names.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.names: list[str] = meta["names"]
        self.size: int = meta["size"]
        self.backgrounds = {k: tuple(v) for k, v in meta["backgrounds"].items()}
        self.held_out = {tuple(p) for p in meta["held_out"]}

    def __repr__(self) -> str:
        return (
            f"References({counted(len(self.names), 'name')} x {len(STYLES)} styles, "
            f"{counted(len(self.held_out), 'pair')} held out)"
        )

    @cached_property
    def sprites(self) -> dict[str, np.ndarray]:
        """(names, size, size, 4) uint8 by style."""
        sprites = {}
        for style in STYLES:
            sheet = np.asarray(Image.open(self.folder / f"{style}.webp").convert("RGBA"))
            tiles = sheet.reshape(sheet.shape[0] // self.size, self.size, COLUMNS, self.size, 4).swapaxes(1, 2)
            sprites[style] = tiles.reshape(-1, self.size, self.size, 4)[: len(self.names)]
        return sprites

    def reference(self, name: str, style: str = "shaded", background: str = "white") -> Reference:
        """One reference by name.

        Raises:
            KeyError: an unknown name, style or background; the message lists the known ones.
        """
        name = name.replace(" ", "-")
        for value, known in ((name, self.names), (style, STYLES), (background, self.backgrounds)):
            if value not in known:
                near = [k for k in known if value[:3] in k][:5] or list(known)[:5]
                raise KeyError(f"{value!r} is not among the {len(known)} known ones, such as {', '.join(near)}")
        return Reference(name, style, background, (name, style) in self.held_out)

    def named(self, caption: str) -> Reference | None:
        """The reference of a complete caption such as `red apple, flat on blue`; None if a part is missing."""
        match = re.fullmatch(r"(.+), (\w+) on (\w+)", caption)
        if match is None:
            return None
        try:
            return self.reference(*match.groups())
        except KeyError:
            return None

    def pairs(self, held_out: bool | None = None) -> list[tuple[str, str]]:
        """All (name, style) pairs, or those of one side of the split."""
        every = [(n, s) for n in self.names for s in STYLES]
        return every if held_out is None else [p for p in every if (p in self.held_out) == held_out]

    def sample(self, count: int, *, seed: int = 0, held_out: bool | None = None) -> list[Reference]:
        """`count` random references, no (name, style) twice; `held_out` picks one side of the split."""
        pairs = self.pairs(held_out)
        if count > len(pairs):
            raise ValueError(f"{count} references are too many; there are {len(pairs)} such pairs")
        chance = np.random.default_rng(seed)
        colours = list(self.backgrounds)
        choice = [pairs[i] for i in chance.choice(len(pairs), count, replace=False)]
        return [self.reference(n, s, colours[chance.integers(len(colours))]) for n, s in choice]

    def picture(self, reference: Reference) -> torch.Tensor:
        """(3, size, size) in [-1, 1]."""
        rgba = torch.from_numpy(self.sprites[reference.style][self.names.index(reference.name)].copy()).float() / 255
        alpha, colour = rgba[..., 3:], torch.tensor(self.backgrounds[reference.background]) / 255
        return ((rgba[..., :3] * alpha + colour * (1 - alpha)) * 2 - 1).permute(2, 0, 1)

    def pictures(self, references: list[Reference]) -> torch.Tensor:
        """(N, 3, size, size) in [-1, 1]."""
        return torch.stack([self.picture(r) for r in references])

    def foreground(self, reference: Reference) -> torch.Tensor:
        """(size, size) in 0..1: how much of each pixel the object covers."""
        alpha = self.sprites[reference.style][self.names.index(reference.name)][..., 3]
        return torch.from_numpy(alpha.copy()).float() / 255


def caption(name: str, style: str | None, background: str | None) -> str:
    """A training caption: `red apple`, `red apple, flat`, `red apple on blue` or `red apple, flat on blue`."""
    words = name.replace("-", " ")
    return words + (f", {style}" if style else "") + (f" on {background}" if background else "")


def references(dit: DiT | None = None) -> References:
    """The reference pictures of an embedded model, by name, style and background.

    Args:
        dit: an embedded model; None: the default one.

    Raises:
        FileNotFoundError: this model has no references.

    Example:
        >>> known = dg.references(dit)
        >>> apple = known.reference("red apple", "flat", "blue")
        >>> apple.prompt, tuple(known.picture(apple).shape)
        ('red apple, flat on blue', (3, 64, 64))
    """
    folder = ZOO / "emoji"
    if dit is not None:
        check_loaded(dit, "references")
        folder = Path(str(getattr(dit.pipeline, "name_or_path", ""))).parent / "emoji"
        if not (folder / "names.json").is_file():
            raise FileNotFoundError(
                f"{dit!r} has no reference pictures ({folder} does not exist): only models that training.export "
                "wrote do; pass your own pictures"
            )
    return References(folder)
