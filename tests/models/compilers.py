"""Blocks compiled as people do it, with a backend that counts instead of compiling: dynamo's own work only."""

from __future__ import annotations

import functools
from contextlib import contextmanager

import pytest
import tiny
import torch

import dg_tools as dg

PROMPT = "a red apple"


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
    names = ("joint_transformer_blocks", "transformer_blocks", "single_transformer_blocks", "blocks")
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
    """Nothing is compiled yet, and no other model's graphs count towards the compiler's limit.

    The compiler looks for hooks too: by default it takes one block's code for another that has a hook of the user's.
    """
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=64, skip_nnmodule_hook_guards=False):
        yield
    torch._dynamo.reset()


class Subject:
    """A pipeline with compiled blocks; uncompiled on request."""

    def __init__(self, name, **options):
        self.backend = Counting()
        self.pipe = compile_blocks(tiny.PIPELINES[name](), backend=self.backend, **options)
        self.dit = dg.load(self.pipe)

    def counted(self, function):
        """What the function returns, how many graphs were made meanwhile, and how many ran."""
        graphs, calls = self.backend.graphs, self.backend.calls
        result = function()
        return result, self.backend.graphs - graphs, self.backend.calls - calls

    def eager(self, function):
        """What the function returns where the blocks are not compiled, and how often a block ran."""
        count = [0]

        def counting(forward):
            def run(*args, **kwargs):
                count[0] += 1
                return forward(*args, **kwargs)

            return run

        with uncompiled(self.pipe.transformer), pytest.MonkeyPatch.context() as patch:
            for kind in {type(block) for block in blocks_of(self.pipe.transformer)}:
                patch.setattr(kind, "forward", functools.wraps(kind.forward)(counting(kind.forward)))
            return function(), count[0]

    def latents(self, **kwargs):
        scale = {"true_cfg_scale" if "Flux" in type(self.pipe).__name__ else "guidance_scale": 3.0}
        settings = {"generator": torch.Generator().manual_seed(5), "output_type": "latent", "negative_prompt": ""}
        size = {"num_inference_steps": 3, "max_sequence_length": 8, **tiny.SIZE}
        return self.pipe(PROMPT, **scale, **settings, **size, **kwargs)[0]
