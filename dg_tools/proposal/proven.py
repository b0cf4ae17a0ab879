"""Is the proposed record right? Checked as in `dg.load`, by the first checks of `verify`, a fork and a restart."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.forward.fork import forked
from dg_tools.forward.restart import Restart
from dg_tools.models.dit import DiT
from dg_tools.proposal.runs import STEPS, Runs, copied
from dg_tools.verification.plain import Plain
from dg_tools.verification.record import check_rows, check_streams, check_timestep, check_written
from dg_tools.verification.result import Check, checked

CLOSE = {torch.float32: 1e-3, torch.float64: 1e-6}  # of the edit's effect; of rounding in bf16:
COARSE = 0.2


def partial_ways(family: Family, transformer: torch.nn.Module, inputs: dict[str, Any], words: list[str]) -> Family:
    """The record with `fork` and `partial_forward` filled in, tested with one edit in the middle.

    Args:
        family: the record, complete except for these two.
        transformer: the model.
        inputs: those of a forward of two rows, or of one if two were not possible.
        words: sentences on what was not found; more are appended.
    """
    blocks = list(family.blocks(transformer))
    middle = (len(blocks) - 1) // 2
    _, record, block = blocks[middle]
    tokens = family.image_tokens(transformer, inputs["hidden_states"])

    def edit(output: Any) -> Any:
        image = record.get(output, "image", tokens)
        assert image is not None
        odd = torch.arange(image.shape[-1], device=image.device) % 2
        return record.put(output, "image", image * odd, tokens)

    def predicted(context: AbstractContextManager[None]) -> torch.Tensor:
        with context, torch.no_grad():
            output = transformer(**copied(inputs))
        sample = output if isinstance(output, torch.Tensor) else output[0]
        return sample.detach().clone()

    plain = predicted(nullcontext())
    handle = block.register_forward_hook(lambda m, a, o: edit(o))
    try:
        edited = predicted(nullcontext())
    finally:
        handle.remove()
    rows = len(edited)
    effect = (edited - plain).abs().max()
    most = CLOSE.get(plain.dtype, COARSE) * effect

    def same(give: Callable[[], torch.Tensor], expected: torch.Tensor) -> bool:
        try:
            made = give()
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError):
            return False
        return made.shape == expected.shape and bool((made - expected).abs().max() <= most)

    restart = Restart(transformer, family, middle)

    def restarted() -> torch.Tensor:
        predicted(restart.keeping())
        return predicted(restart.starting(edit))

    def split() -> torch.Tensor:
        more = predicted(forked(transformer, family, middle, rows, slice(rows - 1, rows), edit))
        return more[rows:]

    if not effect:
        words.append(f"fork, partial_forward: an edit of block {middle} changes nothing; taken as True")
        return family
    found = {"partial_forward": same(restarted, edited), "fork": same(split, edited[rows - 1 :])}
    return replace(family, **found)  # type: ignore[arg-type]  # two booleans


def check_proposal(family: Family, runs: Runs) -> tuple[Check, ...]:
    """The record as `dg.load` checks it, and then as `verify` does; an error is a check that failed."""
    try:
        dit = DiT(runs.pipeline, family)
    except Exception as error:
        return (Check("as dg.load", "failed", f"{type(error).__name__}: {error}"),)
    loaded = Check("as dg.load", "ok", f"{len(dit.blocks)} blocks of {dit.width} channels")
    size = dict(zip(("height", "width"), runs.size, strict=True)) if "height" in runs.takes else {}
    plain = Plain(dit, runs.prompts[0], STEPS, {**size, **runs.call})
    probes = {
        "record: streams": check_streams,
        "record: gates": check_written,
        "record: timestep": check_timestep,
        "record: rows of CFG": check_rows,
    }
    return (loaded, *(checked(name, lambda probe=probe: probe(plain)) for name, probe in probes.items()))  # type: ignore[misc]
