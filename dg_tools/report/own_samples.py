"""Samples of a model without references: each run starts from its base's noise and is measured against its sample.

The base is the plain conditional prediction, or CFG. Every chunk of a run is a unit of `stages`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch

from dg_tools.experiments.samples import RETRIEVAL_SIZE, small
from dg_tools.generation.sampling import Count, run
from dg_tools.metrics import amount_change, contrast, low_correlation, retrieval_margin
from dg_tools.metrics.cell_bands import fineness
from dg_tools.models.pictures import pictures as decoded
from dg_tools.models.pictures import spatial
from dg_tools.report.samples import Setting
from dg_tools.report.stages import Stages, Unit
from dg_tools.report.subjects import Subjects, chunks, seeds_of

COND = "cond"
MEASURED = ("amt_c", "low", "margin")
PLAIN: Setting = ((), None)


class OwnSamples:
    """Samples of one part of the prompts.

    Args:
        stages: where units are kept.
        subjects: prompts and size. part: `choice` or `test`.
        steps: of a sample.
        batch: prompts at once.

    Attributes:
        tables: by run's name, one row per prompt: amt_c and amt_c_clean (amount against the base, doublings), low and
            low_clean (low-band correlation with it), margin (of retrieval among the base's samples).
        price: forwards and passes of one picture, over all its steps, by run.
        against: the base that a run's amt_c and low are against, by run.
        own_gain: by run and chunk, the gain by noise level that the guidance contained.
    """

    def __init__(self, stages: Stages, subjects: Subjects, part: str, steps: int, batch: int) -> None:
        self.stages, self.dit, self.part, self.steps = stages, stages.dit, part, steps
        self.prompts = [x.prompt for x in subjects.part(part)]
        self.size: dict[str, Any] = {"height": subjects.height, "width": subjects.width}
        self.parts = list(chunks(len(self.prompts), batch))
        self.tables: dict[str, pd.DataFrame] = {}
        self.price: dict[str, dict[str, float]] = {}
        self.against: dict[str, str] = {}
        self.own_gain: dict[str, dict[int, Any]] = {}
        self.first: dict[str, torch.Tensor] = {}  # latents of the first prompt, by run
        self.latents: dict[str, torch.Tensor] = {}  # of the bases
        self._pictures: dict[tuple[str, int], torch.Tensor] = {}
        self._pools: dict[str, torch.Tensor] = {}  # the bases' samples, small

    @property
    def depends(self) -> dict[str, Any]:
        """What every unit depends on."""
        return {"part": self.part, "prompts": self.prompts, "steps": self.steps, **self.size}

    def base(self, name: str = COND, setting: Setting = PLAIN, against: str = "") -> pd.DataFrame:
        """Draw a base, chosen by its name; in its table the changes are zero, and margins, fineness and contrast are
        its own.

        With `against`, another base, the table `name` holds what is measured against that base; this base's own table
        is `name, base`.
        """

        def make(where: slice) -> Unit:
            latents, cost = self.drawn(where, setting)
            if not latents.isfinite().all():
                raise RuntimeError(
                    f"the samples of {self.prompts[where]} are not finite in {self.dit.dtype}: load the model in "
                    "float32 or bfloat16"
                )
            shown = decoded(self.dit, latents, batch=len(latents))
            values: dict[str, Any] = {"fineness": fineness(shown, self.dit.vae_scale_factor).tolist()}
            values |= {"contrast": contrast(shown).tolist()}
            values |= self.measured(shown, against, where) if against else {}
            values |= prices(cost, len(self.dit.blocks), len(latents))
            return Unit(values, {"latents": latents, "small": small(shown)})

        units = self.units(f"{self.part} {name}", make, [name, against])
        self.latents[name] = torch.cat([unit.arrays["latents"] for unit in units])
        self._pools[name] = torch.cat([unit.arrays["small"] for unit in units])
        self.first[name] = self.latents[name][:1]
        self.against[name] = against or name
        count = len(self.prompts)
        own = retrieval_margin(self._pools[name], self._pools[name], torch.arange(count), size=RETRIEVAL_SIZE)
        columns = {"amt_c": [0.0] * count, "low": [1.0] * count, "margin": own.tolist()}
        columns |= {key: joined(units, key) for key in ("fineness", "contrast")}
        if against:
            self.tabled(name, {key: joined(units, key) for key in MEASURED}, units)
            name = f"{name}, base"
        return self.tabled(name, columns, units)

    def run(
        self,
        name: str,
        setting: Callable[[int], Setting],
        depends: Any,
        base: str = COND,
        count: int | None = None,
        weight: float = 0.0,
    ) -> pd.DataFrame:
        """Draw a run on the first `count` prompts (rounded up to whole chunks; None: all) and measure it.

        Args:
            name: of the run.
            setting: edits and guidance of a chunk, by the number of its first prompt.
            depends: plain JSON that says the setting.
            base: the run whose noise and samples it is compared with; drawn before.
            count: prompts.
            weight: w, where the gain that the guidance contains is to be known.
        """

        def make(where: slice) -> Unit:
            latents, cost = self.drawn(where, setting(where.start))
            values = self.measured(decoded(self.dit, latents, batch=len(latents)), base, where)
            if weight and cost.guided is not None:
                values["own_gain"] = cost.guided.own_gain(weight)
            values |= prices(cost, len(self.dit.blocks), len(latents))
            return Unit(values, {"first": latents[:1]} if where.start == 0 else {})

        units = self.units(f"{self.part} {name}", make, [depends, base], count)
        self.first[name], self.against[name] = units[0].arrays["first"], base
        starts = [where.start for where in self.parts]
        if "own_gain" in units[0].values:
            self.own_gain[name] = {s: u.values["own_gain"] for s, u in zip(starts, units, strict=False)}
        return self.tabled(name, {key: joined(units, key) for key in MEASURED}, units)

    def units(self, stage: str, make: Callable[[slice], Unit], depends: Any, count: int | None = None) -> list[Unit]:
        """The units of a run, chunk by chunk."""
        parts = [where for where in self.parts if count is None or where.start < count]
        jobs = {f"{where.start} to {where.stop}": partial(make, where) for where in parts}
        return list(self.stages.each(stage, jobs, [self.depends, depends]).values())

    def drawn(self, where: slice, setting: Setting) -> tuple[torch.Tensor, Count]:
        """Latents (N, C, h, w) of some prompts, and what they cost."""
        edits, guidance = setting
        latents, cost = run(
            self.dit, self.prompts[where], edits=edits, guidance=guidance, seed=list(seeds_of(self.part, where)),
            steps=self.steps, **self.size,
        )  # fmt: skip
        return spatial(self.dit, latents, self.size["height"], self.size["width"]), cost

    def measured(self, shown: torch.Tensor, base: str, where: slice) -> dict[str, Any]:
        """Pictures (N, 3, H, W) of some prompts against a base's, each number a list."""
        clean, cell = self.pictures(base, where), self.dit.vae_scale_factor
        own = torch.arange(where.start, where.stop)
        columns = {
            "amt_c": amount_change(shown, clean, cell),
            "low": low_correlation(shown, clean, cell),
            "margin": retrieval_margin(small(shown), self._pools[base], own, size=RETRIEVAL_SIZE),
        }
        return {key: value.tolist() for key, value in columns.items()}

    def pictures(self, base: str, where: slice) -> torch.Tensor:
        """The base's samples of some prompts, (N, 3, H, W) in [-1, 1], decoded once."""
        key = base, where.start
        if key not in self._pictures:
            latents = self.latents[base][where].to(self.dit.device)
            self._pictures[key] = decoded(self.dit, latents, batch=len(latents))
        return self._pictures[key]

    def tabled(self, name: str, columns: Mapping[str, Sequence[float]], units: Sequence[Unit]) -> pd.DataFrame:
        """The table of a run, kept in `tables`."""
        table = pd.DataFrame({**columns, "amt_c_clean": columns["amt_c"], "low_clean": columns["low"]}).astype(float)
        self.tables[name] = table
        self.price[name] = {key: units[0].values[key] for key in ("forwards", "passes")}
        return table


def joined(units: Sequence[Unit], key: str) -> list[float]:
    """Numbers of all prompts."""
    return [value for unit in units for value in unit.values[key]]


def prices(cost: Count, blocks: int, count: int) -> dict[str, float]:
    """Forwards and passes of one of `count` pictures: a pass that starts at a block counts the rest."""
    return {"forwards": cost.forwards / count, "passes": cost.block_calls / blocks / count}
