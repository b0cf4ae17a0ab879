"""The inputs of a block's attention are changed where they enter the product, whichever code computes them.

Query, key and value are caught on their way into torch's `scaled_dot_product_attention`: after the projections, their
norms and the rotary positions, with text and image already joined. So the same code serves SD3's joint attention,
SD3.5-medium's second attention of the image alone, and FLUX.1's double and single blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from dg_tools.forward.replaced import replaced
from dg_tools.models.dit import DiT

NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
Change = Callable[[dict[str, Any]], dict[str, Any]]


class Caught(TorchFunctionMode):
    """While active, `change` gets the named inputs of every attention product and returns those that are used."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.count += 1
        return func(**self.change({**dict(zip(NAMES, args, strict=False)), **kwargs}))


def attentions(dit: DiT, blocks: Sequence[int]) -> list[torch.nn.Module]:
    """The attention modules of some blocks that see image tokens: two each where a block has dual attention."""
    perturbed = [dit.block(block) for block in blocks]
    return [part for block in perturbed for part in block.record.attentions(block.module)]


@contextmanager
def changed(dit: DiT, blocks: Sequence[int], change: Change) -> Iterator[None]:
    """A forward inside has `change` at the attention of these blocks; their own forwards are put back afterwards.

    Raises:
        RuntimeError: on a normal exit, where an attention was never seen: a backend that is not torch's own.
    """
    caught = Caught(change)

    def within(forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            with caught:
                return forward(*args, **kwargs)

        return run

    modules = attentions(dit, blocks)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(replaced(module, "forward", within(module.forward)))
        yield
    if caught.count < len(modules):
        raise RuntimeError(
            f"{caught.count} of {len(modules)} attentions were changed: this guidance needs torch's own attention "
            "(pipe.transformer.set_attention_backend('native'))"
        )
