"""Weak predictions at one z_t, and guided runs: what `auto` tries, with plain forwards and restarts from a block.

`DetailGuidance` imports `auto`, so this module computes c + w (c - d) by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from dg_tools.families import bind
from dg_tools.forward.call import Call
from dg_tools.forward.clock import Clock
from dg_tools.forward.replaced import replaced
from dg_tools.forward.restart import Restart, why_not
from dg_tools.forward.stepping import after_each_step
from dg_tools.interventions import Disrupt, attached
from dg_tools.metrics import row_gain
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import packed, spatial
from dg_tools.onestep import EditableStep

Spend = Callable[[float], None]  # is told the row-forwards that were made


def share_after(dit: DiT, block: int) -> float:
    """The share of a forward that comes after a block; 1 if the family cannot start there."""
    count = len(dit.blocks)
    return (count - block - 1) / count if dit.family.partial_forward else 1.0


@contextmanager
def channel_values(
    dit: DiT, blocks: Sequence[int], channels: Sequence[int], tokens: int
) -> Iterator[dict[int, torch.Tensor]]:
    """Channels of the image stream at blocks' outputs, (rows, tokens, channels), from the last forward inside."""
    values: dict[int, torch.Tensor] = {}

    def keep(module: torch.nn.Module, inputs: Any, output: Any, block: int) -> None:
        hidden = dit.blocks[block].record.get(output, "image", tokens)
        assert hidden is not None
        values[block] = hidden[..., list(channels)].float()

    with ExitStack() as stack:
        for block in set(blocks):
            handle = dit.blocks[block].module.register_forward_hook(partial(keep, block=block))
            stack.callback(handle.remove)
        yield values


def weak_predictions(
    dit: DiT, noised: torch.Tensor, sigma: float, inputs: dict[str, Any], edits: Sequence[Disrupt], spend: Spend
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The velocity c, then for each edit (mode `scale`, one block) the velocity d.

    Args:
        dit, noised, sigma, inputs: as in `onestep.velocity`.
        edits: in any order; each restarts from its block's output in the pass of c.
        spend: is told the row-forwards.

    Yields:
        A prediction (N, C, h, w), and for each row the share of the edit's change that is left after the last block,
        (N,); ones for c.
    """
    rows, last = len(noised), len(dit.blocks) - 1
    tokens = dit.family.image_tokens(dit.transformer, packed(dit, noised))
    channels = sorted({c for edit in edits for c in edit.channels})
    uses = Counter(edit.block for edit in edits)
    with channel_values(dit, [*uses, last], channels, tokens) as values:
        step = EditableStep(dit, noised, sigma, inputs, uses)
        spend(rows)
        clean = dict(values)
        yield step.clean, torch.ones(rows)
        for edit in edits:
            weak = step.velocity(edit)
            spend(rows * share_after(dit, edit.block))
            yield weak, kept_share(edit, clean, values, channels, last)


def kept_share(
    edit: Disrupt,
    clean: dict[int, torch.Tensor],
    values: dict[int, torch.Tensor],
    channels: Sequence[int],
    last: int,
) -> torch.Tensor:
    """By row, the share of an edit's change in its channels that is left after the last block; 1 is all of it."""
    if edit.block == last:
        return torch.ones(len(clean[last]))
    own = [channels.index(c) for c in edit.channels]
    made = (edit.retention(0.5) - 1) * clean[edit.block][..., own]
    left = (values[last] - clean[last])[..., own]
    total = made.square().sum((1, 2)).clamp_min(1e-30)
    return ((made * left).sum((1, 2)) / total).cpu()


@dataclass
class Sampled:
    """Latents (N, C, h, w) of a run, and by step the g of its rows, (N,)."""

    latents: torch.Tensor
    gains: list[torch.Tensor] = field(default_factory=list)


def sampled(
    dit: DiT,
    prompts: Sequence[str],
    seeds: Sequence[int],
    spend: Spend,
    *,
    edit: Disrupt | None = None,
    weight: float = 0.0,
    factors: Sequence[torch.Tensor] = (),
    **kwargs: Any,
) -> Sampled:
    """A run without classifier-free guidance: plain, with Detail Guidance, or with a gain alone.

    Args:
        dit: the model.
        prompts, seeds: as many of each.
        spend: is told the row-forwards.
        edit, weight: Detail Guidance, c + w (c - d), d with this edit.
        factors: in place of Detail Guidance, a gain for each step and row, (N,), which multiplies the prediction.
        **kwargs: to the pipeline's call.
    """
    arguments = dit.arguments(list(prompts), seed=list(seeds), **kwargs)
    own, family = dit.transformer.forward, dit.family
    run = Sampled(torch.empty(0))
    clock = Clock(dit.pipeline, family)

    def plain(inputs: dict[str, Any]) -> torch.Tensor:
        nested = {k: dict(v) if isinstance(v, dict) else v for k, v in inputs.items()}
        return own(**{**nested, "return_dict": False})[0]

    def guided(inputs: dict[str, Any], call: Call) -> torch.Tensor:
        assert edit is not None
        if why_not(family, inputs) is not None:
            cond = plain(inputs)
            with attached(dit.transformer, family, [edit], call) as attachment:
                attachment.begin(inputs)  # the hooks on the transformer itself are past
                weak = plain(inputs)
        else:
            restart = Restart(dit.transformer, family, edit.block)
            with restart.keeping():
                cond = plain(inputs)
            with restart.starting(partial(edit.must_edit, record=dit.blocks[edit.block].record, call=call)):
                weak = plain(inputs)
        spend(len(cond) * share_after(dit, edit.block))
        run.gains.append(row_gain(cond, weak).flatten().cpu())
        return cond + weight * (cond - weak)

    def forward(*args: Any, **named: Any) -> Any:
        inputs = bind(dit.transformer, args, named)
        call = clock.read(inputs)
        if edit is not None and weight:
            prediction = guided(inputs, call)
        else:
            prediction = plain(inputs)
        if factors:
            assert call.step is not None
            factor = factors[call.step].to(prediction)
            prediction = prediction * factor.view(-1, *[1] * (prediction.ndim - 1))
        spend(len(prediction))
        return (prediction,)

    def keep(step: int, latents: torch.Tensor) -> None:
        run.latents = latents

    with dit.running(), clock, after_each_step(dit.pipeline, keep):
        with replaced(dit.transformer, "forward", forward):
            dit.sample(**arguments, output_type="latent")
    size = dit.size(arguments.get("height"), arguments.get("width"))
    run.latents = spatial(dit, run.latents, *size)
    return run
