"""What does each part of a DiT add to the image stream, channel by channel?

The residual stream is a sum: the patch projection, the positional embedding where there is one, and each block's gated
writes (attention, a second attention in SD3.5-medium, the MLP; one joint write in FLUX's single blocks). The token
means of these add up to the token mean of the stream, which a test checks on every family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from dg_tools.experiments.block_hooks import on_modulation
from dg_tools.families import bind
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT

WRITERS = ("patch", "position", "attention", "attention 2", "MLP", "joint")
EMBEDDING = -1  # block number of what is in the stream before the first block


def branches(block: Block) -> list[tuple[str, str, str]]:
    """(writer, module path, gate) of what a block adds to the image stream.

    Raises:
        ValueError: a block whose MLP runs for both streams.
    """
    if block.record.mlp is None:
        raise ValueError(f"{block!r} runs its MLP more than once: its writes cannot be separated")
    return block.record.branches(block.module)


@contextmanager
def on_writes(dit: DiT, see: Callable[[int, str, torch.Tensor], None]) -> Iterator[None]:
    """Call `see(block, writer, write)` with every write (rows, image tokens, channels) of the forwards inside.

    `block` is EMBEDDING for the patch projection and the positional embedding.
    """
    gates: dict[int, dict[str, torch.Tensor]] = {}
    tokens: list[int] = []
    patch: list[torch.Tensor] = []

    def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        tokens[:] = [dit.family.image_tokens(module, bind(module, args, kwargs)["hidden_states"])]
        patch.clear()

    def projected(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        patch[:] = [output if output.ndim == 3 else output.flatten(2).transpose(1, 2)]

    def embedded(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        stream = bind(module, args, kwargs)["hidden_states"][:, -tokens[0] :]
        see(EMBEDDING, "patch", patch[0] if patch else stream)
        if patch:
            see(EMBEDDING, "position", stream - patch[0])

    def written(block: Block, writer: str, gate: str) -> Callable:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            see(block.index, writer, gates[block.index][gate][:, None] * value[:, -tokens[0] :])

        return hook

    # a table of positions is added to the projection inside one module; rotary positions (FLUX) write nothing
    path = dit.family.patch_projection
    with ExitStack() as stack:
        stack.callback(dit.transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
        if path:
            stack.callback(dit.transformer.get_submodule(path).register_forward_hook(projected).remove)
        first = dit.blocks[0].module
        stack.callback(first.register_forward_pre_hook(embedded, with_kwargs=True).remove)
        stack.enter_context(on_modulation(dit, range(len(dit.blocks)), lambda b, c: gates.update({b.index: c})))
        for block in dit.blocks:
            for writer, path, gate in branches(block):
                module = block.module.get_submodule(path)
                stack.callback(module.register_forward_hook(written(block, writer, gate)).remove)
        yield


def main_blocks(writes: np.ndarray, final: np.ndarray, channels: Sequence[int]) -> list[int]:
    """For each channel the block that writes most of its final token mean.

    Args:
        writes: signed token means (..., block, channel), all writers of a block together.
        final: of the stream at the end, (..., channel).
    """
    towards = (writes * np.sign(final)[..., None, :]).reshape(-1, *writes.shape[-2:]).mean(0)
    return [int(towards[:, c].argmax()) for c in channels]
