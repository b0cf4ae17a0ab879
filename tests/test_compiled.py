"""Compiled blocks: the same pictures as uncompiled, through the compiled code, and nothing is compiled again."""

from __future__ import annotations

import copy
import pickle

import pytest
import tiny
import torch
from compilers import PROMPT, Subject, blocks_of, compile_blocks, fresh_compiler, uncompiled
from hand import by_hand

import dg_tools as dg
from dg_tools.onestep import conditions, velocity

OFF = dg.Disrupt([3, 7], 1)
CALL = {**tiny.CALL, "seed": 5, "progress": False}


@pytest.fixture(scope="module")
def subjects():
    with fresh_compiler():
        made = {}
        yield lambda name: made.setdefault(name, Subject(name, dynamic=False, fullgraph=True))


@pytest.fixture(scope="module", params=["sd3", "flux"])
def subject(request, subjects):
    return subjects(request.param)


WHOLE = {  # every block call goes through compiled code
    "plain": {},
    "CFG": {"guidance": dg.CFG(3.0)},
    "zero": {"edits": OFF},
    "mean, some tokens and steps": {"edits": dg.Disrupt([3], 1, "mean", tokens=[0, 5], steps=[1])},
    "scale, text, two blocks": {"edits": dg.Disrupt([3], [0, 1], "scale", rho=1.5, stream="text")},
    "shift": {"edits": OFF.controls(1)[0]},
    "two edits, CFG": {"edits": [OFF, dg.Disrupt([2], 0, rows="cond")], "guidance": dg.CFG(3.0)},
    "DG": {"guidance": dg.DetailGuidance(1.0, 0.7, OFF)},
    "DG + CFG": {"guidance": dg.DetailGuidance(3.0, 0.7, OFF)},
    "DG + CFG in a window": {"guidance": dg.DetailGuidance(3.0, 0.7, OFF, detail_guidance_start=0.5)},
    "DG + CFG, edited": {"guidance": dg.DetailGuidance(3.0, 0.7, OFF), "edits": dg.Disrupt([2], 0)},
    "DG + CFG in the unconditional rows": {"guidance": dg.DetailGuidance(3.0, disrupt=OFF, rows="uncond")},
    "DG + CFG, a region": {
        "guidance": dg.DetailGuidance(3.0, 0.7, dg.Disrupt([3], 1, "scale", rho=1.5, tokens=[0, 7]))
    },
    "knob": {"guidance": dg.DetailKnob([3, 7], 1, 1.5)},
    "Gain": {"guidance": dg.baselines.Gain(1.0, gain=1.1)},
    "SLG": {"guidance": dg.baselines.SLG(3.0, 0.7, blocks=[1])},
    "AutoGuidance": {"guidance": dg.baselines.AutoGuidance(3.0, 0.7)},
    "Blurred": {"guidance": dg.baselines.Blurred(3.0, 0.7)},
    "APG": {"guidance": dg.baselines.APG(3.0)},
}
INSIDE = {  # something acts inside blocks, which run uncompiled for it
    "gate": {"edits": dg.Disrupt([3], 1, "gate")},
    "clean norms": {"edits": dg.Disrupt([3], 1, norms="clean")},
    "PAG": {"guidance": dg.baselines.PAG(3.0, 0.7, blocks=[1])},
    "SEG": {"guidance": dg.baselines.SEG(3.0, 0.7, blocks=[1])},
}


def made(subject, kwargs):
    several = isinstance(kwargs.get("edits"), list)
    edits = {"edits": [kwargs["edits"]]} if several else {}
    one = dg.generate(subject.dit, PROMPT, **CALL, **{**kwargs, **edits})
    return one.latents, sum(one.block_calls)


@pytest.mark.parametrize("kind", [*WHOLE, *INSIDE])
def test_equal_to_uncompiled_blocks(subject, kind):
    kwargs = {**WHOLE, **INSIDE}[kind]
    (latents, rows), _, calls = subject.counted(lambda: made(subject, kwargs))
    (eager, same), blocks = subject.eager(lambda: made(subject, kwargs))
    assert torch.equal(latents, eager) and rows == same
    assert calls == blocks if kind in WHOLE else 0 < calls < blocks
    (again, _), graphs, _ = subject.counted(lambda: made(subject, kwargs))
    assert torch.equal(again, latents) and graphs == 0, "compiled again in a second run"


def test_guidance_equals_a_loop_by_hand(subject):
    scale, transformer = 3.0, subject.pipe.transformer
    plain = subject.latents()
    with dg.detail_guidance(subject.pipe, dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF)):
        ours = subject.latents()
    flux = subject.dit.family.rows == "sequential"
    with uncompiled(transformer), by_hand(transformer, scale, weight=0.7, channels=[3, 7], block=1, sequential=flux):
        theirs = subject.latents()
    assert (theirs - plain).abs().max() > 1e-2
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_one_step_equals_uncompiled_blocks(subject):
    dit = subject.dit
    inputs = conditions(dit, [PROMPT], *tiny.SIZE.values(), max_sequence_length=8)
    noised = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    edited, _, calls = subject.counted(lambda: velocity(dit, noised, 0.5, inputs, [OFF]))
    eager, blocks = subject.eager(lambda: velocity(dit, noised, 0.5, inputs, [OFF]))
    assert torch.equal(edited, eager) and calls == blocks == len(dit.blocks)
    assert not torch.equal(edited, velocity(dit, noised, 0.5, inputs))


CONTEXTS = {
    "edit": lambda pipe: OFF.on(pipe),
    "gate": lambda pipe: dg.Disrupt([3], 1, "gate").on(pipe),
    "guidance": lambda pipe: dg.detail_guidance(pipe, dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF)),
}


def state(transformer):
    names = [(name, id(module)) for name, module in transformer.named_modules()]
    tensors = [(name, x.data_ptr()) for name, x in transformer.state_dict().items()]
    return names, tensors


def own(transformer):
    """What a module has that a context could leave changed."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "forward", "__getstate__", "_compiled_call_impl")
    return [[(name, vars(m)[name]) for name in tables if name in vars(m)] for m in transformer.modules()]


@pytest.mark.parametrize("kind", CONTEXTS)
def test_names_stay_and_nothing_is_left_or_compiled_again(subject, kind):
    transformer = subject.pipe.transformer
    plain = subject.latents()
    named, before, seen = state(transformer), own(transformer), []

    def look(pipe, step, timestep, tensors):
        seen.append((state(transformer), subject.backend.graphs))
        return tensors

    def run():
        with CONTEXTS[kind](subject.pipe):
            assert state(transformer) == named
            subject.latents(callback_on_step_end=look)
        return subject.latents()

    run()  # the first time may have rows in other numbers than before
    seen.clear()
    again, graphs, _ = subject.counted(run)
    assert torch.equal(again, plain) and graphs == 0
    assert len(seen) == 3 and all(names == named for names, _ in seen)
    assert own(transformer) == before


def test_one_graph_for_each_number_of_rows_and_none_between_steps():
    with fresh_compiler():
        subject = Subject("sd3", dynamic=False)
        graphs = []

        def look(pipe, step, timestep, tensors):
            graphs.append(subject.backend.graphs)
            return tensors

        with dg.detail_guidance(subject.pipe, dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=dg.Disrupt([3], 2))):
            subject.latents(callback_on_step_end=look)
        # blocks that return text, with two rows; the last block, with the third row of the disrupted pass
        assert graphs == [2, 2, 2]


@pytest.mark.parametrize("way", ["partial", "whole"])
def test_what_is_kept_is_a_copy(subject, way):
    """A CUDA graph writes into the same memory each time; so does this backend."""
    with dg.detail_guidance(subject.pipe, dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF), way=way):
        eager, _ = subject.eager(subject.latents)
        subject.backend.reuses = True
        try:
            assert torch.equal(subject.latents(), eager)
        finally:
            subject.backend.reuses = False


@pytest.mark.parametrize(
    ("kind", "copied"),
    [("edit", copy.deepcopy), ("gate", copy.deepcopy), ("guidance", lambda part: pickle.loads(pickle.dumps(part)))],
)
def test_a_copy_made_inside_is_plain(subject, kind, copied):
    own_pipe, plain, copies = subject.pipe, subject.latents(), []

    def keep(pipe, step, timestep, tensors):
        copies.append(copied(pipe.transformer))
        return tensors

    with CONTEXTS[kind](own_pipe):
        subject.latents(callback_on_step_end=keep)
    for module in copies[0].modules():
        assert module._compiled_call_impl is None and not {"forward", "__getstate__"} & set(vars(module))
        assert not (module._forward_hooks or module._forward_pre_hooks)
    subject.pipe = type(own_pipe)(**{**own_pipe.components, "transformer": copies[0]})
    subject.pipe.set_progress_bar_config(disable=True)
    try:
        latents, _, calls = subject.counted(subject.latents)
        assert torch.equal(latents, plain) and calls == 0
    finally:
        subject.pipe = own_pipe


@pytest.mark.parametrize("kind", CONTEXTS)
def test_all_is_put_back_after_an_exception(subject, kind):
    before = own(subject.pipe.transformer)

    def stop(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), CONTEXTS[kind](subject.pipe):
        subject.latents(callback_on_step_end=stop)
    assert own(subject.pipe.transformer) == before


def test_a_weak_model_with_compiled_blocks(subjects):
    subject = subjects("sd3")
    weak = compile_blocks(tiny.sd3(seed=1), backend=subject.backend, dynamic=False).transformer
    kwargs = {"guidance": dg.baselines.AutoGuidance(1.0, 0.7, weak_model=weak)}
    (latents, rows), _, _ = subject.counted(lambda: made(subject, kwargs))
    with uncompiled(weak):
        (eager, same), _ = subject.eager(lambda: made(subject, kwargs))
    assert torch.equal(latents, eager) and rows == same
    with pytest.raises(ValueError, match="compiled as a whole"):
        made(
            subject, {"guidance": dg.baselines.AutoGuidance(1.0, 0.7, weak_model=torch.compile(tiny.sd3().transformer))}
        )


def test_a_modular_pipeline_with_compiled_blocks(subjects):
    from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

    subject = subjects("sd3")
    modular = StableDiffusion3AutoBlocks().init_pipeline()
    modular.update_components(**subject.pipe.components, guider=dg.DetailGuidance(3.0, 0.7, OFF))
    modular.set_progress_bar_config(disable=True)
    call = {"prompt": PROMPT, "negative_prompt": "", "num_inference_steps": 3, "max_sequence_length": 8, **tiny.SIZE}

    def sample():
        return modular(**call, output="latents", generator=torch.Generator().manual_seed(5))

    latents, _, calls = subject.counted(sample)
    eager, blocks = subject.eager(sample)
    assert torch.equal(latents, eager) and calls == blocks == 3 * (4 + 4 + 2)
    blocks_of(modular.transformer)[0].forward = torch.compile(blocks_of(modular.transformer)[0].forward)
    try:
        with pytest.raises(ValueError, match=r"transformer_blocks\.0\.compile\(\)"):
            sample()
    finally:
        del blocks_of(modular.transformer)[0].forward
