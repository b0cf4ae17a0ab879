"""Read the folder of a sweep: plan, cells, pictures, the choice and its report."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from dg_tools.kinds import counted
from dg_tools.metrics import band_correlation
from dg_tools.metrics.bands import Bands
from dg_tools.sweeps.cells import Cell, read_cell
from dg_tools.sweeps.choose import best, report, scores, verdict
from dg_tools.sweeps.plan import Plan
from dg_tools.sweeps.settings import Setting

PLAN, CHOSEN, PROFILE, TABLE = "sweep.json", "chosen.json", "profile.json", "table.csv"


class Sweep:
    """The folder of a sweep, finished or not.

    Attributes:
        folder: where it is.
        plan: which cells it has.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan

    def __repr__(self) -> str:
        cells = self.plan.cells("development")
        state = f"{len(cells) - len(self.missing)} of {len(cells)} development cells"
        size = counted(len(self.plan.settings), "setting")
        return f"Sweep({str(self.folder)!r}, {size}, {state}, chosen: {self.recommended})"

    @property
    def missing(self) -> list[Cell]:
        """Development cells that are not done; a later start does them."""
        return [c for c in self.plan.cells("development") if read_cell(self.folder, c, self.plan.pictures) is None]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per finished picture: setting, split, prompt, seed, measures, block calls, the file."""
        rows: list[dict[str, Any]] = []
        cond: dict[tuple[str, int], Path] = {}
        for split in ("development", "test"):
            for number, setting in enumerate(self.plan.settings):
                for cell in self.plan.cells(split, [number]):
                    content = read_cell(self.folder, cell)
                    if content is None:
                        continue
                    for i, (pair, row) in enumerate(zip(cell.pairs, content["rows"], strict=True)):
                        file = self.folder / cell.picture(i)
                        about = {"number": number, **setting.to_json(), "split": split}
                        about |= {"prompt": pair[0], "seed": pair[1], **row, **content["cost"]}
                        if number == 0 and file.is_file():
                            cond[pair] = file
                        if self.plan.objective == "detail":
                            there = pair in cond and file.is_file()
                            about["layout"] = layout(file, cond[pair], self.plan.bands) if there else None
                        rows.append({**about, "picture": cell.picture(i) if file.is_file() else None})
        return pd.DataFrame(rows).replace({None: np.nan})

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per setting on the development prompts, as in `choose.scores`.

        Raises:
            RuntimeError: development cells are missing, so not all settings can be compared.
        """
        if self.missing:
            raise RuntimeError(f"{len(self.missing)} development cells are missing: start the sweep again first")
        return scores(self.table, self.plan.settings, self.plan.objective, self.plan.margin)

    @cached_property
    def chosen(self) -> dict[str, Setting | None]:
        """The setting chosen for each guidance; None where none holds the objective's guard."""
        return {g: None if n is None else self.plan.settings[n] for g, n in best(self.scores).items()}

    @cached_property
    def report(self) -> pd.DataFrame:
        """The chosen settings on the test prompts, as in `choose.report`."""
        return report(self.table, best(self.scores), self.plan.objective)

    @property
    def recommended(self) -> str:
        """The recommendation in words: nothing if the best Detail Guidance is worse than another guidance."""
        file = self.folder / CHOSEN
        return json.loads(file.read_text(encoding="utf-8"))["recommended"] if file.is_file() else "nothing yet"

    def to_json(self) -> dict[str, Any]:
        """What was chosen, by which objective, and its report on the test prompts, as `chosen.json` holds it.

        Raises:
            FileNotFoundError: nothing has been chosen yet.
        """
        file = self.folder / CHOSEN
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there: nothing has been chosen yet, start the sweep again")
        return json.loads(file.read_text(encoding="utf-8"))

    @property
    def verdict(self) -> str:
        """Whether the chosen Detail Guidance is better than the other guidances that were searched, in words."""
        return verdict(self.report)

    @property
    def profile(self) -> Path | None:
        """The path of the profile; None if not yet written, or if no setting of Detail Guidance holds the guard."""
        file = self.folder / PROFILE
        return file if file.is_file() else None

    def pictures(self, setting: Setting, split: str = "development") -> list[Any]:
        """PIL pictures of a setting's cells that are there, in the order of the plan's pairs."""
        cells = self.plan.cells(split, [self.plan.settings.index(setting)])
        files = [self.folder / c.picture(i) for c in cells for i in range(len(c.pairs))]
        return [Image.open(f).convert("RGB") for f in files if f.is_file()]

    def plot(self) -> Any:
        """Cost by block and w, the chosen setting marked."""
        from dg_tools.plots import sweep_map

        return sweep_map(self)


def layout(file: Path, cond: Path, bands: Bands) -> float:
    """Low-band correlation of two pictures."""
    a, b = (torch.from_numpy(np.asarray(Image.open(f).convert("RGB"), np.float32)) for f in (file, cond))
    return band_correlation(a.permute(2, 0, 1)[None], b.permute(2, 0, 1)[None], bands)["low"].item()


def open_sweep(folder: str | Path) -> Sweep:
    """Open the folder of a sweep, finished or not; no model is needed.

    Raises:
        FileNotFoundError: no sweep in this folder.
        ValueError: a damaged plan.
    """
    file = Path(folder) / PLAN
    if not file.is_file():
        raise FileNotFoundError(f"no sweep in {folder}: it has no {PLAN}; `dg-tools sweep CONFIG.yaml` makes one")
    try:
        return Sweep(Path(folder), Plan.from_json(json.loads(file.read_text(encoding="utf-8"))))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): start the sweep again, its cells stay") from None
