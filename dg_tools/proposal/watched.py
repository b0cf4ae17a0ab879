"""One forward of a transformer, with the inputs and outputs of each block and each other part."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from dg_tools.proposal.runs import copied, named


@dataclass(frozen=True)
class Ran:
    """A block that ran: its list and index, the module, its inputs by name, and what it returned."""

    path: str
    index: int
    block: torch.nn.Module
    inputs: dict[str, Any]
    output: Any

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its inputs that are tensors."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, torch.Tensor)}


@dataclass
class Watched:
    """What happened in one forward.

    Attributes:
        blocks: the blocks in the order in which they ran.
        ended: (path, module, inputs) of the parts outside the lists that ran after the last block, outermost first.
        prediction: the output of the forward.
    """

    blocks: list[Ran] = field(default_factory=list)
    ended: list[tuple[str, torch.nn.Module, tuple]] = field(default_factory=list)
    prediction: Any = None

    def of(self, path: str) -> list[Ran]:
        """The blocks of one list."""
        return [ran for ran in self.blocks if ran.path == path]

    @property
    def paths(self) -> list[str]:
        """The lists, in the order in which their first blocks ran."""
        return list(dict.fromkeys(ran.path for ran in self.blocks))


def watch(transformer: torch.nn.Module, inputs: dict[str, Any]) -> Watched:
    """Run and watch a forward with these inputs. Lists are found among the transformer's own attributes."""
    seen = Watched()
    lists = {path: part for path, part in transformer.named_children() if isinstance(part, torch.nn.ModuleList)}

    def after(path: str, index: int) -> Any:
        def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            seen.ended.clear()
            seen.blocks.append(Ran(path, index, module, named(module, args, kwargs), output))

        return hook

    def before(path: str) -> Any:
        def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if not any(path.startswith(f"{outer}.") for outer, _, _ in seen.ended):
                seen.ended.append((path, module, (*args, *kwargs.values())))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for path, part in lists.items():
            for index, block in enumerate(part):
                hooks.callback(block.register_forward_hook(after(path, index), with_kwargs=True).remove)
        for path, module in transformer.named_modules():
            if path and path.split(".")[0] not in lists:
                hooks.callback(module.register_forward_pre_hook(before(path), with_kwargs=True).remove)
        output = transformer(**copied(inputs))
    seen.prediction = output if isinstance(output, torch.Tensor) else output[0]
    return seen


def is_bare(transformer: torch.nn.Module, inputs: dict[str, Any]) -> bool:
    """Whether the forward returns a bare tensor with `return_dict=False`, where others return a tuple."""
    if "return_dict" not in inspect.signature(transformer.forward).parameters:
        return False
    with torch.no_grad():
        return isinstance(transformer(**{**copied(inputs), "return_dict": False}), torch.Tensor)


def moved(inputs: dict[str, Any], name: str) -> dict[str, Any]:
    """The same inputs, with changed numbers in one tensor, or in each tensor of a list."""
    value = inputs[name]
    other = [1.1 * x + 0.1 for x in value] if isinstance(value, list) else 1.1 * value + 0.1
    return {**inputs, name: other}
