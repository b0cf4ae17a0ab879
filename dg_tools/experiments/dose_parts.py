"""The parts of a dose curve: each is made once and kept, so that the same call continues after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch

from dg_tools.experiments.samples import Samples
from dg_tools.guidance.auto import store
from dg_tools.models.journal import Journal


def journal_of(samples: Samples, settings: dict[str, Any], kept: bool) -> Journal:
    """The journal of a dose curve: one for each model, pictures and settings.

    Args:
        samples: the pictures.
        settings: plain JSON, with the model's provenance.
        kept: False keeps nothing on disk.
    """
    settings = {**settings, "prompts": samples.prompts, "seeds": samples.seeds, "steps": samples.steps}
    settings |= {"batch": samples.batch, "call": {k: repr(v) for k, v in sorted(samples.kwargs.items())}}
    if samples.truth is not None:
        settings["truth"] = hashlib.sha256(samples.truth.numpy().tobytes()).hexdigest()
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return Journal(store.cache_folder() / f"dose-{name}.part", settings, kept)


class Parts:
    """Makes the parts that the journal does not have.

    Args:
        journal: of this curve.
        tick: called with the number of runs that are done.
    """

    def __init__(self, journal: Journal, tick: Callable[[int], Any]) -> None:
        self.journal = journal
        self.tick = tick

    def tables(self, name: str, runs: int, make: Callable[[], Sequence[pd.DataFrame]]) -> list[pd.DataFrame]:
        """Tables, from `runs` runs."""
        if name not in self.journal:
            self.journal[name] = [table.to_dict("list") for table in make()]
            self.tick(runs)
        return [read(columns) for columns in self.journal[name]]

    def pictures(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Pictures (N, 3, H, W)."""
        pictures = self.journal.latents(name)
        if pictures is None:
            pictures = make()
            self.journal.keep_latents(name, pictures)
        return pictures


def read(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """A table from JSON, where None is NaN."""
    table = pd.DataFrame(columns)
    return table.apply(lambda column: column.astype(float) if column.isna().all() else column)
