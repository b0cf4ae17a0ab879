"""The dose curve of a model without references: `experiments.dose` chunk by chunk, put together as one result."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from dg_tools.experiments._dose import dose, spread
from dg_tools.experiments.dose_outcomes import assemble
from dg_tools.experiments.dose_parts import read
from dg_tools.experiments.result import Result
from dg_tools.interventions import Disrupt
from dg_tools.report.extent import Extent
from dg_tools.report.own_channels import Side, jobs
from dg_tools.report.stages import Stages, Unit


def curve(stages: Stages, side: Side, knob: Disrupt, channels: list[int], extent: Extent) -> Result:
    """One step at every dose, with its controls at the knob's block, on the second part's pictures.

    Args:
        stages, side: units, and the pictures.
        knob: the block of the controls, which was chosen on other prompts.
        channels: the massive ones. extent: doses, blocks and controls.
    """
    dit = stages.dit
    blocks = sorted({*spread(len(dit.blocks), extent.blocks), knob.block})
    settings: dict[str, Any] = {"channels": channels, "blocks": blocks, "block": knob.block}
    settings |= {"rhos": list(extent.rhos), "controls": extent.draws}

    def make(where: slice) -> Unit:
        pairs = side.pairs(where)
        found = dose(dit, pairs, [0], **settings, scales=(), batch=len(pairs), progress=False)
        tables = {"table": found.table, **found.tables}
        values = {name: table.to_dict("list") for name, table in tables.items()}
        return Unit({"tables": values, "settings": found.settings})

    units = list(stages.each("dose", jobs(side, make), [side.depends, settings]).values())
    tables = {name: [read(unit.values["tables"][name]) for unit in units] for name in units[0].values["tables"]}
    for part, matching in enumerate(tables["matching"]):
        matching["part"] = part
    joined = partial(pd.concat, ignore_index=True)
    about = {**units[0].values["settings"], "test": [x.prompt for x in side.everything]}
    return assemble(
        joined(tables["table"]), tables["channels"][0], joined(tables["matching"]), tables["pictures"][0], about
    )
