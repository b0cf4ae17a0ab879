"""Data: Fluent Emoji, shaded and flat, as sprites with names, a split and captions.

Every name is drawn twice (with and without shading), so there is a ground truth for every prompt. One name in five has
one of its two styles held out of training: one tenth of the name x style pairs. The model sees such a name in the other
style only, and is asked for the missing one.

    python -m training.data --recipe cpu --icons runs/icons --run runs/cpu
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import typer
from PIL import Image
from tqdm.auto import tqdm

from dg_tools.datasets.references import COLUMNS, STYLES
from training.recipe import Recipe, write_safely

PACKAGES = {"shaded": "@iconify-json/fluent-emoji", "flat": "@iconify-json/fluent-emoji-flat"}
VERSIONS = {"shaded": "1.2.7", "flat": "1.2.6"}
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")

BACKGROUNDS = {  # named colours, sRGB
    "white": (255, 255, 255),
    "black": (24, 24, 27),
    "grey": (140, 140, 148),
    "red": (214, 60, 60),
    "orange": (245, 150, 60),
    "yellow": (250, 214, 90),
    "green": (84, 168, 92),
    "teal": (56, 160, 160),
    "blue": (70, 120, 214),
    "purple": (132, 92, 190),
    "pink": (244, 158, 190),
    "brown": (126, 88, 66),
}

LICENCE = """The sprites in this folder are Fluent Emoji, drawn at 64 x 64 pixels from the SVG files of the npm packages
@iconify-json/fluent-emoji and @iconify-json/fluent-emoji-flat.

MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def read_icons(folder: Path) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """SVG bodies by style and name, and names by category, without skin-tone variants.

    Raises:
        SystemExit: a package is missing, with the command that fetches it.
    """
    bodies: dict[str, dict[str, str]] = {}
    packages = " ".join(f"{PACKAGES[s]}@{VERSIONS[s]}" for s in STYLES)
    for style, package in PACKAGES.items():
        icons = folder / "node_modules" / package / "icons.json"
        if not icons.is_file():
            raise SystemExit(f"{icons} is missing; fetch it: npm install --no-save --prefix {folder} {packages}")
        raw = json.loads(icons.read_text(encoding="utf-8"))
        view = f"0 0 {raw['width']} {raw['height']}"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view}">'
        bodies[style] = {name: head + icon["body"] + "</svg>" for name, icon in raw["icons"].items()}
    meta = json.loads((folder / "node_modules" / PACKAGES["flat"] / "metadata.json").read_text(encoding="utf-8"))
    both = set(bodies["shaded"]) & set(bodies["flat"])
    plain = {n for n in both if not any(n.endswith(f"-{t}") or f"-{t}-" in n for t in TONES)}
    return bodies, {c: sorted(set(names) & plain) for c, names in meta["categories"].items()}


def choose(categories: dict[str, list[str]], recipe: Recipe) -> list[str]:
    """The recipe's names: its categories whole, then a seeded draw from `fill`."""
    names = sorted({n for c in recipe.categories for n in categories[c]})
    rest = sorted({n for c in recipe.fill for n in categories[c]} - set(names))
    generator = random.Random(recipe.seed)
    if len(names) > recipe.names:
        names = generator.sample(names, recipe.names)
    names += generator.sample(rest, min(len(rest), recipe.names - len(names)))
    return sorted(names)


def split(names: list[str], seed: int) -> list[tuple[str, str]]:
    """The held-out (name, style) pairs: one style each of one name in five."""
    generator = random.Random(seed + 1)
    return [(name, generator.choice(STYLES)) for name in sorted(generator.sample(names, len(names) // 5))]


def rasterise(svg: str, size: int) -> np.ndarray:
    """One SVG as a (size, size, 4) uint8 RGBA array, drawn at four times the size and reduced by area."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * size, height=4 * size))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def write_references(folder: Path, names: list[str], bodies: dict[str, dict[str, str]], recipe: Recipe) -> None:
    """Draw every name in both styles and write sheets, names, split and licence."""
    folder.mkdir(parents=True, exist_ok=True)
    for style in STYLES:
        rows = -(-len(names) // COLUMNS)
        sheet = np.zeros((rows * recipe.size, COLUMNS * recipe.size, 4), np.uint8)
        for i, name in enumerate(tqdm(names, desc=f"drawing {style}")):
            y, x = (i // COLUMNS) * recipe.size, (i % COLUMNS) * recipe.size
            sheet[y : y + recipe.size, x : x + recipe.size] = rasterise(bodies[style][name], recipe.size)
        image = Image.fromarray(sheet, "RGBA")
        target = folder / f"{style}.webp"
        write_safely(target, lambda p, im=image: im.save(p, format="WEBP", lossless=True, quality=90, method=4))
    meta = {
        "source": {PACKAGES[s]: VERSIONS[s] for s in STYLES},
        "size": recipe.size,
        "backgrounds": BACKGROUNDS,
        "names": names,
        "held_out": split(names, recipe.seed),
    }
    write_safely(folder / "names.json", lambda p: p.write_text(json.dumps(meta, indent=1), encoding="utf-8"))
    write_safely(folder / "LICENSE", lambda p: p.write_text(LICENCE, encoding="utf-8"))


def main(
    recipe: str = typer.Option("cpu", help="cpu, gpu, toy, or a TOML file"),
    icons: Path = typer.Option(Path("runs/icons"), help="where `npm install --prefix` put the two packages"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
) -> None:
    """Draw the pictures, choose the names and split the pairs."""
    settings = Recipe.load(recipe)
    run = run or Path("runs") / settings.name
    bodies, categories = read_icons(icons)
    names = choose(categories, settings)
    every = sorted({w for ns in categories.values() for n in ns for w in n.split("-")})
    write_references(run / "references", names, bodies, settings)
    words = sorted({*every, *BACKGROUNDS, *STYLES, "on", "a", "an", "the", "of", "and", "background"})
    write_safely(run / "words.json", lambda p: p.write_text(json.dumps(words), encoding="utf-8"))
    held = len(split(names, settings.seed))
    print(f"{len(names)} names x 2 styles, {held} pairs held out, {len(words)} words -> {run}")


if __name__ == "__main__":
    typer.run(main)
