"""The cells of a sweep on disk. A cell is one setting on one batch of (prompt, seed) pairs.

Its name is a hash of everything that its numbers depend on, so an existing cell is used again when the sweep changes.
Pictures are written first and the cell's JSON last, each under a temporary name until complete: if the JSON file
exists, the cell is finished.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from dg_tools.models.files import plain
from dg_tools.paths import whole
from dg_tools.sweeps.settings import Setting

logger = logging.getLogger("dg_tools")

CELLS, PICTURES = "cells", "pictures"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Cell:
    """One setting on one batch.

    Attributes:
        setting: the guidance.
        split: `development` or `test`.
        pairs: (prompt, seed), made in one call.
        truths: hash of each pair's reference picture; empty where there are none.
        fixed: everything else that the numbers depend on: weights, dtype, steps, size, arguments of the call.
    """

    setting: Setting
    split: str
    pairs: tuple[tuple[str, int], ...]
    truths: tuple[str, ...]
    fixed: str

    @property
    def name(self) -> str:
        """The cell's name: a hash of its setting, batch and `fixed` (20 hexadecimal digits)."""
        text = json.dumps([self.setting.to_json(), self.pairs, self.truths, self.fixed])
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def picture(self, index: int) -> str:
        """Path of a picture within the folder."""
        return f"{PICTURES}/{self.name}_{index}.png"


def write(path: Path, fill: Callable[[BinaryIO], Any], rank: int = 0) -> None:
    """Write a file completely or not at all: beside its place, flushed to the disk, then renamed.

    Raises:
        OSError: a full disk or another disk error; the partial file is removed, all other files stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(path, rank) as draft, draft.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in FULL:
            raise OSError(
                error.errno,
                f"the disk is full: {path.name} could not be written in {path.parent}. All finished cells are kept: "
                "make room and start the same sweep again, it goes on where it stopped",
            ) from None
        raise


def write_json(path: Path, value: Any, rank: int = 0) -> None:
    """Write plain JSON; NaN becomes null."""
    text = json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
    write(path, lambda file: file.write(text.encode()), rank)


def write_cell(
    folder: Path, cell: Cell, rows: list[dict[str, Any]], cost: dict[str, Any], pictures: Any, rank: int
) -> None:
    """Write one finished cell: its PIL pictures (None: not kept), then its rows."""
    for i, picture in enumerate(pictures or ()):
        write(folder / cell.picture(i), partial(picture.save, format="PNG"), rank)
    content = {"setting": cell.setting.to_json(), "split": cell.split, "cost": cost, "rows": rows}
    write_json(folder / CELLS / f"{cell.name}.json", content, rank)


def read_cell(folder: Path, cell: Cell, pictures: bool = False) -> dict[str, Any] | None:
    """Read a finished cell; None if it is missing. A damaged cell is logged, and counts as missing."""
    file = folder / CELLS / f"{cell.name}.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if len(content["rows"]) != len(cell.pairs):
            raise ValueError("rows are missing")
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s): the cell is made again", file, error)
        return None
    if pictures and not all((folder / cell.picture(i)).is_file() for i in range(len(cell.pairs))):
        logger.warning("pictures of cell %s are missing: the cell is made again", cell.name)
        return None
    return content
