"""A dataset on disk: a zarr store with a journal of its files, so that a missing or damaged file is noticed.

Zarr silently fills a missing chunk with the fill value. So the journal names every file with its size and checksum, and
opening a store checks them.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import xarray as xr

JOURNAL = "journal.jsonl"
FORMAT: Literal[2] = 2  # version 3 has no strings yet


def checksum(file: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    value = 0
    with file.open("rb") as handle:
        while piece := handle.read(2**20):
            value = zlib.crc32(piece, value)
    return value


def file_line(folder: Path, file: Path) -> str:
    """A file's line in the journal."""
    name = file.relative_to(folder).as_posix()
    return json.dumps({"file": name, "size": file.stat().st_size, "crc32": checksum(file)}) + "\n"


def write_journal(folder: Path) -> None:
    """A new journal with every file that the store holds."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(JOURNAL))
    draft = folder / f"{JOURNAL}.new"
    draft.write_text(
        "".join(file_line(folder, f) for f in files) + json.dumps({"finished": True}) + "\n", encoding="utf-8"
    )
    os.replace(draft, folder / JOURNAL)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Lines of the journal; a last one that was cut off is left out.

    Raises:
        ValueError: a journal that is not a list of files.
    """
    try:
        lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise damaged(folder, f"{JOURNAL} is not text") from None
    entries = []
    for i, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise damaged(folder, f"{JOURNAL} is corrupt in line {i + 1}") from None
            continue
        if not isinstance(entry, dict):
            raise damaged(folder, f"{JOURNAL} is corrupt in line {i + 1}")
        entries.append(entry)
    if not any("file" in entry for entry in entries):
        raise damaged(folder, f"{JOURNAL} names no file, so nothing can be checked")
    return entries


def damaged(folder: Path, reason: str) -> ValueError:
    """The error for a store that cannot be trusted."""
    return ValueError(f"the activations at {folder} are damaged: {reason}; capture them again")


def check_files(folder: Path, journal: list[dict[str, Any]]) -> None:
    """Raise ValueError with the first files that are missing or differ from what was written."""
    wrong = []
    for line in {e["file"]: e for e in journal if "file" in e}.values():
        file = folder / line["file"]
        if not file.is_file():
            wrong.append(f"{line['file']} is missing")
        elif file.stat().st_size != line["size"]:
            wrong.append(f"{line['file']} is corrupt ({file.stat().st_size} bytes of {line['size']})")
        elif checksum(file) != line["crc32"]:
            wrong.append(f"{line['file']} is corrupt (another checksum)")
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"the activations at {folder} are damaged: {'; '.join(wrong[:5])}{more}; capture them again")


def read_lazily(folder: Path) -> xr.Dataset:
    """What a store holds; each variable is read from disk on first use."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{JOURNAL} is not recognized.*")
        return xr.open_zarr(folder, consolidated=False)


def check_target(folder: Path) -> None:
    """Raise FileExistsError for a folder that holds something other than activations."""
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file: pass a new or empty folder for the activations")
    if folder.exists() and (any(folder.iterdir()) and not (folder / ".zgroup").is_file()):
        raise FileExistsError(f"{folder} holds other files: pass a new or empty folder for the activations")


def save(data: xr.Dataset, folder: Path) -> None:
    """Write a dataset as a store: first under a temporary name beside its place, then moved there once complete."""
    check_target(folder)
    draft = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        data = data.copy()
        for variable in data.variables.values():
            variable.encoding = {}  # a dataset that was opened from a store carries that store's chunks
        data.to_zarr(draft, mode="w", consolidated=False, zarr_format=FORMAT)
        write_journal(draft)
        if folder.exists():
            data.load()  # it may be lazily read from the store that goes
            shutil.rmtree(folder)
        os.replace(draft, folder)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        message = f"the activations could not be written to {folder}, which is as it was: {error}"
        raise OSError(error.errno, message) from error
