"""Captures on disk: opened, and hidden states written during the runs.

Hidden states are written chunk by chunk. A step enters the journal once all of it is written, so after a kill the
journal says what the store has.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dg_tools.activations.journal import (
    FORMAT,
    JOURNAL,
    check_files,
    check_target,
    file_line,
    read_journal,
    read_lazily,
    write_journal,
)
from dg_tools.activations.raw import CHUNK, RawSelection
from dg_tools.activations.result import Activations
from dg_tools.models.dit import DiT


class StoreStopped(OSError):
    """A store that could not be written further (a full disk, say).

    Attributes:
        kept: `Activations` of the runs that were finished, in memory; None where there were none.
        folder: the store, which `open_activations` reads up to its last finished step.
    """

    kept: Activations | None
    folder: Path


def open_activations(folder: str | Path, *, verify: bool = True) -> Activations:
    """Open activations that `Activations.save` wrote, or a capture's `store=`, finished or not.

    An unfinished store (from a killed run) has `hidden_states` up to its last whole step and NaN beyond. Its variable
    `kept` says for each prompt, seed and raw_step whether it is there, and `data.attrs["finished"]` is False.

    Args:
        folder: the store.
        verify: check the size and checksum of every file, which reads the whole store once.

    Raises:
        FileNotFoundError: no such store.
        ValueError: a file that is missing or corrupt, by name.

    Example:
        >>> dg.capture(dit, "owl", steps=2).save("owl.zarr")
        >>> dg.open_activations("owl.zarr").data.sizes["step"]
        2
    """
    folder = Path(folder)
    if not (folder / ".zgroup").is_file():
        raise FileNotFoundError(f"{folder} holds no activations: pass the folder that Activations.save wrote")
    if not (folder / JOURNAL).is_file():
        raise ValueError(f"the activations at {folder} are damaged: {JOURNAL} is missing, so nothing can be checked")
    journal = read_journal(folder)
    if verify:
        check_files(folder, journal)
    data = read_lazily(folder)
    if not any("finished" in line for line in journal):
        if not {"prompt", "seed", "raw_step"} <= set(data.sizes):
            raise ValueError(f"the activations at {folder} are damaged: {JOURNAL} was cut off; capture them again")
        there = np.zeros([data.sizes[d] for d in ("prompt", "seed", "raw_step")], bool)
        for line in journal:
            if "prompt" in line:
                there[line["prompt"], line["seed"], line["step"]] = True
        data["kept"] = (("prompt", "seed", "raw_step"), there)
        data.attrs["finished"] = False
    return Activations(data)


class RawStore:
    """Hidden states of a capture, written while its runs go.

    Args:
        folder: where; with `overwrite`, a store of activations there is replaced.
        coords: labels of prompt, seed, branch and of the raw dimensions, in this order.
        raw: which hidden states are kept.
        attrs: settings and provenance.
    """

    def __init__(
        self,
        folder: str | Path,
        coords: dict[str, Sequence[Any]],
        raw: RawSelection,
        attrs: dict[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.coords = coords
        self.raw = raw
        check_target(self.folder)
        if not overwrite and self.folder.exists() and any(self.folder.iterdir()):
            raise FileExistsError(
                f"{self.folder} holds activations already: pass another store=, or overwrite=True to replace them"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        labels = xr.Dataset(coords={k: list(v) for k, v in coords.items()}, attrs={**attrs, "finished": False})
        labels.to_zarr(self.folder, mode="w", consolidated=False, zarr_format=FORMAT)
        lead = [len(coords[d]) for d in ("prompt", "seed", "branch", "raw_step", "raw_site")]
        tokens = max(1, min(raw.shape[0], CHUNK // raw.shape[1]))
        self.array = zarr.open_group(self.folder, mode="r+", zarr_format=FORMAT).create_array(
            "hidden_states",
            shape=(*lead, *raw.shape),
            chunks=(*[1] * len(lead), tokens, raw.shape[1]),
            dtype="float32",
            fill_value=np.nan,
            config={"write_empty_chunks": True},
            attributes={"_ARRAY_DIMENSIONS": ["prompt", "seed", "branch", *raw.dims]},
        )
        self.chunks = math.ceil(raw.shape[0] / tokens)
        self.finished: list[tuple[int, int, int]] = []
        (self.folder / JOURNAL).touch()
        files = sorted(p for p in self.folder.rglob(".z*"))
        self._enter("".join(file_line(self.folder, f) for f in files))

    def _enter(self, lines: str) -> None:
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as handle:
            handle.write(lines)

    def write(self, at: tuple[int, ...], hidden: np.ndarray) -> None:
        """Hidden states (tokens, channels) at (prompt, seed, branch, raw_step, raw_site), by position."""
        self.array[at] = hidden
        names = [".".join(map(str, (*at, chunk, 0))) for chunk in range(self.chunks)]
        self._enter("".join(file_line(self.folder, self.folder / "hidden_states" / name) for name in names))

    def step_done(self, place: tuple[int, int], step: int) -> None:
        """Enter in the journal that all of a step is written, at (prompt, seed)."""
        at = (*place, self.raw.steps.index(step))
        self._enter(json.dumps(dict(zip(("prompt", "seed", "step"), at, strict=True))) + "\n")
        self.finished.append(at)

    def finish(self, data: xr.Dataset) -> xr.Dataset:
        """Write the statistics beside the hidden states; return both, the latter read from the store on use.

        Raises:
            StoreStopped: the statistics could not be written; they are in its `kept`.
        """
        attrs = {**data.attrs, "finished": True}
        try:
            written = set(read_lazily(self.folder).variables)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=f".*{JOURNAL} is not recognized.*")
                rest = data.drop_vars(written & set(data.variables)).assign_attrs(attrs)
                rest.to_zarr(self.folder, mode="a", consolidated=False, zarr_format=FORMAT)
            write_journal(self.folder)
            hidden = read_lazily(self.folder)["hidden_states"]
        except OSError as error:
            raise self.stopped(error, Activations(data)) from error
        return data.assign(hidden_states=hidden).assign_attrs(attrs)

    def stopped(self, error: OSError, kept: Activations | None) -> StoreStopped:
        """The error for a store that could not be written further; it says which steps are there."""
        prompts, seeds = self.coords["prompt"], self.coords["seed"]
        steps: dict[tuple[int, int], list[int]] = {}
        for p, s, k in self.finished:
            steps.setdefault((p, s), []).append(self.raw.steps[k])
        runs = [f"{prompts[p]!r}, seed {seeds[s]}: steps {v}" for (p, s), v in steps.items()]
        stopped = StoreStopped(
            error.errno,
            f"the store {self.folder} could not be written further ({error}). It keeps hidden states of "
            f"{'; '.join(runs) or 'no whole step'}; open_activations reads it. Finished runs are in this exception's "
            ".kept",
        )
        stopped.kept = kept
        stopped.folder = self.folder
        return stopped


def create_store(
    dit: DiT,
    folder: str | Path | None,
    raw: RawSelection,
    prompts: Sequence[str],
    seeds: Sequence[int],
    branches: Sequence[str],
    attrs: dict[str, Any],
    *,
    overwrite: bool = False,
) -> RawStore | None:
    """The store that a capture's `store=` names; None: hidden states stay in memory.

    Raises:
        ValueError: a store without hidden states to put in it.
        FileExistsError: the folder holds something else, or activations that may not be replaced.
    """
    if folder is None:
        return None
    if not raw.blocks:
        raise ValueError("store= keeps raw hidden states: name the blocks, raw=[...]; statistics are saved by .save")
    coords: dict[str, Sequence[Any]] = {"prompt": prompts, "seed": seeds, "branch": branches, **raw.coords(dit)}
    return RawStore(folder, coords, raw, attrs, overwrite)
