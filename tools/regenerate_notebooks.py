"""Run every notebook from top to bottom in a fresh kernel and keep the outputs: `make notebooks`."""

from __future__ import annotations

import base64
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "PLOTLY_RENDERER": "plotly_mimetype",
    "TOKENIZERS_PARALLELISM": "false",
}
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FAITHFUL = 45.0  # dB of peak signal to noise: charts are beyond it with 256 colours, grids of pictures are not


def smaller(png: bytes) -> bytes:
    """The same picture with 256 colours where nobody could tell, else as it is."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    few = picture.quantize(256, dither=Image.Dither.NONE)
    error = np.square(np.asarray(picture, float) - np.asarray(few.convert("RGB"), float)).mean()
    if error > 255**2 / 10 ** (FAITHFUL / 10):
        return png
    into = io.BytesIO()
    few.save(into, "png", optimize=True)
    return min(png, into.getvalue(), key=len)


def shrink(notebook: Any) -> None:
    """Every kept PNG through `smaller`."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = base64.b64encode(smaller(base64.b64decode(png))).decode()


def main() -> None:
    """Run every notebook and keep what comes out."""
    os.environ.update(ENVIRONMENT)  # before anything starts a kernel: it inherits these
    import nbformat
    from nbclient import NotebookClient

    wanted = [NOTEBOOKS / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in wanted:
        notebook = nbformat.read(path, as_version=4)
        began = time.perf_counter()
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", store_widget_state=False, record_timing=False,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )  # fmt: skip
        client.execute()
        for i, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{i:02d}"  # stable, so that a rerun changes outputs only
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        shrink(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
