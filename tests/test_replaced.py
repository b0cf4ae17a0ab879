"""What is replaced is put back, whatever it is, however the block ends and in whatever order blocks are closed."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import dg_tools as dg
from dg_tools.forward.clock import replaced_step
from dg_tools.forward.replaced import _STACKS, replaced
from dg_tools.forward.restart import Passed, swapped


class Owner:
    def name(self) -> str:
        return "class"


@pytest.mark.parametrize("own", [None, "instance"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_an_attribute_is_put_back_where_it_was(own, error):
    """On the instance where it was there, and off it where only the class has one; after an exception too."""
    owner = Owner()
    if own is not None:
        owner.name = lambda: own
    before = dict(vars(owner))
    try:
        with replaced(owner, "name", lambda: "outer"), replaced(owner, "name", lambda: "inner"):
            assert owner.name() == "inner"
            if error is not None:
                raise error
    except KeyboardInterrupt:
        assert error is KeyboardInterrupt
    assert vars(owner) == before and owner.name() == (own or "class") and not _STACKS


def test_what_is_gone_at_the_end_stays_gone():
    owner = Owner()
    with replaced(owner, "name", lambda: "other"):
        del owner.name
    assert vars(owner) == {} and owner.name() == "class"


def test_the_forward_and_the_parts_of_a_module():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    x, clean, parts = torch.ones(1, 2), module(torch.ones(1, 2)), dict(module.named_modules())
    with replaced(module, "forward", lambda inputs: inputs + 1):
        assert torch.equal(module(x), x + 1)
    assert "forward" not in vars(module) and torch.equal(module(x), clean)
    with replaced(module, "0", torch.nn.Identity()):
        assert isinstance(getattr(module, "0"), torch.nn.Identity)
    assert dict(module.named_modules()) == parts and getattr(module, "0") is parts["0"]


def test_a_step_of_the_scheduler_and_the_lists_of_blocks():
    """Both are the class's or the model's own again after a crash, and pipelines still see the step's signature."""
    import inspect

    scheduler = FlowMatchEulerDiscreteScheduler()
    signature = inspect.signature(scheduler.step)
    with pytest.raises(ZeroDivisionError), replaced_step(scheduler, lambda step: lambda *args, **kwargs: 1 / 0):
        assert inspect.signature(scheduler.step) == signature
        scheduler.step()
    assert "step" not in vars(scheduler)
    dit = dg.load(tiny.flux())
    before, lists = copy.copy(vars(dit.transformer)), [getattr(dit.transformer, r.path) for r in dit.family.lists]
    skip = lambda index, block, record: Passed(block, record) if index == 2 else block  # noqa: E731
    with pytest.raises(ZeroDivisionError), swapped(dit.transformer, dit.family, skip):
        inside = [getattr(dit.transformer, r.path) for r in dit.family.lists]
        assert all(a is not b for a, b in zip(inside, lists, strict=True)) and len(inside[1]) == len(lists[1])
        raise ZeroDivisionError
    assert vars(dit.transformer) == before
    assert all(getattr(dit.transformer, r.path) is b for r, b in zip(dit.family.lists, lists, strict=True))


def test_another_order_is_an_error_that_leaves_noowner():
    owner = Owner()
    outer, inner = replaced(owner, "name", lambda: "outer"), replaced(owner, "name", lambda: "inner")
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="closed in another order"):
        outer.__exit__(None, None, None)
    assert owner.name() == "inner"
    inner.__exit__(None, None, None)
    assert owner.name() == "class" and not vars(owner) and not _STACKS
