"""Make kept files smaller: pictures that look the same, JSON and WebP that hold the same.

    python -m tools.shrink notebooks/*.ipynb dg_tools/zoo/*/*.png

A PNG, also one among a notebook's outputs, gets fewer colours where the peak signal to noise stays above 45 dB. A
lossless WebP keeps every pixel, and JSON every value. A file that would not get smaller stays as it is.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from PIL import Image

FAITHFUL = 45.0  # dB: nobody can tell two such pictures apart
PALETTES = (32, 64, 128, 256)  # numbers of colours: charts
STEPS = range(8, 0, -1)  # of brightness: grids of pictures


def ratio(picture: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise of 8-bit pictures, in dB."""
    error = np.square(picture.astype(np.float32) - other).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def encoded(picture: Image.Image) -> bytes:
    """A PNG file."""
    into = io.BytesIO()
    picture.save(into, "png", optimize=True)
    return into.getvalue()


def smaller(png: bytes) -> bytes:
    """The same picture with a palette or with coarser steps of brightness, whichever is smaller; else as it is."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    pixels = np.asarray(picture)
    best = png
    for colours in PALETTES:
        few = picture.quantize(colours, dither=Image.Dither.NONE)
        if ratio(pixels, np.asarray(few.convert("RGB"))) > FAITHFUL:
            best = min(best, encoded(few), key=len)
            break
    for step in STEPS:
        coarse = np.clip(np.round(pixels / step) * step, 0, 255).astype(np.uint8)
        coarse[pixels == 255] = 255  # white stays white
        if ratio(pixels, coarse) > FAITHFUL:
            best = min(best, encoded(Image.fromarray(coarse)), key=len)
            break
    return best


def shrink_outputs(notebook: Any) -> None:
    """Every PNG among a notebook's outputs through `smaller`, in place."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = base64.b64encode(smaller(base64.b64decode(png))).decode()


def shrink_webp(content: bytes) -> bytes:
    """The same pixels, those below transparent ones included; a lossy file stays as it is."""
    if b"VP8L" not in content[:64]:
        return content
    into = io.BytesIO()
    picture = Image.open(io.BytesIO(content))
    picture.save(into, "webp", lossless=True, quality=100, method=6, exact=True)
    return min(content, into.getvalue(), key=len)


def shrink_json(content: bytes) -> bytes:
    """The same values without the white space between them."""
    text = json.dumps(json.loads(content), ensure_ascii=False, separators=(",", ":"))
    return min(content, text.encode() + b"\n", key=len)


SHRINK = {".png": smaller, ".webp": shrink_webp, ".json": shrink_json}


def main() -> None:
    """Shrink the files that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="notebooks, .png, .webp or .json")
    for path in parser.parse_args().files:
        before = path.stat().st_size
        if path.suffix == ".ipynb":
            notebook = nbformat.read(path, as_version=4)
            shrink_outputs(notebook)
            nbformat.write(notebook, path)
        elif path.suffix in SHRINK:
            path.write_bytes(SHRINK[path.suffix](path.read_bytes()))
        else:
            parser.error(f"{path}: only .ipynb, {', '.join(SHRINK)} can be shrunk")
        print(f"{path}: {before / 1024:.0f} kB, now {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
