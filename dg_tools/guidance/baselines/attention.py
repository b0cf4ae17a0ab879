"""A block's attention is changed where its inputs enter the product (`forward.attention`)."""

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
    """A forward inside has `product` in the place of the attention of these blocks; all is put back afterwards.

    Args:
        dit: the model.
        blocks: indices into `dit.blocks`.
        product: gets torch's own product, its inputs by name, (rows, heads, tokens, channels), and the block.

    Raises:
        RuntimeError: on a normal exit, where an attention was never seen: a backend that is not torch's own.
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
    """A forward inside has `change` of the inputs at the attention of these blocks; as in `computed`."""
    with computed(dit, blocks, lambda attend, inputs, block: attend(**change(inputs))):
        yield
