"""The channels of a model without references: the statistics of `channels`, chunk by chunk, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from dg_tools.datasets.examples import Example
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.metrics import bootstrap_interval
from dg_tools.metrics.cell_bands import fineness
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures as decoded
from dg_tools.onestep import velocity
from dg_tools.report import channel_rows, channels, rules
from dg_tools.report.channels import Found, Stream
from dg_tools.report.extent import Extent
from dg_tools.report.stages import Stages, Unit
from dg_tools.report.subjects import seeds_of
from dg_tools.report.verdict import Row, against, together

Pairs = Callable[[slice], list[Example]]  # prompts and pictures of a chunk


@dataclass(frozen=True)
class Side:
    """One part of the prompts, with its pictures.

    Attributes:
        name: `choice` or `test`. parts: its chunks. pairs: prompts and pictures of a chunk.
        depends: plain JSON: prompts, pictures, size.
    """

    name: str
    parts: Sequence[slice]
    pairs: Pairs
    depends: Any

    @property
    def everything(self) -> list[Example]:
        """All pairs."""
        return [pair for where in self.parts for pair in self.pairs(where)]


def jobs(side: Side, make: Callable[[slice], Unit]) -> dict[str, Callable[[], Unit]]:
    """One job for each chunk."""
    return {f"{where.start} to {where.stop}": partial(make, where) for where in side.parts}


def stream_of(stages: Stages, side: Side, seeds: Sequence[int]) -> Stream:
    """The statistics of one part."""

    def make(where: slice) -> Unit:
        one = channels.measure(stages.dit, side.pairs(where), rules.NOISE, seeds)
        arrays = {f"value {k}": torch.from_numpy(v) for k, v in one.values.items()}
        arrays |= {f"gate {k}": torch.from_numpy(v) for k, v in one.gates.items()}
        return Unit({"prompts": one.prompts, "tokens": one.tokens}, {**arrays, "before": torch.from_numpy(one.before)})

    depends = [side.depends, list(rules.NOISE), list(seeds)]
    units = list(stages.each(f"channels {side.name}", jobs(side, make), depends).values())
    joined = {name: torch.cat([u.arrays[name] for u in units]).numpy() for name in units[0].arrays}
    kinds = {
        kind: {k.partition(" ")[2]: v for k, v in joined.items() if k.startswith(kind)} for kind in ("value", "gate")
    }
    prompts = [prompt for unit in units for prompt in unit.values["prompts"]]
    return Stream(prompts, rules.NOISE, units[0].values["tokens"], kinds["value"], kinds["gate"], joined["before"])


def judged(stages: Stages, choice: Side, test: Side, extent: Extent) -> tuple[Found, Stream, list[Row]]:
    """The channels found on the first part, the statistics of the second, and the rows about them."""
    found = channels.found(stream_of(stages, choice, [100]))
    stream = stream_of(stages, test, list(range(extent.seeds)))
    gone = None
    if found.channels and stream.gates:
        sets = channel_rows.sets_without_gates(found, extent.draws)

        def make(where: slice) -> Unit:
            left = channels.final_sizes(stages.dit, test.pairs(where), rules.SIGMAS, sets, found.writers)
            return Unit({}, {"gone": torch.from_numpy(1 - left)})

        depends = [test.depends, [list(map(int, s)) for s in sets], [int(w) for w in found.writers]]
        units = stages.each("gates", jobs(test, make), depends)
        gone = np.concatenate([unit.arrays["gone"].numpy() for unit in units.values()], axis=1)
    return found, stream, channel_rows.rows(stream, found, gone, draws=extent.draws)


def drawing(stages: Stages, test: Side, fine: Sequence[float], shape: Sequence[int]) -> Row:
    """Whether the model draws pictures: it denoises, and what it draws is coarser than decoded noise.

    Args:
        stages, test: the units, and the part that is judged.
        fine: `fineness` of the clean samples, one for each prompt.
        shape: of one prompt's latents, (C, h, w).
    """
    dit = stages.dit

    def make(where: slice) -> Unit:
        noise = torch.stack(
            [torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in seeds_of(test.name, where)]
        )
        shown = decoded(dit, noise.to(dit.device, dit.dtype), batch=len(noise))
        values = {"left": left_over(dit, test.pairs(where)), "noise": fineness(shown, dit.vae_scale_factor).tolist()}
        return Unit(values)

    units = list(stages.each("drawing", jobs(test, make), [test.depends, list(shape)]).values())
    left, noise = ([x for unit in units for x in unit.values[name]] for name in ("left", "noise"))
    row = Row("capable", "", "The model draws pictures, and not noise.", "", unit="of ||noise - x||^2")
    share = bootstrap_interval(np.array(left, float))
    coarser = bootstrap_interval(np.array(fine, float) - np.array(noise, float))
    statuses = {
        "one step leaves": against(share, "below", rules.DENOISED),
        "high over low band, against decoded noise": against(coarser, "below", rules.COARSER),
    }
    why = "; ".join(f"{name}: {status}" for name, status in statuses.items() if status != "holds")
    bound = f"< {rules.DENOISED:g}, high over low band < {rules.COARSER:g} doublings against noise"
    return Row(
        row.key, row.section, row.text, together([*statuses.values()]), share, row.unit, bound, why=why,
        parts={"high over low band, against decoded noise": coarser},
    )  # fmt: skip


@torch.no_grad()
def left_over(dit: DiT, pairs: list[Example]) -> list[float]:
    """||v - (noise - x)||^2 / ||noise - x||^2 of each picture, mean over noise levels."""
    noised = NoisedPictures(dit, pairs, [0])
    part, wanted = slice(0, len(noised)), (noised.noise - noised.latents[noised.picture]).double().flatten(1)
    shares = []
    for sigma in rules.SIGMAS:
        predicted = velocity(dit, noised.noised(sigma, part), sigma, noised.inputs[0]).double().flatten(1)
        shares.append((predicted - wanted).square().sum(1) / wanted.square().sum(1))
    return torch.stack(shares).mean(0).tolist()
