"""Draw the README's thumbnails from the notebooks as they are kept: part of `make notebooks`.

Each notebook has one cell tagged `thumbnail`: a code cell with a picture among its outputs, or a markdown cell that
shows one from `images/`.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS, THUMBNAILS = ROOT / "notebooks", ROOT / "docs" / "thumbnails"
WIDTH, HEIGHT = 200, 120  # pixels


def picture(path: Path) -> Image.Image:
    """The picture of the cell tagged `thumbnail`; exactly one has one."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if "thumbnail" in c.metadata.get("tags", [])]
    (cell,) = cells
    if cell.cell_type == "markdown":
        (name,) = re.findall(r"!\[[^\]]*\]\((images/[^)]+)\)", cell.source)
        return Image.open(path.parent / name)
    data = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    return Image.open(io.BytesIO(base64.b64decode(data[0])))


def thumbnail(path: Path) -> Image.Image:
    """The picture on white, in at most 64 colours."""
    small = picture(path).convert("RGB")
    small.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    page.paste(small, ((WIDTH - small.width) // 2, (HEIGHT - small.height) // 2))
    return page.quantize(64, dither=Image.Dither.NONE)


def main() -> None:
    """Draw them all."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    THUMBNAILS.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        thumbnail(path).save(THUMBNAILS / f"{path.stem}.png", optimize=True)


if __name__ == "__main__":
    main()
