"""Compiled blocks: this package's hooks run in a thin eager step around a block's compiled call, not inside it.

`block.compile()` and diffusers' `compile_repeated_blocks` replace a block's call. A hook on such a block would be
ignored, or traced into the graph and compiled again. So inside the package's contexts an eager step replaces the
compiled call. It runs the package's hooks before and after that call, and hides them from the compiler. Names of
modules and parameters stay as they are, and so does the compiled code, so nothing is compiled again.

What acts inside a block (its AdaLN gates, its LayerNorms, its attention) cannot act on compiled code: in such a forward
the block runs its own uncompiled call.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.forward.active import Active, active
from dg_tools.forward.refusals import REFUSALS
from dg_tools.forward.replaced import is_ours, is_replaced, replaced

logger = logging.getLogger("dg_tools")

CALL = "_compiled_call_impl"  # where `module.compile()` puts the compiled call, and torch looks for it
TABLES = ("_forward_pre_hooks", "_forward_hooks")


class Stepped:
    """Replaces a module's compiled call: runs our hooks, then the compiled call without them, then our hooks.

    The user's own hooks, which the compiler may have traced, stay in the compiled call.
    """

    def __init__(self, module: torch.nn.Module, call: Callable[..., Any], state: Active) -> None:
        self.module = module
        self.call = call
        self.state = state
        self.parts = list(module.modules())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, call = self.module, self.call
        if acts_inside(self.parts):
            self.tell()
            call = module._call_impl
        for key, hook in ours(module._forward_pre_hooks):
            if key in module._forward_pre_hooks_with_kwargs:
                changed = hook(module, args, kwargs)
                args, kwargs = (args, kwargs) if changed is None else changed
            else:
                changed = hook(module, args)
                args = args if changed is None else changed if isinstance(changed, tuple) else (changed,)
        with hidden(module):
            output = call(*args, **kwargs)
        after = ours(module._forward_hooks)
        if any(not getattr(hook, "any_rows", False) for _, hook in after):
            output = own_copy(output)
        for key, hook in after:
            named = (kwargs,) if key in module._forward_hooks_with_kwargs else ()
            changed = hook(module, args, *named, output)
            output = output if changed is None else changed
        return output

    def tell(self) -> None:
        """Log, once per transformer, that blocks run uncompiled."""
        if not self.state.told_uncompiled:
            self.state.told_uncompiled = True
            logger.warning("compiled blocks run uncompiled while something acts inside them (gates, norms, attention)")


def acts_inside(parts: Sequence[torch.nn.Module]) -> bool:
    """Whether something of ours acts inside a module, where compiled code would not see it.

    Args:
        parts: the module, then its parts.
    """
    for i, part in enumerate(parts):
        if i and (part._forward_hooks or part._forward_pre_hooks):
            if ours(part._forward_hooks) or ours(part._forward_pre_hooks):
                return True
        if "forward" in part.__dict__ and is_replaced(part, "forward"):
            return True
    return False


def ours(table: dict[int, Callable]) -> list[tuple[int, Callable]]:
    """The hooks of a table that this package registered, with their keys."""
    return [(key, hook) for key, hook in table.items() if is_ours(hook)] if table else []


@contextmanager
def hidden(module: torch.nn.Module) -> Iterator[None]:
    """Inside, our hooks are removed from the module's tables, so the compiler sees the module as it was."""
    own = {name: module.__dict__[name] for name in TABLES if ours(module.__dict__[name])}
    for name, table in own.items():
        module.__dict__[name] = OrderedDict((key, hook) for key, hook in table.items() if not is_ours(hook))
    try:
        yield
    finally:
        module.__dict__.update(own)


def own_copy(output: Any) -> Any:
    """A copy of what a compiled module returned: a CUDA graph writes its next output into the same memory."""
    if isinstance(output, torch.Tensor):
        return output.clone()
    return tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in output)


@contextmanager
def stepping(transformer: torch.nn.Module) -> Iterator[None]:
    """Inside, this package's hooks act on compiled parts of the transformer too; afterwards the calls are put back.

    Raises:
        ValueError: the transformer is compiled in another way than block by block.
    """
    with ExitStack() as stack:
        for module in compiled_parts(transformer):
            if is_wrapped(module):
                raise REFUSALS["wrapped"].error()
            call: Any = module._compiled_call_impl
            step = call if isinstance(call, Stepped) else Stepped(module, call, active(transformer))
            stack.enter_context(replaced(module, CALL, step))
        yield


def check_stepped(transformer: torch.nn.Module) -> None:
    """Raise RuntimeError where something was compiled inside a context: the context would not act on it."""
    if not all(isinstance(module._compiled_call_impl, Stepped) for module in compiled_parts(transformer)):
        raise REFUSALS["compiled inside"].error()


def compiled_parts(transformer: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts of a transformer on which `compile()` was called.

    Raises:
        ValueError: the transformer, or a part of it, is compiled in another way.
    """
    if is_compiled(transformer) or transformer._compiled_call_impl is not None:
        raise REFUSALS["compiled"].error()
    found: list[tuple[str, torch.nn.Module]] = []
    for name, module in transformer.named_modules():
        if is_compiled(module):
            raise REFUSALS["compiled part"].error(part=name.removesuffix("._orig_mod"))
        if module._compiled_call_impl is not None:
            if found and name.startswith(f"{found[-1][0]}."):
                raise REFUSALS["compiled twice"].error(part=name, outer=found[-1][0])
            found.append((name, module))
    return [module for _, module in found]


class _Reached(Exception):
    """Ends a block's forward at a part of it."""


def output_of_part(block: torch.nn.Module, path: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What a part of a block returns in a call with these inputs: the block runs uncompiled up to there.

    Args:
        block: the block, whose own call is not made.
        path: of the part. It should be among the first that run: an AdaLN linear layer is.
        args, kwargs: of the call.
    """
    outputs: list[Any] = []

    def stop(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(output)
        raise _Reached

    handle = block.get_submodule(path).register_forward_hook(stop)
    try:
        block.forward(*args, **kwargs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return outputs[0]


def check_uncompiled(transformer: torch.nn.Module) -> None:
    """Raise ValueError for a transformer with compiled parts: a trace could not read inside them."""
    if compiled_parts(transformer):
        raise REFUSALS["traced"].error()


def is_wrapped(module: torch.nn.Module) -> bool:
    """Whether nnsight has wrapped a module for traces."""
    return type(module.__dict__.get("forward")).__module__.startswith("nnsight")


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether a module is what `torch.compile` returned, or its `forward` is."""
    forward: Any = module.__dict__.get("forward", type(module).forward)
    while forward is not None:
        if hasattr(forward, "_torchdynamo_orig_callable"):
            return True
        forward = getattr(forward, "__wrapped__", None)
    return "_orig_mod" in module._modules
