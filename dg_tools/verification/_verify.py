"""The checks in order, on one model."""

from __future__ import annotations

import datetime
import platform
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dg_tools.interventions import Disrupt
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.provenance import provenance, version
from dg_tools.verification.captured import by_hooks, check_capture, largest_channels
from dg_tools.verification.guided import check_by_hand, check_off
from dg_tools.verification.plain import SCALE, Plain
from dg_tools.verification.record import check_rows, check_streams, check_timestep, check_written
from dg_tools.verification.restored import check_restored, state
from dg_tools.verification.result import Check, Measured, Verification, checked

PROMPT = "red apple"


def verify(
    model: Any = None,
    *,
    prompt: Any = None,
    steps: int = 2,
    height: int | None = None,
    width: int | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> Verification:
    """Check that dg_tools acts on a loaded checkpoint as documented, against plain hooks and a loop written by hand.

    Checked: the family's record (streams, AdaLN gates, timestep, rows of CFG), capture against plain hooks, w = 0
    bit-equal to the plain call, Detail Guidance against a loop by hand, and that all of it is put back, after an error
    too. Takes some dozen forwards of a few steps each.

    Args:
        model: what `load` takes: None (the embedded default), a name, a folder, a Hub id, a pipeline, or a `DiT`.
        prompt: what to draw; None: "red apple", or the first class of a model of classes.
        steps: denoising steps of each run; 2 or more.
        height, width: in pixels; the pipeline's defaults where None.
        progress: print each check as soon as it is done.
        **kwargs: passed to the pipeline's call.

    Returns:
        A `Verification`: one `Check` per item above (ok, failed or not applicable), and facts about the model. An error
        inside a check is a check that failed.

    Raises:
        ValueError: fewer than 2 steps, or a size or a call that the pipeline cannot take; as `load` for the model.

    Example:
        >>> verify("emoji-sd3").ok  # some seconds  # doctest: +SKIP
        True
    """
    dit = load(model)
    if steps < 2:
        raise ValueError(f"steps={steps} given; at least 2 are needed, so that a step follows a guided one")
    height, width = dit.size(height, width)
    words = prompt if prompt is not None else PROMPT if dit.family.prompt == "prompt" else 0
    plain = Plain(dit, words, steps, {"height": height, "width": width, **kwargs})
    begin = time.perf_counter()
    checks = made(plain, progress)
    return Verification(tuple(checks), about(dit, height, width, steps, time.perf_counter() - begin))


def made(plain: Plain, progress: bool) -> list[Check]:
    """All checks of a model; if its streams differ from the record, the other checks mean nothing."""
    dit = plain.dit
    checks: list[Check] = []

    def add(name: str, measure: Callable[[], Measured]) -> None:
        checks.append(checked(name, measure))
        if progress:
            wide = sys.stdout.isatty()  # in a pipe, one line for each check
            print(checks[-1].lines(shutil.get_terminal_size().columns) if wide else checks[-1])

    before, clean = state(dit), plain.latents()
    add("record: streams", lambda: check_streams(plain))
    if checks[0].state == "failed":
        return checks
    add("record: gates", lambda: check_written(plain))
    add("record: timestep", lambda: check_timestep(plain))
    add("record: rows of CFG", lambda: check_rows(plain))
    expected = by_hooks(plain)
    add("capture", lambda: check_capture(plain, expected))
    disrupts = [Disrupt(largest_channels(expected, block), block) for block in middles(dit)]
    *others, last = disrupts
    add("w = 0", lambda: check_off(plain, last))
    for disrupt in others:
        add(f"DG, block {dit.sites[disrupt.block]}", partial(check_by_hand, plain, disrupt, 1.0, ("fork",)))
    add(f"DG, block {dit.sites[last.block]}", lambda: check_by_hand(plain, last, 1.0))
    add("DG + CFG", lambda: check_by_hand(plain, last, SCALE))
    add("put back", lambda: check_restored(plain, last, before, clean))
    return checks


def middles(dit: DiT) -> list[int]:
    """The middle block of each list."""
    lists = [[b.index for b in dit.blocks if b.record is record] for record in dit.family.lists]
    return [indices[(len(indices) - 1) // 2] for indices in lists if indices]


def about(dit: DiT, height: int, width: int, steps: int, seconds: float) -> dict[str, Any]:
    """What was verified, as plain JSON."""
    device = dit.device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return {
        **provenance(dit),
        "pipeline": type(dit.pipeline).__name__,
        "dg_tools": version("dg-tools"),
        "height": height,
        "width": width,
        "steps": steps,
        "machine": named if device.type == "cuda" else f"{named}, {platform.machine()}",
        "system": platform.system(),
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds, 1),
    }
