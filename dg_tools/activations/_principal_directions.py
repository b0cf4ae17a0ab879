"""Is a massive activation a channel or a direction? The first principal direction over tokens, against the channels.

A constant on every token is one vector that all tokens share. Its direction is the first right singular vector of the
hidden states (tokens x channels) without removing the mean: the unit vector along which the tokens' squares sum to
most. If that vector lies in one channel, the channel describes it fully. If it is spread over many channels, a rule
that looks at one channel at a time sees only a part of it. With the mean removed, the first direction is the one along
which tokens differ most, and need not agree with the massive channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pandas as pd
import torch

from dg_tools._as_list import as_list
from dg_tools.activations._capture import check_request, prompt_list, recorded_run
from dg_tools.forward.call import NOTHING, Call
from dg_tools.forward.refusals import check_cache
from dg_tools.generation.sampling import check_call
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded
from dg_tools.progress import progress_bar

VECTORS, ITERATIONS = 4, 24  # of the subspace iteration; the first of 4 converges with the ratio of value 5 to value 1


def principal_directions(
    dit: DiT,
    prompts: Any,
    *,
    channels: Sequence[int],
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> pd.DataFrame:
    """Measure how far the first principal direction over image tokens agrees with the massive channels, by block.

    Args:
        dit: from `load`.
        prompts, seeds, steps: as in `capture`; conditional rows, without guidance.
        channels: the massive channels.
        progress: show a bar.
        **kwargs: passed to the pipeline's call.

    Returns:
        One row for each block, means over prompts, seeds and steps: block, site; energy (share of the stream's mean
        square along the direction); on_channels (the squared components of the unit direction at the channels, summed:
        1 for a direction of these channels alone, count / width for a random one); channel (the one where it is most
        often largest) and on_channel (its square there); channels_energy (share of the stream's mean square in the
        channels); same (|cosine| between the directions of two runs or steps, mean over neighbours); and, with the mean
        over tokens removed, centred_energy and centred_on_channels.

    Raises:
        ValueError: no prompts, seeds or channels. IndexError: a channel out of range.

    Example:
        >>> table = principal_directions(dit, "red apple", channels=[55], steps=2)
        >>> table[["block", "channel", "on_channel"]].round(2).tail(2)
            block  channel  on_channel
        10     10       55        0.39
        11     11       55        0.47
    """
    check_loaded(dit, "principal_directions")
    prompts, seeds = prompt_list(prompts), as_list(seeds)
    check_request(prompts, seeds, None, "cond", ())
    check_call(dit, prompts, kwargs, "principal_directions", principal_directions)
    check_cache(dit.transformer)
    chosen = [int(c) for c in channels]
    if not chosen:
        raise ValueError("channels is empty: name at least one, such as find_massive(...).channels")
    wrong = [c for c in chosen if not 0 <= c < dit.width]
    if wrong:
        raise IndexError(f"channels {wrong} requested; there are 0 to {dit.width - 1}")
    rows: list[dict[str, Any]] = []
    last: dict[int, torch.Tensor] = {}

    def see(block: Block, hidden: torch.Tensor) -> None:
        direction, energy = first_direction(hidden)
        centred, centred_energy = first_direction(hidden - hidden.mean(0))
        square = direction.square()
        before = last.get(block.index)
        rows.append(
            {
                "block": block.index,
                "site": block.name,
                "energy": energy,
                "on_channels": square[chosen].sum().item(),
                "channel": int(square.argmax()),
                "on_channel": square.max().item(),
                "channels_energy": (hidden[:, chosen].square().sum() / hidden.square().sum()).item(),
                "same": float("nan") if before is None else abs(torch.dot(before, direction).item()),
                "centred_energy": centred_energy,
                "centred_on_channels": centred.square()[chosen].sum().item(),
            }
        )
        last[block.index] = direction

    arguments = {"steps": dit.default_steps if steps is None else steps, "guidance_scale": 1.0, **kwargs}
    jobs = list(itertools.product(prompts, seeds))
    for prompt, seed in progress_bar(progress, jobs, desc="runs"):

        def reads(call: Callable[[], Call]) -> Any:
            return on_image_tokens(dit, call, see)

        recorded_run(dit, prompt, [], reads, {"seed": seed, **arguments})
    table = pd.DataFrame(rows)
    named = table.groupby(["block", "site"], sort=False)
    commonest = named["channel"].agg(lambda values: int(values.mode().iloc[0]))
    means = named.mean()
    means["channel"] = commonest
    return means.reset_index()


def first_direction(hidden: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The first right singular vector of (tokens, channels), and its share of the sum of squares.

    It uses subspace iteration from a fixed start, so every call gives the same.
    """
    x = hidden.detach().to(torch.promote_types(hidden.dtype, torch.float32))
    start = torch.randn(x.shape[1], min(VECTORS, *x.shape), generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(start.to(x)).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(x.mT @ (x @ basis)).Q
    _, values, rotation = torch.linalg.svd(x @ basis, full_matrices=False)
    share = values[0].square() / x.square().sum().clamp_min(1e-30)
    return basis @ rotation[0], share.item()


@contextmanager
def on_image_tokens(dit: DiT, call: Callable[[], Call], see: Callable[[Block, torch.Tensor], None]) -> Iterator[None]:
    """Call `see(block, hidden)` with the picture's own tokens (tokens, channels) of the first conditional row."""
    now: list[Call] = []

    def begin(module: torch.nn.Module, args: tuple) -> None:
        now[:] = [call()]

    with ExitStack() as stack:
        stack.callback(dit.transformer.register_forward_pre_hook(begin).remove)
        for block in dit.blocks:

            def hook(module: torch.nn.Module, args: tuple, output: Any, block: Block = block) -> None:
                current = now[-1]
                if current.step is None or current.branch == "other" or current.cond == NOTHING:
                    return
                image = block.record.get(output, "image", current.image_tokens)
                assert image is not None
                see(block, image[current.cond][0, : current.own_tokens].float())

            stack.callback(block.module.register_forward_hook(hook).remove)
        yield
