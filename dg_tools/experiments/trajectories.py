"""z_t along a model's own sampling, and what one forward there passes by.

`trajectories` samples batches of prompt and seed and keeps z_t at chosen steps; `watching` calls a function at every
block of the forwards inside it. Plain hooks, always taken off again: one forward at a z_t reads all prompts at once,
and without guidance every row is a conditional one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dg_tools.families import bind
from dg_tools.forward.clock import Clock, after_each_step
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import spatial
from dg_tools.onestep import conditions, velocity
from dg_tools.progress import progress_bar

GUIDED = ("guidance_scale", "negative_prompt")  # of sampling; a forward that is watched is conditional


@dataclass(frozen=True)
class Batch:
    """Some of the runs of an experiment.

    Attributes:
        rows: indices among all (prompt, seed) pairs, prompts outermost.
        prompts: of each row.
        steps: (step, sigma, z_t (N, C, h, w)) of each step kept.
        final: latents at the end, (N, C, h, w).
        inputs: of the transformer besides z_t and the timestep, as `onestep.conditions` gives them.
    """

    rows: range
    prompts: list[str]
    steps: list[tuple[int, float, torch.Tensor]]
    final: torch.Tensor
    inputs: dict[str, Any]


def evenly(steps: int, count: int) -> list[int]:
    """`count` step indices spread over `steps`, the first and the last among them.

    Raises:
        ValueError: no steps, or more to keep than there are.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} asked for; at least 1 is needed")
    if not 1 <= count <= steps:
        raise ValueError(f"measured={count} steps asked for; there are 1 to {steps} to measure at")
    return sorted(set(np.linspace(0, steps - 1, count).round().astype(int).tolist()))


def trajectories(
    dit: DiT,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    keep: Sequence[int],
    batch: int = 32,
    progress: bool = True,
    height: int | None = None,
    width: int | None = None,
    **kwargs: Any,
) -> Iterator[Batch]:
    """Sample every prompt with every seed, `batch` at a time, and keep z_t at the steps `keep`.

    `kwargs` go to the pipeline's call (`guidance_scale` too: z_t then comes from guided sampling).
    """
    jobs = list(itertools.product(prompts, seeds))
    height, width = dit.size(height, width)
    call = {**kwargs, "steps": steps, "height": height, "width": width}
    plain = {k: v for k, v in kwargs.items() if k not in GUIDED}
    for begin in progress_bar(progress, range(0, len(jobs), batch), desc="batches"):
        part = jobs[begin : begin + batch]
        names = [p for p, _ in part]
        kept: dict[int, tuple[float, torch.Tensor]] = {}
        clock = Clock(dit.pipeline, dit.family)

        def see(
            module: torch.nn.Module,
            args: tuple,
            given: dict[str, Any],
            clock: Clock = clock,
            kept: dict[int, tuple[float, torch.Tensor]] = kept,
        ) -> None:
            inputs = bind(module, args, given)
            now = clock.read(inputs)
            if now.step is not None and now.step in keep and now.step not in kept and now.branch in ("both", "cond"):
                latents = inputs["hidden_states"][now.cond].detach().clone()
                kept[now.step] = (now.sigma, spatial(dit, latents, height, width))

        final: list[torch.Tensor] = []

        def after(step: int, latents: torch.Tensor, final: list[torch.Tensor] = final) -> None:
            final[:] = [latents]

        with dit.running(), after_each_step(dit.pipeline, after):
            handle = dit.transformer.register_forward_pre_hook(see, with_kwargs=True)
            try:
                dit.pipeline(**dit.arguments(names, seed=[s for _, s in part], **call), output_type="latent")
            finally:
                handle.remove()
        if sorted(kept) != sorted(keep):
            raise RuntimeError(f"the run gave steps {sorted(kept)}; {sorted(keep)} were asked for: it ended early")
        steps_kept = [(s, *kept[s]) for s in sorted(kept)]
        inputs = conditions(dit, names, height, width, **plain)
        yield Batch(range(begin, begin + len(part)), names, steps_kept, spatial(dit, final[-1], height, width), inputs)


@contextmanager
def watching(dit: DiT, see: Callable[[Block, torch.Tensor, torch.Tensor | None], None]) -> Iterator[None]:
    """Call `see(block, image, text)` after every block of every forward inside, in execution order.

    Both are hidden states (rows, tokens, channels); `text` is None where a block has no text output.
    """
    tokens: list[int] = []

    def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        tokens[:] = [dit.family.image_tokens(module, bind(module, args, kwargs)["hidden_states"])]

    with ExitStack() as stack:
        stack.callback(dit.transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
        for block in dit.blocks:

            def hook(module: torch.nn.Module, inputs: Any, output: Any, block: Block = block) -> None:
                image = block.record.get(output, "image", *tokens)
                assert image is not None
                see(block, image, block.record.get(output, "text", *tokens))

            stack.callback(block.module.register_forward_hook(hook).remove)
        yield


class _Enough(Exception):
    """Stops a forward after the last block that is asked about."""


def run_to(dit: DiT, latents: torch.Tensor, sigma: float, inputs: dict[str, Any], block: int) -> None:
    """A forward at z_t that ends after a block; hooks that are on already see that block too."""

    def stop(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        raise _Enough

    handle = dit.block(block).module.register_forward_hook(stop)
    try:
        velocity(dit, latents, sigma, inputs)
    except _Enough:
        pass
    finally:
        handle.remove()


@contextmanager
def modulated(dit: DiT, blocks: Sequence[int], see: Callable[[Block, dict[str, torch.Tensor]], None]) -> Iterator[None]:
    """Call `see(block, chunks)` with the AdaLN chunks (rows, channels), by name, of these blocks in every forward."""
    with ExitStack() as stack:
        for index in blocks:
            block = dit.block(index)

            def named(value: torch.Tensor, block: Block = block) -> None:
                parts, added = block.record.as_chunks(block.module, value, dit.width), block.record.added(block.module)
                parts = parts if added is None else parts + added.reshape(1, -1, dit.width)[:, : parts.shape[1]]
                names = block.record.chunks(block.module)
                see(block, {n: parts[:, i] for i, n in enumerate(names) if n is not None})

            if block.record.adaln is not None:
                linear = block.module.get_submodule(block.record.adaln)
                hook = lambda module, inputs, output, named=named: named(output)  # noqa: E731
                stack.callback(linear.register_forward_hook(hook).remove)
            else:

                def given(
                    module: torch.nn.Module, args: tuple, kwargs: dict, named: Callable = named, block: Block = block
                ) -> None:
                    named(bind(module, args, kwargs)[str(block.record.given)])

                stack.callback(block.module.register_forward_pre_hook(given, with_kwargs=True).remove)
        yield


def runs_of(part: Batch, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """(prompt index, seed index) of each row of a batch."""
    prompt, seed = np.divmod(np.asarray(part.rows), seeds)
    return prompt, seed
