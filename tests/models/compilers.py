"""Blocks compiled as people do it, with a backend that counts instead of compiling: dynamo's own work only."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch


class Counting:
    """A backend that runs each graph as it is.

    Attributes:
        graphs: how many were made.
        calls: how often they ran.
        reuses: each graph writes what it returns into the same memory again, as a CUDA graph does.
    """

    def __init__(self, reuses=False):
        self.graphs = 0
        self.calls = 0
        self.reuses = reuses

    def __call__(self, graph, examples):
        self.graphs += 1
        memory = {}

        def run(*inputs):
            self.calls += 1
            output = graph.forward(*inputs)
            if not self.reuses:
                return output
            kept = [memory.setdefault(i, torch.empty_like(x)) for i, x in enumerate(output)]
            return tuple(place.copy_(x) for place, x in zip(kept, output, strict=True))

        return run


def blocks_of(transformer):
    names = ("transformer_blocks", "single_transformer_blocks", "blocks")
    return [block for name in names for block in getattr(transformer, name, ())]


def compile_blocks(pipe, **options):
    """`compile_repeated_blocks` where the class has such blocks, `block.compile()` elsewhere; the pipeline."""
    if getattr(pipe.transformer, "_repeated_blocks", None):
        pipe.transformer.compile_repeated_blocks(**options)
    else:
        for block in blocks_of(pipe.transformer):
            block.compile(**options)
    return pipe


@contextmanager
def uncompiled(transformer):
    """The blocks run their own calls inside."""
    with pytest.MonkeyPatch.context() as patch:
        for block in blocks_of(transformer):
            patch.setattr(block, "_compiled_call_impl", None)
        yield


@contextmanager
def fresh_compiler():
    """Nothing is compiled yet, and no other model's graphs count towards the compiler's limit."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=64):
        yield
    torch._dynamo.reset()
