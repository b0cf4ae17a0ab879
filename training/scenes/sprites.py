"""Sprites: Fluent Emoji in three renderings, as sheets with names, a split and a licence.

    python -m training.scenes.sprites --recipe emoji128 --icons runs/icons --run runs/emoji128

`3d` comes from the npm package @lobehub/fluent-emoji-3d (photograph-like renderings of 256 px), `shaded` and `flat`
from the packages that `training.data` reads. One name in five has one of its three renderings held out of training.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import typer
from PIL import Image
from tqdm.auto import tqdm

from training.data import BACKGROUNDS, LICENCE, PACKAGES, VERSIONS, choose, rasterise, read_icons
from training.recipe import write_safely
from training.scenes.materials import MATERIALS
from training.scenes.recipe import SceneRecipe

STYLES = ("3d", "shaded", "flat")
COLUMNS = 16  # sprites in a row of a sheet
ROUND, ROUND_VERSION = "@lobehub/fluent-emoji-3d", "1.1.0"


def renderings(icons: Path) -> dict[str, Path]:
    """The 3-D rendering of each name, found by its code point.

    Raises:
        SystemExit: the package is missing, with the command that fetches it.
    """
    folder = icons / "node_modules" / ROUND / "assets"
    if not folder.is_dir():
        raise SystemExit(
            f"{folder} is missing; fetch it: npm install --no-save --prefix {icons} {ROUND}@{ROUND_VERSION}"
        )
    files = {f.stem.replace("-fe0f", ""): f for f in sorted(folder.glob("*.webp"))}
    codes = json.loads((icons / "node_modules" / PACKAGES["flat"] / "chars.json").read_text(encoding="utf-8"))
    plain = {code.lower().replace("-fe0f", ""): name for code, name in codes.items()}
    return {name: files[code] for code, name in plain.items() if code in files}


def sprite(file: Path, size: int) -> np.ndarray:
    """One rendering as (size, size, 4) uint8 RGBA, reduced with its colours weighted by alpha: edges stay clean."""
    rgba = np.asarray(Image.open(file).convert("RGBA"), np.float32) / 255
    weighted = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    planes = [
        np.asarray(Image.fromarray(weighted[..., c]).resize((size, size), Image.Resampling.LANCZOS)) for c in range(4)
    ]
    alpha = np.clip(planes[3], 0, 1)
    colour = np.stack(planes[:3], -1) / np.maximum(alpha, 1e-3)[..., None]
    return (np.clip(np.concatenate([colour, alpha[..., None]], -1), 0, 1) * 255 + 0.5).astype(np.uint8)


def split(names: list[str], seed: int) -> list[tuple[str, str]]:
    """The held-out (name, style) pairs: one style each of one name in five."""
    generator = random.Random(seed + 1)
    return [(name, generator.choice(STYLES)) for name in sorted(generator.sample(names, len(names) // 5))]


def write_sheets(folder: Path, tiles: dict[str, list[np.ndarray]], names: list[str], recipe: SceneRecipe) -> None:
    """One sheet for each style, `names.json` and the licence."""
    folder.mkdir(parents=True, exist_ok=True)
    size = recipe.scenes.sprite
    for style, pictures in tiles.items():
        sheet = np.zeros((-(-len(names) // COLUMNS) * size, COLUMNS * size, 4), np.uint8)
        for i, tile in enumerate(pictures):
            y, x = (i // COLUMNS) * size, (i % COLUMNS) * size
            sheet[y : y + size, x : x + size] = tile
        image = Image.fromarray(sheet, "RGBA")
        target = folder / f"{style}.webp"  # lossy colour, exact alpha: three sheets stay under 5 MB
        write_safely(target, lambda p, im=image: im.save(p, format="WEBP", quality=92, alpha_quality=100, method=4))
    meta = {
        "source": {**{PACKAGES[s]: VERSIONS[s] for s in PACKAGES}, ROUND: ROUND_VERSION},
        "size": recipe.size,
        "sprite": size,
        "shadow": recipe.scenes.shadow,
        "backgrounds": BACKGROUNDS,
        "materials": list(MATERIALS),
        "names": names,
        "held_out": split(names, recipe.seed),
    }
    write_safely(folder / "names.json", lambda p: p.write_text(json.dumps(meta, indent=1), encoding="utf-8"))
    said = (
        LICENCE.replace("64 x 64", f"{size} x {size}")
        .replace("from the SVG files of", "from")
        .replace(" and @iconify-json/fluent-emoji-flat", f",\n@iconify-json/fluent-emoji-flat and {ROUND}")
    )
    write_safely(folder / "LICENSE", lambda p: p.write_text(said, encoding="utf-8"))


def main(
    recipe: str = typer.Option("emoji128", help="emoji128, toy, or a TOML file"),
    icons: Path = typer.Option(Path("runs/icons"), help="where `npm install --prefix` put the three packages"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
) -> None:
    """Draw the sprites, choose the names and split the pairs."""
    settings = SceneRecipe.load(recipe)
    run = run or Path("runs") / settings.name
    bodies, categories = read_icons(icons)
    solid = renderings(icons)
    names = choose({c: [n for n in ns if n in solid] for c, ns in categories.items()}, settings)
    size = settings.scenes.sprite
    tiles = {style: [rasterise(bodies[style][n], size) for n in tqdm(names, desc=style)] for style in PACKAGES}
    tiles["3d"] = [sprite(solid[n], size) for n in tqdm(names, desc="3d")]
    write_sheets(run / "references", tiles, names, settings)
    every = sorted({w for ns in categories.values() for n in ns for w in n.split("-")})
    fixed = {*BACKGROUNDS, *STYLES, *MATERIALS, "on", "a", "an", "the", "of", "and", "background"}
    words = sorted({*every, *fixed})
    write_safely(run / "words.json", lambda p: p.write_text(json.dumps(words), encoding="utf-8"))
    print(f"{len(names)} names x {len(STYLES)} styles, {len(split(names, settings.seed))} held out, {len(words)} words")


if __name__ == "__main__":
    typer.run(main)
