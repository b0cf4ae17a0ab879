"""Change a block's attention at the inputs of its product (`forward.attention`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.forward.attention import Caught, Computed, Inputs
from dg_tools.forward.replaced import replaced
from dg_tools.models.dit import DiT

Change = Callable[[Inputs], Inputs]


def attentions(dit: DiT, blocks: Sequence[int]) -> list[torch.nn.Module]:
    """The attention modules of some blocks that see image tokens: two each where a block has dual attention."""
    perturbed = [dit.block(block) for block in blocks]
    return [part for block in perturbed for part in block.record.attentions(block.module)]


@contextmanager
def computed(dit: DiT, blocks: Sequence[int], product: Computed) -> Iterator[None]:
    """Replace the attention of these blocks by `product` in forwards inside; it is put back afterwards.

    Args:
        dit: the model.
        blocks: indices into `dit.blocks`.
        product: called with torch's own product, its inputs by name, (rows, heads, tokens, channels), and the block.

    Raises:
        RuntimeError: on a normal exit, if an attention was never seen: its backend is not torch's own.
    """
    caught = Caught(product)

    def within(forward: Callable, block: int) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            caught.block = block
            with caught:
                return forward(*args, **kwargs)

        return run

    modules = [(block, module) for block in blocks for module in attentions(dit, [block])]
    with ExitStack() as stack:
        for block, module in modules:
            stack.enter_context(replaced(module, "forward", within(module.forward, block)))
        yield
    if caught.count < len(modules):
        raise RuntimeError(
            f"{caught.count} of {len(modules)} attentions were changed: this guidance needs torch's own "
            "attention everywhere (pipe.transformer.set_attention_backend('native'))"
        )


@contextmanager
def changed(dit: DiT, blocks: Sequence[int], change: Change) -> Iterator[None]:
    """Apply `change` to the inputs of the attention of these blocks in forwards inside; as in `computed`."""
    with computed(dit, blocks, lambda attend, inputs, block: attend(**change(inputs))):
        yield
