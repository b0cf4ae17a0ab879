"""How much of the disrupted pass has to be computed? Only the blocks after the disrupted one.

Up to that block the disrupted pass is the conditional one. So the block's output is kept, and the forward is run again
with the blocks up to it replaced by a stub that returns the kept output, disrupted: K - m - 1 block calls instead of K.
`Restart` does both; all replacing of blocks goes through `swapped`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.families import BlockList, Family, bind
from dg_tools.forward.compiled import ours
from dg_tools.forward.fork import each
from dg_tools.forward.replaced import replaced

BETWEEN_BLOCKS = (  # inputs that add to, or leave out, blocks by position: the stub would shift them
    "block_controlnet_hidden_states",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "skip_layers",
)


class StandIn(torch.nn.Module):
    """Replaces a block; other attributes are read from the block itself: DiT's forward reads an embedding there."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not a part

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)


class Stored(StandIn):
    """Returns what its block gave beforehand; hooks on the block (edits, readers) act on it too.

    A compiled block has run the user's own already.
    """

    def __init__(self, output: Any, block: torch.nn.Module) -> None:
        super().__init__(block)
        self.output = output
        compiled = block._compiled_call_impl is not None
        self._forward_hooks.update(ours(block._forward_hooks) if compiled else block._forward_hooks)
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
            return inputs[self.record.hidden]
        both = {self.record.image: inputs[self.record.hidden], self.record.text: inputs["encoder_hidden_states"]}
        return both[0], both[1]


def why_not(family: Family, inputs: dict[str, Any]) -> str | None:
    """Why a partial forward is not possible with these inputs, in words; None where it is."""
    if not family.partial_forward:
        return f"family {family.name!r} has paths around its blocks"
    used = [name for name in BETWEEN_BLOCKS if inputs.get(name) is not None]
    return f"{', '.join(used)} act between blocks" if used else None


class Restart:
    """A block's output is kept in one forward, and later forwards start from it.

    Args:
        transformer, family: the model and its record.
        block: index over all block lists, in execution order.
        uses: how many forwards start from it; after the last one it is freed.
    """

    def __init__(self, transformer: torch.nn.Module, family: Family, block: int, uses: int = 1) -> None:
        self.transformer = transformer
        self.family = family
        self.block = block
        self.uses = uses
        self._left = 0
        self._output: Any = None

    @property
    def kept(self) -> bool:
        """Whether there is an output to start from."""
        return self._left > 0

    @contextmanager
    def keeping(self, rows: slice = slice(None)) -> Iterator[None]:
        """Inside, a forward stores the block's output of some rows, as it is before any edit."""
        _, record, block = list(self.family.blocks(self.transformer))[self.block]

        def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            self._output = each(output, lambda x: record.take(x, rows))
            self._left = self.uses

        # the first hook there: edits act again in a forward that starts from what is kept
        handle = block.register_forward_hook(keep, prepend=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def starting(self, edit: Callable[[Any], Any] = lambda output: output) -> Iterator[None]:
        """Inside, a forward starts with `edit` of the kept output as the output of the block.

        Raises:
            RuntimeError: nothing is kept: no forward ran, or all uses are over.
        """
        if not self.kept:
            raise RuntimeError(f"no output of block {self.block} is kept: run a forward inside keeping() first")
        output = self._output
        self._left -= 1
        if not self._left:
            self._output = None

        def stand_in(index: int, module: torch.nn.Module, record: BlockList) -> torch.nn.Module:
            if index != self.block:
                return Passed(module, record) if index < self.block else module
            stub = Stored(output, module)
            stub.register_forward_hook(lambda module, inputs, kept: edit(kept))  # after all others
            return stub

        with swapped(self.transformer, self.family, stand_in):
            yield


@contextmanager
def swapped(
    transformer: torch.nn.Module,
    family: Family,
    stand_in: Callable[[int, torch.nn.Module, BlockList], torch.nn.Module],
) -> Iterator[None]:
    """Inside, a forward runs `stand_in(index, block, record)` in place of each block; afterwards the lists are put
    back.

    Args:
        transformer, family: the model and its record.
        stand_in: returns the module to run: the block itself, or another one.
    """
    with ExitStack() as stack:
        first = 0
        for record in family.lists:
            modules = list(getattr(transformer, record.path))
            others = [stand_in(first + i, module, record) for i, module in enumerate(modules)]
            stack.enter_context(replaced(transformer, record.path, torch.nn.ModuleList(others)))
            first += len(modules)
        yield
