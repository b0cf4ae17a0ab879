"""How is a result kept, so that a killed run or a full disk loses nothing that was done?

Each result is written beside its place and moved there when whole. What made it (weights, settings, versions, machine,
seconds) is kept with it, so that a run that is started again knows what is done.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from dg_tools.experiments.result import Result, open_result

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
LEAST_FREE = 20 * 2**20  # bytes on the disk, checked before any work
CELLS = 10_000  # of a stored table
AXES = {"sigma", "frequency", "first", "second"}  # columns of numbers that are settings, not measurements
COUNTS = {"retrieval_rank"}  # whole numbers that are measurements
COLOURS = 64  # of a stored figure


class DiskFull(OSError):
    """No space left while storing; the message says what is kept and how to go on."""


def machine() -> dict[str, Any]:
    """What the numbers were computed on, without naming it."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def check_space(folder: Path) -> None:
    """Raise `DiskFull` before any work where there is too little room for the results."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE:
        raise DiskFull(
            errno.ENOSPC,
            f"{free / 2**20:.0f} MiB are free for {folder}; the evidence needs {LEAST_FREE / 2**20:.0f}: nothing was "
            "run, free some space and start again",
        )


def stored(folder: Path) -> list[str]:
    """Names of the whole results in a folder."""
    return sorted(p.parent.name for p in folder.glob("*/result.json"))


def save(result: Result, folder: Path, name: str) -> None:
    """Write a result to `folder / name`, whole or not at all; an older one is replaced only when the new one is whole.

    Raises:
        DiskFull: no space left; what was stored before is untouched.
    """
    partial, old = folder / f".{name}.partial", folder / f".{name}.old"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        slim(result).save(partial)
        if (folder / name).exists():
            shutil.rmtree(old, ignore_errors=True)
            (folder / name).rename(old)
        partial.rename(folder / name)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno not in FULL:
            raise
        raise DiskFull(
            errno.ENOSPC,
            f"no space left while storing {name!r}; kept in {folder}: {', '.join(stored(folder)) or 'nothing yet'}. "
            "Free some space and start again with --resume",
        ) from error


def slim(result: Result) -> Result:
    """The result as it is stored: long tables averaged, those that stay long left out, and notes that say so.

    Outcomes are not touched, and figures are drawn before.
    """
    whole = {"table": result.table, **result.tables}
    small = {name: thinned(table, CELLS) for name, table in whole.items()}
    cut = [name for name in whole if len(small[name]) < len(whole[name])]
    out = [name for name in result.tables if small[name].size > CELLS]
    notes = [f"stored as means over seeds, or over seeds and prompts: {', '.join(n for n in cut if n not in out)}"]
    notes = (notes if set(cut) - set(out) else []) + (
        [f"shown in the figure only, too long to store: {', '.join(out)}"] if out else []
    )
    tables = {name: table for name, table in small.items() if name not in out}
    return replace(result, table=tables.pop("table"), tables=tables, notes=[*result.notes, *notes])


def thinned(table: pd.DataFrame, cells: int) -> pd.DataFrame:
    """A long table averaged over seeds, and over prompts too where that is not enough."""
    for over in (["seed"], ["prompt", "picture"]):
        drop = [c for c in over if c in table]
        if table.size <= cells or not drop:
            continue
        left = table.drop(columns=drop).astype({c: float for c in COUNTS if c in table})
        keys = [c for c in left if c in AXES or not pd.api.types.is_float_dtype(left[c])]
        table = left.groupby(keys, sort=False, dropna=False).mean().reset_index()[list(left)]
    return table


def is_done(folder: Path, name: str, settings: dict[str, Any]) -> bool:
    """Whether a whole result is there that was made from the same weights with the same settings."""
    try:
        before = open_result(folder / name).settings["evidence"]
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return False
    return all(before.get(key) == value for key, value in json.loads(json.dumps(settings)).items())


def save_figure(figure: Any, path: Path, dpi: int = 100) -> None:
    """A matplotlib figure as a small PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.png")
    try:
        figure.savefig(partial, dpi=dpi)
        with Image.open(partial) as picture:
            small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(partial, optimize=True)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        raise DiskFull(
            errno.ENOSPC, f"no space left for the figure {path.name}; the results are kept: start again with --resume"
        ) from error
