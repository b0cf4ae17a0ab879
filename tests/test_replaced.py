"""What is replaced is put back: after an exception, for what only the class had, and in whatever order it is closed."""

from __future__ import annotations

import pytest
import torch

from dg_tools.forward.replaced import _STACKS, replaced


class Thing:
    def name(self):
        return "class"


def test_an_attribute_of_the_class_is_not_left_on_the_instance():
    thing = Thing()
    with replaced(thing, "name", lambda: "inside"):
        assert thing.name() == "inside"
    assert thing.name() == "class" and not vars(thing) and not _STACKS


def test_an_attribute_of_the_instance_comes_back_after_an_exception():
    thing = Thing()
    thing.name = own = lambda: "own"
    with pytest.raises(KeyboardInterrupt), replaced(thing, "name", lambda: "inside"):
        raise KeyboardInterrupt
    assert vars(thing) == {"name": own} and not _STACKS


def test_the_forward_of_a_module():
    module = torch.nn.Linear(2, 2)
    x = torch.ones(1, 2)
    plain = module(x)
    with replaced(module, "forward", lambda x: x):
        assert torch.equal(module(x), x)
    assert torch.equal(module(x), plain) and "forward" not in vars(module)


def test_nested_replacements_come_off_one_by_one():
    thing = Thing()
    with replaced(thing, "name", lambda: "outer"):
        with replaced(thing, "name", lambda: "inner"):
            assert thing.name() == "inner"
        assert thing.name() == "outer"
    assert not vars(thing)


def test_another_order_is_an_error_that_leaves_nothing():
    thing = Thing()
    outer, inner = replaced(thing, "name", lambda: "outer"), replaced(thing, "name", lambda: "inner")
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="closed in another order"):
        outer.__exit__(None, None, None)
    assert thing.name() == "inner"
    inner.__exit__(None, None, None)
    assert thing.name() == "class" and not vars(thing) and not _STACKS
