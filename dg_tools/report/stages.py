"""The finished work of a report: units, each kept in the folder as soon as it is done, shared among the processes.

A unit is one safetensors file: arrays, and numbers as JSON beside them. Its name has a hash of everything that it
depends on. So a stopped report continues where it stopped, and other settings make other units.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dg_tools.generation.sampling import counted
from dg_tools.models.dit import DiT
from dg_tools.models.files import plain
from dg_tools.models.provenance import provenance
from dg_tools.paths import check_folder, whole
from dg_tools.progress import progress_bar
from dg_tools.report.memory import peak
from dg_tools.sweeps.parallel import Workers

FORMAT = 1  # version of the units: another version makes them again
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FOLDER = "stages"


@dataclass(frozen=True)
class Unit:
    """The result of one unit of work.

    Attributes:
        values: plain JSON.
        arrays: tensors by name.
        cost: seconds, forwards (whole ones, a partial one counts in part), decodes, memory (bytes, the most so far).
    """

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, torch.Tensor] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)


Make = Callable[[], Unit]


class Stages:
    """The units of one report.

    Args:
        folder: of the report.
        dit: the model.
        progress: show a bar for each stage.

    Raises:
        NotADirectoryError: a file has the folder's name.
        FileExistsError: a report on other weights is there.
    """

    def __init__(self, folder: Path, dit: DiT, progress: bool = True) -> None:
        self.folder = folder
        self.dit = dit
        self.progress = progress
        self.workers = Workers("report", "part")
        self.about = provenance(dit)
        self.costs: dict[str, dict[str, float]] = {}  # by stage
        self._paid: set[Path] = set()  # units whose cost is in `costs`: a stage may ask for one twice
        check_weights(folder, self.about)
        self.workers.meet("looking into the folder")
        if self.first and not (folder / FOLDER / "about.json").is_file():
            self._write(folder / FOLDER / "about.json", json.dumps(self.about, indent=1).encode())

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes the report."""
        return self.workers.rank == 0

    def each(self, stage: str, jobs: Mapping[str, Make], depends: Any = None) -> dict[str, Unit]:
        """Every job's unit, by the job's name; the missing ones are made, each by one of the processes.

        Args:
            stage: its name.
            jobs: by name, what makes a unit.
            depends: plain JSON: everything, beside the weights and the dtype, that the units depend on.

        Raises:
            OSError: a full disk; what is done is kept.
            ChildProcessError: another process stopped; what is done is kept.
        """
        files = {name: self.file(stage, name, depends) for name in jobs}
        missing = [name for name in jobs if read(files[name]) is None]
        self.workers.meet(f"looking for {stage}")
        bar = progress_bar(self.progress and self.first, total=len(jobs), initial=len(jobs) - len(missing), desc=stage)
        try:
            for name in self.workers.share(missing):
                self._write(files[name], packed(self.made(jobs[name])))
                bar.update(min(self.workers.count, bar.total - bar.n))
        finally:
            bar.close()
        self.workers.meet(f"doing {stage}")
        units = {}
        for name, file in files.items():
            unit = read(file)
            if unit is None:
                raise ChildProcessError(f"{file.name} is missing: start the same report again, it does what is missing")
            units[name] = unit
        total = self.costs.setdefault(stage, {})
        for job in [name for name, file in files.items() if file not in self._paid]:
            for name, value in units[job].cost.items():
                total[name] = max(total.get(name, 0), value) if name == "memory" else total.get(name, 0) + value
        self._paid.update(files.values())
        return units

    def once(self, stage: str, make: Make, depends: Any = None) -> Unit:
        """One unit, made by one of the processes."""
        return self.each(stage, {"": make}, depends)[""]

    def file(self, stage: str, name: str, depends: Any) -> Path:
        """Where a unit is kept."""
        settings = [FORMAT, self.about["weights"], self.about["dtype"], stage, name, plain(depends)]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        words = "-".join(x.replace(" ", "-").replace(",", "") for x in (stage, name) if x)
        return self.folder / FOLDER / f"{words}-{digest}.safetensors"

    def made(self, make: Make) -> Unit:
        """A unit with what it cost."""
        began = time.perf_counter()
        with counted(self.dit.family, (self.dit.transformer,)) as count, decoded_rows(self.dit) as decodes:
            unit = make()
        cost = {
            "seconds": time.perf_counter() - began,
            "forwards": count.block_calls / len(self.dit.blocks),
            "decodes": float(decodes[0]),
            "memory": float(peak(self.dit.device)),
        }
        return Unit(unit.values, unit.arrays, cost)

    def _write(self, file: Path, content: bytes) -> None:
        """Write a whole file or none, and flush it to the disk."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole(file, self.workers.rank) as draft, draft.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            if error.errno in FULL:
                raise OSError(
                    error.errno,
                    f"the disk is full: {file.name} could not be written in {file.parent}. What is done is kept: make "
                    "room and start the same report again, it goes on where it stopped",
                ) from None
            raise


@contextmanager
def decoded_rows(dit: DiT) -> Iterator[list[int]]:
    """Counts the pictures that the VAE decodes inside."""
    rows = [0]
    decoder = getattr(dit.pipeline.vae, "decoder", None)

    def see(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        rows[0] += len(inputs[0])

    handle = decoder.register_forward_hook(see) if decoder is not None else None
    try:
        yield rows
    finally:
        if handle is not None:
            handle.remove()


def packed(unit: Unit) -> bytes:
    """A unit as a safetensors file."""
    arrays = {name: value.detach().cpu().contiguous() for name, value in unit.arrays.items()}
    numbers = {name: plain(getattr(unit, name)) for name in ("values", "cost")}
    return save(arrays, {"json": json.dumps(numbers, allow_nan=False)})


def read(file: Path) -> Unit | None:
    """A kept unit; None: it has to be made."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            numbers = json.loads(opened.metadata()["json"])
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # it has no iterator of its own
        return Unit(numbers["values"], arrays, numbers["cost"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def check_weights(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise for a folder in which a report on other weights is kept."""
    check_folder(folder, "pass a folder for the report")
    try:
        before = json.loads((folder / FOLDER / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    same_kind = before.get("dtype") == about["dtype"]  # the same weights have another hash in another dtype
    if before.get("model") != about["model"] or (same_kind and before.get("weights") != about["weights"]):
        raise FileExistsError(
            f"{folder} holds a report on {before.get('model')!r} (weights {before.get('weights')}); these are "
            f"{about['model']!r} (weights {about['weights']}): pass another folder"
        )
