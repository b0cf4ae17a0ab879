"""Read what a stored sweep holds at one place of its folder; no model runs.

A place has a value on every axis: guidance, block, channels, s, w, window, prompt, seed, split. A guidance without a
block, such as CFG, has one picture for all blocks. Where a place holds nothing, the content says why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dg_tools.metrics import UNITS
from dg_tools.sweeps import Sweep, open_sweep
from dg_tools.sweeps.choose import OBJECTIVES, best
from dg_tools.sweeps.settings import Setting

AXES = {
    "guidance": "Guidance", "block": "Block", "channels": "Channels", "rho": "Rho", "s": "Guidance scale s",
    "w": "Detail scale w", "window": "Window", "prompt": "Prompt", "seed": "Seed", "split": "Split",
}  # fmt: skip
OF_SETTING = tuple(AXES)[:7]
# the first two of these that vary are shown
FIRST = ("block", "rho", "w", "s", "window", "channels", "guidance", "prompt", "seed", "split")
MORE_UNITS = {
    "amount": "doublings", "amount_error": "doublings", "detail_lack": "doublings", "layout": "-1..1",
    "block_calls": "a picture", "forwards": "a picture", "seconds": "a picture",
}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """What the explorer shows: two axes, the current place, the measure in the cells.

    Attributes:
        rows, columns: axes of the grid.
        at: a value on every axis; the grid's other axes are held there.
        measure: a column of the sweep's table.
        mean: its mean over the setting's pictures of that split, not this picture's.
        chosen: each guidance in its chosen setting, whatever `at` says of block, channels, s, w and window.
    """

    rows: str
    columns: str
    at: dict[str, Any]
    measure: str
    mean: bool = False
    chosen: bool = False

    @property
    def axes(self) -> tuple[str, str]:
        """Both axes."""
        return self.rows, self.columns


@dataclass(frozen=True)
class CellContent:
    """What a cell of the grid holds.

    Attributes:
        at: the place.
        number: of the setting; None where the sweep has none there.
        row: of the sweep's table; empty where there is no picture and no number.
        file: of the picture, where one was kept.
        words: what is missing, and why.
    """

    at: dict[str, Any]
    number: int | None = None
    row: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    words: str = ""


def read_sweep(folder: Any) -> Sweep:
    """`open_sweep` for a folder that the reader typed.

    Raises:
        ValueError, FileNotFoundError: no folder named, or one without a sweep.
    """
    if not str(folder).strip():
        raise ValueError("no folder named: write the path of one that dg.sweep wrote")
    return open_sweep(Path(str(folder).strip()).expanduser())


class StoredSweep:
    """A sweep's folder as places, read once.

    Attributes:
        plan: of the sweep.
        axes: values by axis, in order.
        varying: axes with more than one value.
        measures: columns that a cell can show; the objective's cost first.
        chosen: number of the chosen setting by guidance; empty where the sweep has not chosen yet.
        missing, total: development cells that are not done, and all.
        size: height and width of every picture, in pixels.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.plan = sweep.plan
        self.coordinates = [coordinates(s) for s in self.plan.settings]
        self.missing = len(sweep.missing)
        self.total = len(self.plan.cells("development"))
        fixed = json.loads(self.plan.fixed)
        self.size: tuple[int, int] = (fixed["height"], fixed["width"])
        self.chosen: dict[str, int | None] = {} if self.missing else best(sweep.scores)
        self.prompts = {split: list(dict.fromkeys(p for p, _ in part)) for split, part in self.plan.pairs.items()}
        seeds = list(dict.fromkeys(seed for part in self.plan.pairs.values() for _, seed in part))
        self.axes: dict[str, list[Any]] = {
            "guidance": list(dict.fromkeys(p["guidance"] for p in self.coordinates)),
            **{a: sorted({p[a] for p in self.coordinates} - {None}) for a in OF_SETTING[1:]},
            "prompt": list(dict.fromkeys(p for part in self.prompts.values() for p in part)),
            "seed": seeds,
            "split": list(self.prompts),
        }
        if not self.axes["rho"]:  # a sweep that zeroes has none
            del self.axes["rho"]
        self.varying = [a for a, values in self.axes.items() if len(values) > 1]
        table, rule = sweep.table, OBJECTIVES[self.plan.objective]
        known = [c for c in table.columns if c in {**UNITS, **MORE_UNITS}]
        self.measures = list(dict.fromkeys([rule.cost, rule.guard, *known]))
        self.rows = {(r["number"], r["prompt"], r["seed"]): r for r in table.to_dict("records")}
        self.means: dict[tuple[int, str], dict[str, float]] = {}
        for key, part in table.groupby(["number", "split"]) if len(table) else ():
            self.means[key] = {**part[known].mean().to_dict(), "pictures": len(part)}

    def opening(self) -> Selection:
        """Two axes that vary, through the chosen Detail Guidance where there is one."""
        rows, columns = [a for a in FIRST if a in self.varying][:2]
        at = {axis: values[0] if values else None for axis, values in self.axes.items()}
        number = self.chosen.get("DG")
        first = next(i for i, s in enumerate(self.plan.settings) if s.guidance == "DG")
        place = self.coordinates[first if number is None else number]
        at |= {axis: place[axis] for axis in OF_SETTING if axis in self.axes}
        return Selection(rows, columns, at, self.measures[0])

    def values(self, axis: str, selection: Selection) -> list[Any]:
        """An axis's values under a selection: those of the guidance and split that no axis of the grid varies."""
        if axis == "prompt" and "split" not in selection.axes:
            return self.prompts[selection.at["split"]]
        if axis in OF_SETTING[1:] and "guidance" not in selection.axes:
            tried = {p[axis] for p in self.coordinates if p["guidance"] == selection.at["guidance"]} - {None}
            return sorted(tried) or self.axes[axis]  # without a block: the same picture in all blocks
        return self.axes[axis]

    def settled(self, selection: Selection, split_moved: bool) -> tuple[dict[str, Any], str]:
        """The place with a prompt of its split and values that its guidance was tried at, and what that changed.

        A prompt is in one split: if the split changed, the prompt follows it; otherwise the split follows the prompt.
        """
        at, changes = dict(selection.at), []
        if at["prompt"] not in self.prompts[at["split"]] and set(selection.axes) != {"prompt", "split"}:
            if split_moved:
                at["prompt"] = self.prompts[at["split"]][0]
            else:
                at["split"] = next(s for s, prompts in self.prompts.items() if at["prompt"] in prompts)
        for axis in OF_SETTING[1:]:
            if axis in self.axes and at[axis] not in (values := self.values(axis, selection)):
                changes.append(f"{AXES[axis].lower()} {label(axis, at[axis])}, but at {label(axis, values[0])}")
                at[axis] = values[0]
        return at, f"{at['guidance']} was not tried at {'; '.join(changes)}." if changes else ""

    def number_at(self, selection: Selection, at: dict[str, Any]) -> int | None:
        """Number of the setting at a place; None: the sweep has none."""
        if selection.chosen:
            return self.chosen.get(at["guidance"])
        here = (n for n, p in enumerate(self.coordinates) if all(p[a] in (None, at.get(a)) for a in OF_SETTING))
        return next(here, None)

    def find(self, selection: Selection, **moved: Any) -> CellContent:
        """The content of the current place, or of one with other values on some axes."""
        at = {**selection.at, **moved}
        if at["prompt"] not in (prompts := self.prompts[at["split"]]):
            if "prompt" in selection.axes:
                return CellContent(at, words=f"no {at['split']} prompt")
            at["prompt"] = prompts[0]  # splits side by side: a prompt of its own for each
        number = self.number_at(selection, at)
        if number is None:
            return CellContent(at, words="no setting holds the guard" if selection.chosen else "not in this sweep")
        row = self.rows.get((number, at["prompt"], at["seed"]))
        if row is None:
            untested = at["split"] == "test" and number not in self.chosen.values()
            return CellContent(at, number, words="test prompts: chosen settings only" if untested else "not done yet")
        if not isinstance(row["picture"], str):
            return CellContent(at, number, row, words="no picture kept")
        return CellContent(at, number, row, self.sweep.folder / row["picture"])

    def value(self, selection: Selection, content: CellContent) -> float | None:
        """The measure of a cell; None where there is none."""
        if not content.row or content.number is None:
            return None
        row = self.means[content.number, content.at["split"]] if selection.mean else content.row
        return row.get(selection.measure)


def coordinates(setting: Setting) -> dict[str, Any]:
    """A setting's values on its axes; None on an axis that its guidance does not have."""
    guided = setting.w > 0
    return {
        "guidance": setting.guidance,
        "block": setting.block,
        "channels": setting.channels or None,
        "rho": setting.rho,
        "s": None if setting.guidance == "cond" else setting.s,
        "w": setting.w if guided else None,
        "window": setting.window if guided else None,
    }


def label(axis: str, value: Any) -> str:
    """A value in words."""
    if axis == "channels":
        return ", ".join(map(str, value))
    if axis == "window":
        return f"{value[0]:g} to {value[1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def unit(measure: str) -> str:
    """A measure with its unit."""
    return f"{measure.replace('_', ' ')} ({ {**UNITS, **MORE_UNITS}[measure] })"
