"""How much of the disrupted pass need be computed? Only what comes after the disrupted block.

Up to that block the disrupted pass is the conditional one. So the block's output is kept, and the forward is run again
with the blocks up to it replaced by a stub that returns the kept output, disrupted: K - m - 1 block calls instead of K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.families import BlockList, Family, bind
from dg_tools.forward.replaced import replaced

BETWEEN_BLOCKS = (  # inputs that add to, or leave out, blocks by position: the stub would shift them
    "block_controlnet_hidden_states",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "skip_layers",
)


class StandIn(torch.nn.Module):
    """In the place of a block; what else is asked of it, the block answers: DiT's forward reads an embedding there."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not a part

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)


class Stored(StandIn):
    """Returns what its block gave beforehand; hooks on the block (edits, readers) act on it too."""

    def __init__(self, output: Any, block: torch.nn.Module) -> None:
        super().__init__(block)
        self.output = output
        self._forward_hooks.update(block._forward_hooks)
        self._forward_hooks_with_kwargs.update(block._forward_hooks_with_kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


class Passed(StandIn):
    """Passes its inputs through; block lists keep their length, by which Chroma's forward counts its modulations."""

    def __init__(self, block: torch.nn.Module, record: BlockList) -> None:
        super().__init__(block)
        self.__dict__["record"] = record

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = bind(self.block, args, kwargs)
        if self.record.returns != "tuple":
            return inputs["hidden_states"]
        both = {self.record.image: inputs["hidden_states"], self.record.text: inputs["encoder_hidden_states"]}
        return both[0], both[1]


def why_not(family: Family, inputs: dict[str, Any]) -> str | None:
    """What forbids a partial forward with these inputs, in words; None where nothing does."""
    if not family.partial_forward:
        return f"family {family.name!r} has paths around its blocks"
    used = [name for name in BETWEEN_BLOCKS if inputs.get(name) is not None]
    return f"{', '.join(used)} act between blocks" if used else None


@contextmanager
def starting_after(
    transformer: torch.nn.Module, family: Family, block: int, output: Any, edit: Callable[[Any], Any]
) -> Iterator[None]:
    """A forward inside begins with `edit(output)` as the output of `block`; the block lists are put back afterwards."""
    with ExitStack() as stack:
        first = 0
        for record in family.lists:
            modules = list(getattr(transformer, record.path))
            at = block - first
            first += len(modules)
            before: list[torch.nn.Module] = [Passed(module, record) for module in modules[: max(at, 0)]]
            if 0 <= at < len(modules):
                stub = Stored(output, modules[at])
                stub.register_forward_hook(lambda module, inputs, kept: edit(kept))  # after all others
                modules = [*before, stub, *modules[at + 1 :]]
            elif at >= len(modules):
                modules = before
            stack.enter_context(replaced(transformer, record.path, torch.nn.ModuleList(modules)))
        yield
