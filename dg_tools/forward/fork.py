"""How does one batched forward give the disrupted prediction too? By splitting its rows at the disrupted block.

The disrupted row is the conditional row up to that block. So the conditional rows of the block's output are copied,
disrupted and appended to the batch, and the blocks after it run on three rows instead of two: rows * K + (K - m - 1)
block rows for K blocks, disrupted after block m. The conditioning vector, which the transformer computes once for all
blocks, gets the same extra rows before each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.families import Family, bind
from dg_tools.forward.active import Parts, active
from dg_tools.forward.replaced import is_ours, is_replaced


def reads_any_rows(hook: Callable) -> Callable:
    """Mark a hook of ours that works with any number of rows: it does not prevent a fork."""
    hook.any_rows = True  # type: ignore[attr-defined]
    return hook


def foreign_hooks(transformer: torch.nn.Module, family: Family, *, below: bool = False) -> bool:
    """Whether a block, or a part of one, has hooks that expect the pipeline's own rows: edits, readers, the user's
    hooks.

    Without `below`, a replaced forward counts too, such as one that reads or masks attention.

    With `below`, only the user's hooks on parts of a block count. This package and nnsight know which rows a forward
    has, and a hook on a whole block finds the conditional rows last, as in the pipeline's call.
    """
    listed = parts(transformer, family)
    for module in listed.below if below else listed.all:
        if not below and "forward" in module.__dict__ and is_replaced(module, "forward"):
            return True
        if not (module._forward_hooks or module._forward_pre_hooks):
            continue
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if not getattr(hook, "any_rows", False) and not (below and is_ours(hook, "nnsight")):
                return True
    return False


def own_processors(transformer: torch.nn.Module, family: Family) -> bool:
    """Whether a block's attention is computed by a processor of the user's own, which may tell rows apart."""
    processors = [getattr(module, "processor", None) for module in parts(transformer, family).attention]
    return any(p is not None and not type(p).__module__.startswith("diffusers.") for p in processors)


def nested_rows(inputs: dict[str, Any]) -> bool:
    """Whether tensors are handed to the blocks inside a dictionary, as an IP-Adapter's are: they may have rows."""
    return any(isinstance(value, dict) and holds_tensors(value) for value in inputs.values())


def holds_tensors(value: Any) -> bool:
    """Whether there is a tensor anywhere in nested dictionaries and lists."""
    if isinstance(value, dict):
        return any(holds_tensors(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(holds_tensors(v) for v in value)
    return isinstance(value, torch.Tensor)


def parts(transformer: torch.nn.Module, family: Family) -> Parts:
    """Modules of the blocks, listed once per run: FLUX.1 has 1,200, and they are checked at each step."""
    state = active(transformer)
    if state.parts is None:
        blocks = [block for _, _, block in family.blocks(transformer)]
        below = [module for block in blocks for module in block.modules() if module is not block]
        attention = [module for module in (*blocks, *below) if hasattr(module, "processor")]
        state.parts = Parts([*blocks, *below], below, attention)
    return state.parts


def each(output: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`function` of every tensor in what a block returned: a tensor, or a tuple that may hold None."""
    if isinstance(output, torch.Tensor):
        return function(output)
    return tuple(None if x is None else function(x) for x in output)


def grown(value: Any, rows: int, copied: slice) -> Any:
    """A tensor of `rows` rows with the copied rows appended; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == rows:
        return torch.cat([value, value[copied]])
    return value


@contextmanager
def forked(
    transformer: torch.nn.Module, family: Family, block: int, rows: int, copied: slice, edit: Callable[[Any], Any]
) -> Iterator[None]:
    """Inside, a forward of `rows` rows returns the copied rows too, after its own, with `edit` applied to them after
    `block`.

    Args:
        transformer, family: the model and its record.
        block: index over all block lists, in execution order.
        rows: rows that the forward is called with.
        copied: which of them are copied.
        edit: gets the copied rows of the block's output, as the block returns them, and returns them disrupted.
    """

    def split(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        edited = edit(each(output, lambda x: x[copied]))
        if isinstance(output, torch.Tensor):
            return torch.cat([output, edited])
        return tuple(None if x is None else torch.cat([x, y]) for x, y in zip(output, edited, strict=True))

    def grow(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = bind(module, args, kwargs)
        return (), {k: grown(v, rows, copied) if k in family.conditioning else v for k, v in named.items()}

    def grow_tail(module: torch.nn.Module, args: tuple) -> tuple:
        return tuple(grown(x, rows, copied) for x in args)

    with ExitStack() as stack:
        modules = [module for _, _, module in family.blocks(transformer)]
        stack.callback(modules[block].register_forward_hook(split).remove)
        for module in modules[block + 1 :]:
            stack.callback(module.register_forward_pre_hook(grow, with_kwargs=True).remove)
        for path in (family.tail, *family.tail_conditioning):
            stack.callback(transformer.get_submodule(path).register_forward_pre_hook(grow_tail).remove)
        yield
