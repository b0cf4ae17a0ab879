"""Read, or replace, what blocks get and return in a forward: outputs, inputs and AdaLN chunks, through plain hooks.

The hooks are always taken off again. A forward at a z_t reads all prompts at once, and every row is conditional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.families import bind
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.onestep import velocity


@contextmanager
def on_block_outputs(dit: DiT, see: Callable[[Block, torch.Tensor, torch.Tensor | None], None]) -> Iterator[None]:
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


@contextmanager
def on_block_inputs(
    dit: DiT, blocks: Sequence[int], see: Callable[[Block, dict[str, Any]], dict[str, Any] | None]
) -> Iterator[None]:
    """Call `see(block, inputs by name)` before these blocks; what it returns replaces inputs."""
    with ExitStack() as stack:
        for index in blocks:
            block = dit.block(index)

            def before(
                module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], block: Block = block
            ) -> tuple[tuple, dict[str, Any]] | None:
                inputs = bind(module, args, kwargs)
                changes = see(block, inputs)
                return None if changes is None else ((), {**inputs, **changes})

            stack.callback(block.module.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield


@contextmanager
def on_modulation(
    dit: DiT, blocks: Sequence[int], see: Callable[[Block, dict[str, torch.Tensor]], None]
) -> Iterator[None]:
    """Call `see(block, chunks)` with the AdaLN chunks (rows, channels), by name, of these blocks in every forward."""
    with ExitStack() as stack:
        for index in blocks:
            block = dit.block(index)

            def named(value: torch.Tensor, block: Block = block) -> None:
                see(block, block.record.modulated(block.module, value, dit.width))

            stack.callback(block.record.on_modulation(block.module, named).remove)
        yield


class _Enough(Exception):
    """Stops a forward after the last block that is needed."""


def run_until(dit: DiT, latents: torch.Tensor, sigma: float, inputs: dict[str, Any], block: int) -> None:
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
