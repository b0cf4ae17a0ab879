"""How long from running a cell to an explorer's first picture, and from a key to the next? On the embedded model.

The kernel's side: a fresh interpreter runs the cell, `import dg_tools` and `ActivationExplorer(folder)`, so its imports
count; it ends when the numbers of every view are ready. Beside it the processor's seconds, which a busy machine
stretches least. The browser's side, where there is a Chromium: JupyterLab with a fresh kernel, from pressing Run to the
pictures being in the page, and from a key on a slider to map and surface being drawn anew, on a sweep's cells to the
picture of the chosen one, and on the knob to the pictures being dimmed (`tests/browser/test_first_picture.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import dg_tools as dg

GOAL = 5.0  # seconds from the cell to the first picture, on two cores
KEY = 100.0  # milliseconds from a key to the picture
KEYS = {
    "activation": "the picture in the page",
    "comparison": "the picture of a sweep's cell",
    "guidance": "pictures that are dimmed and say so",
}
ROOT = Path(__file__).parents[1]
CELL = """
import time
began = time.perf_counter()
import dg_tools as dg
explorer = dg.widgets.ActivationExplorer({folder!r})
seconds = time.perf_counter() - began, time.process_time()
shown = [explorer.map.data, explorer.channels.data, explorer.blocks.data, explorer.steps.data, explorer.spikes.data]
assert all(shown), explorer.messages.text
print(*seconds)
"""


def in_kernel(folder: str) -> tuple[float, float]:
    """Seconds of the cell in a fresh interpreter, and the processor's."""
    process = subprocess.run(
        [sys.executable, "-c", CELL.format(folder=folder)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    wall, processor = map(float, process.stdout.split()[-2:])
    return wall, processor


def in_browser(folder: str) -> tuple[float | None, dict[str, list[float]]]:
    """Seconds to the first picture in JupyterLab, and milliseconds of sixteen keys by explorer.

    None and no times: there is no browser, or it failed, which is printed.
    """
    first, keys = Path(folder) / "first.json", {name: Path(folder) / f"{name}.json" for name in KEYS}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/browser/test_first_picture.py"]
    environment = {**os.environ, "FIRST_PICTURE": str(first), "KEY_TO_PICTURE": folder}
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    files = [first, *keys.values()]
    if not all(file.is_file() for file in files):
        print(f"in a browser: not measured, or not all ({process.stdout.strip().splitlines()[-1]})")
    read = {file: json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()}
    return read.get(first), {name: read[file] for name, file in keys.items() if file in read}


def measure(rounds: int = 3) -> dict[str, float | None]:
    """Print and give the median seconds of both sides."""
    dit = dg.load()
    acts = dg.capture(dit, "red apple on blue", steps=20, raw=range(len(dit.blocks)), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        acts.save(Path(folder) / "kept.zarr")
        times = np.median([in_kernel(str(Path(folder) / "kept.zarr")) for _ in range(rounds)], axis=0)
        browser, keys = in_browser(folder)
    kernel, processor = times.tolist()
    page = "the kernel's side only" if browser is None else f"{browser:.1f} s in the page"
    print(
        f"first picture of a stored capture, imports and all: {kernel:.1f} s in the kernel ({processor:.1f} s of the "
        f"processor), {page} (goal: {GOAL:g} s)"
    )
    medians = {name: float(np.median(keys[name])) if name in keys else None for name in KEYS}
    for name, key in medians.items():
        if key is not None:
            print(f"from a key to {KEYS[name]}: {key:.0f} ms, at most {max(keys[name]):.0f} ms (goal: {KEY:g} ms)")
    return {
        "kernel": kernel,
        "processor": processor,
        "browser": browser,
        "key": medians["activation"],
        "key_cell": medians["comparison"],
        "key_stale": medians["guidance"],
    }


if __name__ == "__main__":
    measure()
