"""How do activations survive on disk? As a zarr store with a journal: one line for each file and each finished step.

Zarr fills a missing chunk with the fill value and says nothing, so the journal names every file with its size and
checksum, and opening a store checks them. While a run goes, hidden states are written chunk by chunk, and a step is
entered in the journal once all of it is there: after a kill the journal says what the store has.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr

from dg_tools.activations.raw import CHUNK, Raw
from dg_tools.activations.result import Activations

JOURNAL = "journal.jsonl"
FORMAT: Literal[2] = 2  # version 3 has no strings yet


class StoreStopped(OSError):
    """A store that could not be written further (a full disk, say).

    Attributes:
        kept: `Activations` of the runs that were finished, in memory; None where there were none.
        folder: the store, which `open_activations` reads up to its last finished step.
    """

    kept: Activations | None
    folder: Path


def checksum(file: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    value = 0
    with file.open("rb") as handle:
        while piece := handle.read(2**20):
            value = zlib.crc32(piece, value)
    return value


def entry(folder: Path, file: Path) -> str:
    """A file's line in the journal."""
    name = file.relative_to(folder).as_posix()
    return json.dumps({"file": name, "size": file.stat().st_size, "crc32": checksum(file)}) + "\n"


def write_journal(folder: Path) -> None:
    """Enter every file that the store holds, in place of what was entered before."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(JOURNAL))
    draft = folder / f"{JOURNAL}.new"
    draft.write_text("".join(entry(folder, f) for f in files) + json.dumps({"finished": True}) + "\n", encoding="utf-8")
    os.replace(draft, folder / JOURNAL)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Lines of the journal; a last one that was cut off is left out."""
    lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    made = []
    for i, line in enumerate(lines):
        try:
            made.append(json.loads(line))
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise ValueError(f"{folder / JOURNAL} is corrupt in line {i + 1}") from None
    return made


def check_files(folder: Path, journal: list[dict[str, Any]]) -> None:
    """Raise for the first files that are missing or not what was written."""
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


def opened(folder: Path) -> xr.Dataset:
    """What a store holds, read when asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{JOURNAL} is not recognized.*")
        return xr.open_zarr(folder, consolidated=False)


def check_target(folder: Path) -> None:
    """Raise FileExistsError for a folder that holds something else than activations."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / ".zgroup").is_file())):
        raise FileExistsError(f"{folder} holds something else: pass a folder of its own for activations")


def save(data: xr.Dataset, folder: Path) -> None:
    """A dataset as a store; written beside and put in place when whole."""
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


def open_activations(folder: str | Path, *, verify: bool = True) -> Activations:
    """Activations from `Activations.save`, or from a capture's `store=`, finished or not.

    An unfinished store (a run that was killed) has `hidden_states` up to its last whole step, NaN beyond, and `kept`,
    which says for each prompt, seed and raw_step whether it is there; `data.attrs["finished"]` is False.

    Args:
        folder: the store.
        verify: check every file's size and checksum, which reads all of it once.

    Raises:
        FileNotFoundError: no such store.
        ValueError: a file that is missing or corrupt, by name.
    """
    folder = Path(folder)
    if not (folder / ".zgroup").is_file():
        raise FileNotFoundError(f"no activations at {folder}: pass the folder that Activations.save wrote")
    if not (folder / JOURNAL).is_file():
        raise ValueError(f"the activations at {folder} are damaged: {JOURNAL} is missing, so nothing can be checked")
    journal = read_journal(folder)
    if verify:
        check_files(folder, journal)
    data = opened(folder)
    if not any("finished" in line for line in journal):
        kept = np.zeros([data.sizes[d] for d in ("prompt", "seed", "raw_step")], bool)
        for line in journal:
            if "prompt" in line:
                kept[line["prompt"], line["seed"], line["step"]] = True
        data["kept"] = (("prompt", "seed", "raw_step"), kept)
        data.attrs["finished"] = False
    return Activations(data)


class RawStore:
    """Hidden states of a capture, written while its runs go.

    Args:
        folder: where; a store of activations there is replaced.
        coords: labels of prompt, seed, branch and of the raw dimensions, in this order.
        raw: what is kept.
        attrs: settings and provenance.
    """

    def __init__(self, folder: str | Path, coords: dict[str, Sequence[Any]], raw: Raw, attrs: dict[str, Any]) -> None:
        self.folder, self.raw = Path(folder), raw
        check_target(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        labels = xr.Dataset(coords={k: list(v) for k, v in coords.items()}, attrs={**attrs, "finished": False})
        labels.to_zarr(self.folder, mode="w", consolidated=False, zarr_format=FORMAT)
        lead = [len(coords[d]) for d in ("prompt", "seed", "branch", "raw_step", "raw_site")]
        tokens = max(1, min(raw.shape[0], CHUNK // raw.shape[1]))
        self.array = zarr.open_group(self.folder, mode="r+", zarr_format=FORMAT).create_array(
            "hidden_states", shape=(*lead, *raw.shape), chunks=(*[1] * len(lead), tokens, raw.shape[1]),
            dtype="float32", fill_value=np.nan, config={"write_empty_chunks": True},
            attributes={"_ARRAY_DIMENSIONS": ["prompt", "seed", "branch", *raw.dims]},
        )  # fmt: skip
        self.chunks = math.ceil(raw.shape[0] / tokens)
        self.finished: list[tuple[int, int, int]] = []
        (self.folder / JOURNAL).touch()
        files = sorted(p for p in self.folder.rglob(".z*"))
        self._enter("".join(entry(self.folder, f) for f in files))

    def _enter(self, lines: str) -> None:
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as handle:
            handle.write(lines)

    def write(self, at: tuple[int, ...], hidden: np.ndarray) -> None:
        """Hidden states (tokens, channels) at (prompt, seed, branch, raw_step, raw_site), by position."""
        self.array[at] = hidden
        names = [".".join(map(str, (*at, chunk, 0))) for chunk in range(self.chunks)]
        self._enter("".join(entry(self.folder, self.folder / "hidden_states" / name) for name in names))

    def done(self, place: tuple[int, int], step: int) -> None:
        """All of a step is written."""
        at = (*place, self.raw.steps.index(step))
        self._enter(json.dumps(dict(zip(("prompt", "seed", "step"), at, strict=True))) + "\n")
        self.finished.append(at)

    def finish(self, data: xr.Dataset) -> xr.Dataset:
        """Put the statistics beside the hidden states; the whole, read from the store where it is large."""
        attrs = {**data.attrs, "finished": True}
        known = set(opened(self.folder).variables)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f".*{JOURNAL} is not recognized.*")
            rest = data.drop_vars(known & set(data.variables)).assign_attrs(attrs)
            rest.to_zarr(self.folder, mode="a", consolidated=False, zarr_format=FORMAT)
        write_journal(self.folder)
        return data.assign(hidden_states=opened(self.folder)["hidden_states"]).assign_attrs(attrs)

    def stopped(self, error: OSError, kept: Activations | None, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        """The error that says what there is."""
        steps: dict[tuple[int, int], list[int]] = {}
        for p, s, k in self.finished:
            steps.setdefault((p, s), []).append(self.raw.steps[k])
        there = (
            "; ".join(f"{prompts[p]!r}, seed {seeds[s]}: steps {v}" for (p, s), v in steps.items()) or "no whole step"
        )
        made = StoreStopped(
            error.errno,
            f"the store {self.folder} could not be written further ({error}). It keeps hidden states of {there}; "
            "open_activations reads it. Finished runs are in this exception's .kept",
        )
        made.kept, made.folder = kept, self.folder
        return made
