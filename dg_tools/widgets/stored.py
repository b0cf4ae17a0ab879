"""What does a stored sweep hold at one place? Pure reads of its folder; no model.

A place has a value on every axis: guidance, block, channels, s, w, window, prompt, seed, split. A guidance without a
block, such as CFG, has one picture for all blocks. Where a place holds nothing, it says why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dg_tools.metrics import UNITS
from dg_tools.sweeps import Sweep, open_sweep
from dg_tools.sweeps.choose import OBJECTIVES, best
from dg_tools.sweeps.result import Plan
from dg_tools.sweeps.settings import IN_BLOCKS, SCALED, WEIGHTED, Setting

AXES = {
    "guidance": "Guidance", "block": "Block", "channels": "Channels", "s": "Guidance scale s", "w": "Detail scale w",
    "window": "Window", "prompt": "Prompt", "seed": "Seed", "split": "Split",
}  # fmt: skip
OF_SETTING = tuple(AXES)[:6]
FIRST = ("block", "w", "s", "window", "channels", "guidance", "prompt", "seed", "split")  # the first two that vary
MORE_UNITS = {
    "amount": "doublings", "amount_error": "doublings", "detail_lack": "doublings", "layout": "-1..1",
    "block_calls": "a picture", "forwards": "a picture", "seconds": "a picture",
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What the reader sees: two axes, the place looked at, the measure in the cells.

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
class Found:
    """What is at a place.

    Attributes:
        at: the place.
        number: of the setting; None where the sweep has none there.
        row: of the sweep's table; empty where there is no picture and no number.
        file: of the picture, where one was kept.
        words: what is not there, and why.
    """

    at: dict[str, Any]
    number: int | None = None
    row: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    words: str = ""


def read_sweep(folder: Any) -> Sweep:
    """`open_sweep` for what people type.

    Raises:
        ValueError, FileNotFoundError: no folder named, or one without a sweep.
    """
    if not str(folder).strip():
        raise ValueError("no folder named: write the path of one that dg.sweep wrote")
    return open_sweep(Path(str(folder).strip()).expanduser())


class Stored:
    """A sweep's folder as places, read once.

    Attributes:
        plan: of the sweep.
        axes: values by axis, in order.
        varying: axes with more than one value.
        measures: columns that a cell can show; the objective's cost first.
        chosen: number of the chosen setting by guidance; empty where the sweep has not chosen yet.
        missing, total: development cells that are not done, and all.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.plan = sweep, sweep.plan
        self.has = [coordinates(s) for s in self.plan.settings]
        self.missing, self.total = len(sweep.missing), len(self.plan.cells("development"))
        self.chosen: dict[str, int | None] = {} if self.missing else best(sweep.scores)
        self.prompts = {split: list(dict.fromkeys(p for p, _ in part)) for split, part in self.plan.pairs.items()}
        seeds = list(dict.fromkeys(seed for part in self.plan.pairs.values() for _, seed in part))
        self.axes: dict[str, list[Any]] = {
            "guidance": list(dict.fromkeys(p["guidance"] for p in self.has)),
            **{a: sorted({p[a] for p in self.has} - {None}) for a in OF_SETTING[1:]},
            "prompt": list(dict.fromkeys(p for part in self.prompts.values() for p in part)),
            "seed": seeds,
            "split": list(self.prompts),
        }
        self.varying = [a for a, values in self.axes.items() if len(values) > 1]
        table, rule = sweep.table, OBJECTIVES[self.plan.objective]
        known = [c for c in table.columns if c in {**UNITS, **MORE_UNITS}]
        self.measures = list(dict.fromkeys([rule.cost, rule.guard, *known]))
        self.rows = {(r["number"], r["prompt"], r["seed"]): r for r in table.to_dict("records")}
        self.means: dict[tuple[int, str], dict[str, float]] = {}
        for key, part in table.groupby(["number", "split"]) if len(table) else ():
            self.means[key] = {**part[known].mean().to_dict(), "pictures": len(part)}

    def opening(self) -> Look:
        """Two axes that vary, through the chosen Detail Guidance where there is one."""
        rows, columns = [a for a in FIRST if a in self.varying][:2]
        at = {axis: values[0] if values else None for axis, values in self.axes.items()}
        number = self.chosen.get("DG")
        first = next(i for i, s in enumerate(self.plan.settings) if s.guidance == "DG")
        at |= self.has[first if number is None else number]
        return Look(rows, columns, at, self.measures[0])

    def values(self, axis: str, look: Look) -> list[Any]:
        """An axis's values under a look: those of the guidance and the split that are held, where they are held."""
        if axis == "prompt" and "split" not in look.axes:
            return self.prompts[look.at["split"]]
        if axis in OF_SETTING[1:] and "guidance" not in look.axes:
            tried = {has[axis] for has in self.has if has["guidance"] == look.at["guidance"]} - {None}
            return sorted(tried) or self.axes[axis]  # without a block: the same picture in all blocks
        return self.axes[axis]

    def settled(self, look: Look, split_moved: bool) -> tuple[dict[str, Any], str]:
        """The place with a prompt of its split and values that its guidance was tried at, and what that changed.

        A prompt lies in one split: where the split moved, the prompt follows, or else the split follows the prompt.
        """
        at, said = dict(look.at), []
        if at["prompt"] not in self.prompts[at["split"]] and set(look.axes) != {"prompt", "split"}:
            if split_moved:
                at["prompt"] = self.prompts[at["split"]][0]
            else:
                at["split"] = next(s for s, prompts in self.prompts.items() if at["prompt"] in prompts)
        for axis in OF_SETTING[1:]:
            if at[axis] not in (values := self.values(axis, look)):
                said.append(f"{AXES[axis].lower()} {label(axis, at[axis])}, but at {label(axis, values[0])}")
                at[axis] = values[0]
        return at, f"{at['guidance']} was not tried at {'; '.join(said)}." if said else ""

    def number_at(self, look: Look, at: dict[str, Any]) -> int | None:
        """Number of the setting at a place; None: the sweep has none."""
        if look.chosen:
            return self.chosen.get(at["guidance"])
        here = (n for n, has in enumerate(self.has) if all(has[a] in (None, at[a]) for a in OF_SETTING))
        return next(here, None)

    def find(self, look: Look, **moved: Any) -> Found:
        """What is at the place looked at, or at one with other values on some axes."""
        at = {**look.at, **moved}
        if at["prompt"] not in (prompts := self.prompts[at["split"]]):
            if "prompt" in look.axes:
                return Found(at, words=f"no {at['split']} prompt")
            at["prompt"] = prompts[0]  # splits side by side: a prompt of its own for each
        number = self.number_at(look, at)
        if number is None:
            return Found(at, words="no setting holds the guard" if look.chosen else "not in this sweep")
        row = self.rows.get((number, at["prompt"], at["seed"]))
        if row is None:
            untested = at["split"] == "test" and number not in self.chosen.values()
            return Found(at, number, words="test prompts: chosen settings only" if untested else "not done yet")
        if not isinstance(row["picture"], str):
            return Found(at, number, row, words="no picture kept")
        return Found(at, number, row, self.sweep.folder / row["picture"])

    def value(self, look: Look, found: Found) -> float | None:
        """The measure of a cell; None where there is none."""
        if not found.row or found.number is None:
            return None
        of = self.means[found.number, found.at["split"]] if look.mean else found.row
        return of.get(look.measure)


def coordinates(setting: Setting) -> dict[str, Any]:
    """A setting's values on its axes; None where its guidance has no such thing."""
    guided = setting.w > 0
    return {
        "guidance": setting.guidance, "block": setting.block, "channels": setting.channels or None,
        "s": None if setting.guidance == "cond" else setting.s, "w": setting.w if guided else None,
        "window": setting.window if guided else None,
    }  # fmt: skip


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


def code(plan: Plan, setting: Setting, prompt: str, seed: int) -> str:
    """One picture of a sweep in the library's own words; `dit` is the sweep's model."""
    fixed = json.loads(plan.fixed)
    call = {k: fixed[k] for k in ("steps", "height", "width")} | fixed["call"]
    if fixed["negative_prompt"]:
        call["negative_prompt"] = fixed["negative_prompt"]
    said = ", ".join(f"{k}={v!r}" for k, v in call.items())
    made = f"made = dg.generate(dit, {prompt!r}, seed={seed}, {said}, guidance=guidance)"
    return "\n".join([*guidance_code(setting), made, "made.grid()"])


def guidance_code(setting: Setting) -> list[str]:
    """Lines that end in `guidance = ...`: what `Setting.guider` makes."""
    name, s, w, window = setting.guidance, setting.s, setting.w, setting.window
    if name in SCALED:
        return [f"guidance = {'dg.CFG' if name == 'CFG' else f'dg.baselines.{name}'}({s!r})"]
    if not w:
        return ["guidance = None"]
    if name in IN_BLOCKS + WEIGHTED:
        where = f"blocks={setting.block}, " if name in IN_BLOCKS else ""
        return [f"guidance = dg.baselines.{name}({s!r}, {w!r}, {where}window={window!r})"]
    off = f"off = dg.Disrupt({list(setting.channels)}, block={setting.block})"
    off += ".controls(1)[0]" if name == "control" else ""
    start, stop = window
    when = f", detail_guidance_start={start!r}, detail_guidance_stop={stop!r}" if (start, stop) != (0.0, 1.0) else ""
    return [off, f"guidance = dg.DetailGuidance({s!r}, {w!r}, off{when})"]
