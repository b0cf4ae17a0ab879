"""What is compiled in a way that cannot be had right is refused in a sentence, before any forward."""

from __future__ import annotations

import pytest
import tiny
import torch
from compilers import compile_blocks

import dg_tools as dg
from dg_tools.onestep import velocity

GREY = torch.full((3, 32, 48), -0.5)
OFF = dg.Disrupt([3], 1)
CALL = {**tiny.CALL, "progress": False}


def replace(pipe):
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


def whole(pipe):
    pipe.transformer.compile(backend="eager")


def forward(pipe):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager")


def block(pipe):
    pipe.transformer.transformer_blocks[1] = torch.compile(pipe.transformer.transformer_blocks[1], backend="eager")


def block_forward(pipe):
    part = pipe.transformer.transformer_blocks[1]
    part.forward = torch.compile(part.forward, backend="eager")


def twice(pipe):
    compile_blocks(pipe, backend="eager")
    pipe.transformer.transformer_blocks[1].attn.compile(backend="eager")


FORMS = {
    replace: "compiled as a whole.*compile its blocks",
    whole: "compiled as a whole.*compile its blocks",
    forward: "compiled as a whole.*compile its blocks",
    block: r"transformer_blocks\.1 .*torch\.compile returned.*call transformer_blocks\.1\.compile\(\)",
    block_forward: r"transformer_blocks\.1 .*torch\.compile returned.*call transformer_blocks\.1\.compile\(\)",
    twice: r"transformer_blocks\.1\.attn is compiled, and so is transformer_blocks\.1",
}
USES = {
    "generate": lambda dit: dg.generate(dit, "apple", **CALL),
    "guided": lambda dit: dg.generate(dit, "apple", guidance=dg.DetailGuidance(1.0, 0.5, OFF), **CALL),
    "capture": lambda dit: dg.capture(dit, "apple", **CALL),
    "capture_image": lambda dit: dg.capture_image(
        dit, torch.full((3, 32, 48), -0.5), progress=False, max_sequence_length=8
    ),
    "trace": lambda dit: dit.trace("apple", **tiny.CALL),
    "velocity": lambda dit: velocity(dit, torch.zeros(1, 4, 16, 24), 0.5, {}),
    "edits": lambda dit: OFF.on(dit).__enter__(),
    "guidance": lambda dit: dg.detail_guidance(dit, dg.DetailGuidance(None, 0.5, OFF)).__enter__(),
    "a pipeline's edits": lambda dit: OFF.on(dit.pipeline).__enter__(),
    "load": lambda dit: dg.load(dit.pipeline),
}


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("form", FORMS)
def test_other_ways_to_compile_are_refused_before_any_forward(name, form, monkeypatch):
    pipe = tiny.PIPELINES[name]()
    dit, kind = dg.load(pipe), type(pipe.transformer)
    form(pipe)
    monkeypatch.setattr(kind, "forward", lambda *args, **kwargs: pytest.fail("a forward ran"))
    for use in USES.values():
        with pytest.raises(ValueError, match=FORMS[form]):
            use(dit)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_trace_of_compiled_blocks_is_refused(name, monkeypatch):
    pipe = compile_blocks(tiny.PIPELINES[name](), backend="eager")
    dit = dg.load(pipe)
    monkeypatch.setattr(type(pipe.transformer), "forward", lambda *args, **kwargs: pytest.fail("a forward ran"))
    with pytest.raises(ValueError, match=r"a trace reads inside blocks.*without torch\.compile"):
        dit.trace("apple", **tiny.CALL)
    with pytest.raises(ValueError, match="a trace reads inside blocks"):
        _ = dit.nnsight


def test_a_model_that_was_traced_before_is_unwrapped_first():
    dit = dg.load(tiny.sd3())
    with dit.trace("apple", output_type="latent", **tiny.CALL) as run:
        for step in run.steps:
            dit.blocks[1].image[..., [3]] = 0
    compile_blocks(dit.pipeline, backend="eager")
    with pytest.raises(ValueError, match=r"call dit\.unwrap\(\)"):
        dg.generate(dit, "apple", **CALL)
    dit.unwrap()
    made = dg.generate(dit, "apple", edits=OFF, **CALL).latents
    assert torch.equal(made, dg.generate(dg.load(tiny.sd3()), "apple", edits=OFF, **CALL).latents)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_blocks_compiled_inside_a_context_are_refused(name):
    pipe = tiny.PIPELINES[name]()
    call = {"num_inference_steps": 2, "max_sequence_length": 8, **tiny.SIZE, "output_type": "latent"}
    for context in (OFF.on(pipe), dg.detail_guidance(pipe, dg.DetailGuidance(None, 0.5, OFF))):
        with pytest.raises(RuntimeError, match="compile it before"), context:
            compile_blocks(pipe, backend="eager")
            pipe("apple", **call)
        for part in pipe.transformer.modules():
            part._compiled_call_impl = None
