"""What will a report cost? Printed before any long work: forwards, decoded pictures, seconds, memory and disk, by
stage.

Counts are upper bounds for a report made without a stop in one process, where at most `ALONE` channels are massive and
a control's dose is found in `TRIES` forwards on average. Controls are drawn only where they can change a verdict, and a
run that would repeat another one is not drawn. Seconds come from one timed forward and one timed decode of one picture.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dg_tools.datasets.examples import Items
from dg_tools.experiments._dose import spread
from dg_tools.guidance.auto import price
from dg_tools.guidance.auto.trial import share_after
from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.models.facts import COPIES
from dg_tools.models.pictures import decode, spatial
from dg_tools.models.provenance import model_name
from dg_tools.onestep import check_velocity, first_call, velocity, without_state
from dg_tools.report import rules
from dg_tools.report.extent import Extent, extent_of
from dg_tools.report.memory import peak
from dg_tools.report.own_runs import MATCHED
from dg_tools.report.subjects import Subjects, chunks, subjects
from dg_tools.threads import one_thread_if_small

TRIES = 3  # forwards in which a control's dose is found, on average
ALONE = 8  # channels that are tried alone: how many are massive is not known yet
KINDS = 6  # AdaLN gates and statistics that are kept of a channel, beside its five statistics
PAGE = 20 * 2**20  # bytes of the page and what lies beside it, and of what is small
BATCH = 4  # pictures in one forward


@dataclass(frozen=True)
class Forecast:
    """What a report costs at most.

    Attributes:
        model, size: the model's name, and the size of the report.
        prompts: how many to choose on, and how many to measure on. steps: of a sample. pixels: height and width.
        stages: by stage, forwards (of one picture through the whole transformer) and decodes.
        forward_seconds, decode_seconds: of one picture, timed.
        memory: bytes, estimated. disk: bytes.

    Example:
        >>> plan = Forecast("m", "quick", (4, 8), 16, (512, 512), {"samples": (1000.0, 50.0)}, 0.03, 0.01, 6e9, 2e8)
        >>> print(plan)
        report of size quick on m: 4 prompts to choose on, 8 to measure on, 512 x 512 pixels, 16 steps
        at most 1000 forwards and 50 decoded pictures: about 30 s here, 6 GB of memory, 0.2 GB of disk
    """

    model: str
    size: str
    prompts: tuple[int, int]
    steps: int
    pixels: tuple[int, int]
    stages: Mapping[str, tuple[float, float]]
    forward_seconds: float
    decode_seconds: float
    memory: float
    disk: float

    @property
    def forwards(self) -> float:
        """Of all stages."""
        return sum(forwards for forwards, _ in self.stages.values())

    @property
    def decodes(self) -> float:
        """Of all stages."""
        return sum(decodes for _, decodes in self.stages.values())

    @property
    def seconds(self) -> float:
        """Of all stages, in one process."""
        return self.forwards * self.forward_seconds + self.decodes * self.decode_seconds

    def stage_seconds(self, stage: str) -> float:
        """Of one stage."""
        forwards, decodes = self.stages[stage]
        return forwards * self.forward_seconds + decodes * self.decode_seconds

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the sums."""
        sums = {name: getattr(self, name) for name in ("forwards", "decodes", "seconds")}
        return {**asdict(self), "stages": {k: list(v) for k, v in self.stages.items()}, **sums}

    def __str__(self) -> str:
        choice, test = self.prompts
        return (
            f"report of size {self.size} on {self.model}: {counted(choice, 'prompt')} to choose on, "
            f"{test} to measure on, {self.pixels[0]} x {self.pixels[1]} pixels, {self.steps} steps\n"
            f"at most {self.forwards:.0f} forwards and {self.decodes:.0f} decoded pictures: about "
            f"{lasting(self.seconds)} here, {self.memory / 1e9:.2g} GB of memory, {self.disk / 1e9:.1g} GB of disk"
        )


def lasting(seconds: float) -> str:
    """A time in words: `31 s`, `8 min`, `2.5 h`."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def forecast(
    dit: DiT,
    items: Items | None = None,
    *,
    size: str | Extent = "standard",
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch: int = BATCH,
) -> Forecast:
    """Forecast the cost of `measure` with the same arguments: forwards, decoded pictures, seconds, memory and disk.

    It runs and times two forwards and two decodes.

    Raises:
        ValueError: as in `measure`.

    Example:
        >>> print(forecast(dit, size="quick"))
        report of size quick on emoji-sd3: 4 prompts to choose on, 6 to measure on, 64 x 64 pixels, 16 steps
        at most ... forwards and ... decoded pictures: about ... here, ... GB of memory, ... GB of disk
    """
    extent = extent_of(size)
    given = subjects(dit, items, extent, height, width)
    with one_thread_if_small(dit.transformer):
        return expected(dit, given, extent, steps_of(dit, extent, steps), batch)


def steps_of(dit: DiT, extent: Extent, steps: int | None) -> int:
    """Steps of a sample.

    Raises:
        ValueError: fewer than one.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}; at least 1 is needed")
    return steps or min(dit.default_steps, extent.steps)


def expected(dit: DiT, given: Subjects, extent: Extent, steps: int, batch: int) -> Forecast:
    """The forecast for these prompts."""
    check_velocity(dit)
    size = {"height": given.height, "width": given.width}
    first = first_call(dit, [given.test[0].prompt], seed=0, steps=1, **size)
    z, inputs = spatial(dit, first["hidden_states"], given.height, given.width), without_state(first)
    forward = price.timed(dit, lambda: velocity(dit, z, 0.5, inputs))
    with dit.running(), torch.no_grad():
        decoding = price.timed(dit, lambda: decode(dit, z, output_type="pt"))
    guided = dit.family.guidance_argument in dit.takes
    shares = [share_after(dit, block) for block in range(len(dit.blocks))]
    stages = counts(given, extent, steps, shares, guided, batch)
    scan, samples, decodes = price.at_most(dit, steps)
    stages["auto"] = (
        scan + samples + 2,
        decodes + price.SAMPLED + 2,
    )  # its own forecast; plain pictures for each finalist
    return Forecast(
        model=model_name(dit),
        size=extent.name,
        prompts=(len(given.choice), len(given.test)),
        steps=steps,
        pixels=(given.height, given.width),
        stages=stages,
        forward_seconds=forward,
        decode_seconds=decoding,
        memory=memory(dit, given, batch),
        disk=disk(dit, given, extent),
    )


def counts(
    given: Subjects, extent: Extent, steps: int, shares: Sequence[float], guided: bool, batch: int
) -> dict[str, tuple[float, float]]:
    """Forwards and decodes by stage but `auto`, at most.

    Args:
        shares: by block, the part of a forward that an edit there costs; where the block is not known, a whole one.
    """
    blocks = len(shares)
    choice, test, levels = len(given.choice), len(given.test), len(rules.SIGMAS)
    dosed = spread(blocks, extent.blocks)
    dosed_shares = sum(shares[b] for b in dosed) + 1  # and the knob's block
    rhos, others = len(extent.rhos), len(extent.rhos) - 1
    controls = sum(c.stop - c.start for c in chunks(test, batch) if c.start < extent.control_prompts)  # whole chunks
    drawn = 2 * (1 + 2 + 1) + (2 + 2 * 3) * guided + len(rules.RHOS) - 1  # forwards of one prompt's step, in all runs
    runs = 2 * 3 + 3 * guided + len(rules.RHOS) - 1
    bases = 1 + guided  # decoded once more, to measure against
    beside = 1 + ALONE + 2 + TRIES  # massive, each alone, norms kept (a clean pass too), largest others
    one_step = levels * (3 + dosed_shares * others + others * beside + 2 * extent.draws * TRIES) + 1 + rhos
    shown = levels * (2 + (len(dosed) + 1) * rhos + others * (ALONE + 3) + 2 * extent.draws) + rhos
    return {
        "base": ((choice + test) * steps, choice + test),
        "channels": ((choice + extent.seeds * test) * len(rules.NOISE) + 1, choice + test),
        "gates": (test * levels * (2 + extent.draws), 0),
        "drawing": (test * levels, test),
        "headroom": (steps, 1),
        "zeroing": (choice * levels * (1 + sum(shares) + 1), choice * levels * 2 * (blocks + 1)),  # and auto's choice
        "w of zeroing": (choice * steps * 2 * len(rules.WEIGHTS), choice * (len(rules.WEIGHTS) + 1)),
        "dose": (test * one_step, test * shown),
        "samples": (test * steps * drawn, test * (runs + bases)),
        "controls": (
            2 * (MATCHED * levels * 2 + extent.draws * (MATCHED * levels * TRIES + controls * steps * 3)),
            2 * extent.draws * controls * 2,
        ),
    }


def weight_bytes(dit: DiT) -> int:
    """Of all components, as they are stored."""
    parts = [part for part in dit.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return sum(x.numel() * x.element_size() for part in parts for x in part.parameters())


def memory(dit: DiT, given: Subjects, batch: int) -> float:
    """Bytes at a time: the weights, what a forward of a batch holds, and what is kept of every block in one step."""
    rows, columns = dit.grid(given.height, given.width)
    stream = rows * columns * dit.width * dit.dtype.itemsize
    kept = max(batch, len(given.choice)) * stream * len(dit.blocks) * 1.5  # the text stream beside it
    return max(float(peak(dit.device)), weight_bytes(dit)) + kept + COPIES * 3 * batch * stream


def check_room(folder: Path, needed: float) -> None:
    """Raise OSError where a disk has less room than a report needs, beyond what the report's folder holds already."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    needed -= sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the report needs {needed / 1e9:.2g} GB of disk in {folder}, and {free / 1e9:.2g} GB are free: make room, "
            "or pass another folder",
        )


def disk(dit: DiT, given: Subjects, extent: Extent) -> float:
    """Bytes on disk: mostly the statistics of every channel."""
    pictures = len(given.choice) + extent.seeds * len(given.test)
    one = 4 * len(rules.NOISE) * len(dit.blocks) * dit.width * (5 + KINDS)
    side = dit.vae_scale_factor
    latents = 4 * 16 * (given.height // side) * (given.width // side)
    return pictures * one + 40 * latents * len(given.test) + PAGE
