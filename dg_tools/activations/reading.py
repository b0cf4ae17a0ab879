"""Plain hooks that give a run's hidden states to a `Recorder`, block by block, with every edit applied.

The same values can be read in a trace (`DiT.trace`), and a test holds the two equal. Hooks cost less on a
small model, and work on compiled blocks, inside which a trace cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dg_tools.activations.recorder import Recorder
from dg_tools.families import bind
from dg_tools.forward.call import Call
from dg_tools.forward.compiled import acts_inside, output_of_part
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT

Hook = Callable[..., None]


@contextmanager
def reading(dit: DiT, recorder: Recorder, call: Callable[[], Call]) -> Iterator[None]:
    """Calls of the transformer inside are recorded.

    Args:
        dit: the model. The values read include edits that are already attached.
        recorder: of this run.
        call: the call of the transformer that begins.
    """

    def end(module: torch.nn.Module, args: tuple, output: Any) -> None:
        recorder.end(failed=output is None)

    def begin(module: torch.nn.Module, args: tuple) -> None:
        recorder.begin(call())

    with ExitStack() as stack:
        stack.callback(dit.transformer.register_forward_pre_hook(begin).remove)
        stack.callback(dit.transformer.register_forward_hook(end, always_call=True).remove)
        for block in dit.blocks:
            for handle in hooks(dit, recorder, block):
                stack.callback(handle.remove)
        yield


def hooks(dit: DiT, recorder: Recorder, block: Block) -> Iterator[Any]:
    """Register what reads one block; yields the handles."""
    record, module, index = block.record, block.module, block.index
    embedding = dit.family.embedding

    def conditioning(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if recorder.visit(index, "conditioning"):
            recorder.embedding(bind(module, args, kwargs)[embedding])

    def modulation(value: torch.Tensor) -> None:
        if recorder.visit(index, "modulation"):
            recorder.modulation(block, value)

    def beforehand(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if recorder.visit(index, "modulation"):
            assert record.adaln is not None
            recorder.modulation(block, output_of_part(module, record.adaln, args, kwargs))

    def branch(variable: str, path: str) -> Hook:
        def hook(module: torch.nn.Module, args: tuple, output: Any) -> None:
            if call := recorder.visit(index, variable):
                recorder.write(block, variable, record.of_image(output, path, call.image_tokens))

        return hook

    def streams(module: torch.nn.Module, args: tuple, output: Any) -> None:
        if call := recorder.visit(index, "streams"):
            recorder.streams(block, output, call)

    if index == 0 and embedding:
        yield module.register_forward_pre_hook(conditioning, with_kwargs=True)
    compiled = module._compiled_call_impl is not None
    if compiled and record.adaln is not None and not acts_inside(list(module.modules())):
        yield module.register_forward_pre_hook(beforehand, with_kwargs=True)
    else:
        yield record.on_modulation(module, modulation)
    if compiled:  # what attention and MLP give does not leave the compiled code
        yield module.register_forward_hook(streams)
        return
    if record.attn is not None and record.attn_gate is not None:
        yield module.get_submodule(record.attn).register_forward_hook(branch("attn_write", record.attn))
    if record.mlp is not None:
        yield module.get_submodule(record.mlp).register_forward_hook(branch("mlp_write", record.mlp))
    yield module.register_forward_hook(streams)
