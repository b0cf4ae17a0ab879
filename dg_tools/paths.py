"""Where results are written: usable folders, free names, and files that are complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_folder(folder: Path, purpose: str) -> None:
    """Raise NotADirectoryError where a file has the name of the folder; `purpose` says what the folder is for."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; {purpose}")


def free(path: Path) -> Path:
    """The path of a file or folder, or the next one that is free: `x.png`, `x-2.png`, ..."""
    target, number = path, 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return target


@contextmanager
def whole(file: Path, rank: int | str = "") -> Iterator[Path]:
    """A draft beside a file: it takes the file's place at the end of the block, and is removed after an exception.

    Args:
        file: what is written.
        rank: number of this process, if several write files with the same name.
    """
    draft = file.with_name(f".{file.name}.part{rank}")
    try:
        yield draft
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
