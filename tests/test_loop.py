"""The loop against the pipeline's own call, its counts against plain hooks, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments.loop import sample

OFF = dg.Disrupt([3, 7], 1)
S, W = 3.0, 0.5

RULES = {
    "cond": (lambda at: at["c"], None),
    "CFG": (lambda at: at["u"] + S * (at["c"] - at["u"]), dg.CFG(S)),
    "DG": (lambda at: at["c"] + W * (at["c"] - at["d"]), dg.DetailGuidance(1.0, W, disrupt=OFF)),
    "DG+CFG": (
        lambda at: at["u"] + S * (at["c"] - at["u"]) + W * (at["c"] - at["d"]),
        dg.DetailGuidance(S, W, disrupt=OFF),
    ),
}


def difference(x, y):
    return (x - y).abs().max().item() / y.abs().max().item()


@pytest.mark.parametrize("name", RULES)
def test_latents_are_the_pipelines_own_on_every_family(dit, name):
    rule, guidance = RULES[name]
    theirs = dg.generate(dit, ["apple", "a tree"], seed=[4, 5], guidance=guidance, progress=False, **tiny.CALL)
    pairs = [(p, s) for p in ("apple", "a tree") for s in (4, 5)]
    ours = sample(dit, *map(list, zip(*pairs, strict=True)), rule, sources={"d": OFF}, batch=3, **tiny.CALL)
    assert ours.latents.shape == (4, 4, 16, 24)
    assert difference(ours.latents, theirs.latents) < 1e-4
    assert ours.cost.block_calls == sum(theirs.block_calls)


def test_same_batch_shape_is_bit_equal(dit):
    theirs = dg.generate(dit, "apple", seed=4, progress=False, **tiny.CALL)
    ours = sample(dit, ["apple"], [4], RULES["cond"][0], **tiny.CALL)
    assert torch.equal(ours.latents, theirs.latents)
    again = sample(dit, ["apple"], [4], RULES["cond"][0], **tiny.CALL)
    assert torch.equal(ours.latents, again.latents)
