"""The guidances are siblings under one base; a restart keeps a block's output for the next forward, then drops it."""

from __future__ import annotations

import weakref

import pytest
import tiny
import torch
from diffusers.guiders import ClassifierFreeGuidance

import dg_tools as dg
from dg_tools.forward.restart import Restart
from dg_tools.generation.sampling import windowed
from dg_tools.guidance.base import Guidance
from dg_tools.guidance.baselines.combined import Combined
from dg_tools.guidance.baselines.registry import BASELINES

SIBLINGS = (dg.CFG, dg.DetailGuidance, dg.baselines.Perturbed, Combined)


def test_no_guidance_is_made_of_another():
    for one in SIBLINGS:
        assert issubclass(one, Guidance)
        assert not [other for other in SIBLINGS if other is not one and issubclass(one, other)]
    for baseline in BASELINES.values():
        assert issubclass(baseline.guidance, Guidance) and not issubclass(baseline.guidance, dg.DetailGuidance)
        assert not hasattr(baseline.guidance, "disrupt") and not hasattr(baseline.guidance, "disrupts")


def test_cfg_in_a_modular_pipeline_is_diffusers_own():
    own = ("forward", "prepare_inputs", "prepare_inputs_from_block_state", "num_conditions", "is_conditional")
    assert all(getattr(dg.CFG, name) is getattr(ClassifierFreeGuidance, name) for name in own)
    assert dg.CFG(0.5, use_original_formulation=True).guidance_scale == 0.5
    inside = windowed(dg.CFG(0.5, use_original_formulation=True, stop=0.5))
    assert type(inside) is Guidance and inside.guidance_scale == 1.5 and inside.passes(0, 2) != inside.passes(1, 2)


# -- a restart --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def step(dits):
    """A transformer's own forward at one step, as a function of nothing."""
    dit, seen = dits("flux"), []
    handle = dit.transformer.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    dg.generate(dit, "a red apple", progress=False, **{**tiny.CALL, "steps": 1})
    handle.remove()

    @torch.no_grad()
    def forward():
        return dit.transformer(**seen[0])[0]

    return forward


def state(transformer):
    """Everything that a restart could leave: hooks, and the modules in their order."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in transformer.modules()]
    return hooks, [*map(id, transformer.modules())], set(vars(transformer))


@pytest.mark.parametrize("block", [0, 2, 4])  # of two double and three single blocks
def test_the_next_forward_starts_from_what_is_kept(dits, step, block):
    dit = dits("flux")
    restart, calls, plain = Restart(dit.transformer, dit.family, block, uses=2), [], step()
    with restart.keeping():
        assert torch.equal(step(), plain)
    handles = [b.module.register_forward_pre_hook(lambda *_: calls.append(1)) for b in dit.blocks]
    with restart.starting():
        assert torch.equal(step(), plain)
    with restart.starting(lambda output: tuple(0 * x for x in output) if isinstance(output, tuple) else 0 * output):
        assert not torch.allclose(step(), plain, rtol=1e-2)
    for handle in handles:
        handle.remove()
    assert len(calls) == 2 * (len(dit.blocks) - block - 1)


def test_what_is_kept_is_let_go_of_after_its_last_use(dits, step):
    dit, kept = dits("flux"), []

    def edit(output):
        kept.append(weakref.ref(output[0]))
        return output

    restart = Restart(dit.transformer, dit.family, 0, uses=2)
    with pytest.raises(RuntimeError, match="no output of block 0 is kept"), restart.starting():
        pass
    with restart.keeping():
        step()
    for last in (False, True):
        with restart.starting(edit):
            step()
        assert (kept[-1]() is None) == last and restart.kept != last
    with pytest.raises(RuntimeError, match="no output of block 0 is kept"), restart.starting():
        pass


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_a_restart_leaves_nothing_after_an_exception(dits, step, error):
    dit = dits("flux")
    before, restart, last = state(dit.transformer), Restart(dit.transformer, dit.family, 1), dit.blocks[-1].module

    def crash(*_):
        raise error("in the last block")

    with restart.keeping():
        step()
    for inside in (restart.keeping, restart.starting):
        handle = last.register_forward_hook(crash)
        with pytest.raises(error, match="in the last block"), inside():
            step()
        handle.remove()
        assert state(dit.transformer) == before
    assert not restart.kept
