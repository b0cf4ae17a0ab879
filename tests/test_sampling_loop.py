"""The loop against the pipeline's own call, its counts against plain hooks, and what it refuses."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments.directions import noised_copy
from dg_tools.experiments.sampling_loop import sample

OFF = dg.Disrupt([3, 7], 1)
S, W = 3.0, 0.5

RULES = [
    (lambda at: at["c"], None),
    (lambda at: at["u"] + S * (at["c"] - at["u"]), dg.CFG(S)),
    (lambda at: at["c"] + W * (at["c"] - at["d"]), dg.DetailGuidance(1.0, W, disrupt=OFF)),
    (
        lambda at: at["u"] + S * (at["c"] - at["u"]) + W * (at["c"] - at["d"]),
        dg.DetailGuidance(S, W, disrupt=OFF),
    ),
]
PICTURES = (["apple", "apple", "a tree"], [4, 5, 4])


def velocities_only(dit):
    if dit.family.prediction != "velocity":
        pytest.skip("the loop is for velocities")


def difference(x, y):
    return (x - y).abs().max().item() / y.abs().max().item()


def test_latents_are_the_pipelines_own_on_every_family(dit):
    velocities_only(dit)
    for rule, guidance in RULES:
        call = {"guidance": guidance, "progress": False, "negative_prompt": "grey", **tiny.CALL}
        if guidance is None or guidance.guidance_scale <= 1:
            del call["negative_prompt"]
        theirs = [dg.generate(dit, p, seed=s, **call) for p, s in zip(*PICTURES, strict=True)]
        ours = sample(dit, *PICTURES, rule, sources={"d": OFF}, batch=2, negative_prompt="grey", **tiny.CALL)
        assert ours.latents.shape == (3, 4, 16, 24)
        assert difference(ours.latents, torch.cat([x.latents for x in theirs])) < 1e-4
        assert ours.cost.block_calls == sum(x.block_calls[0] for x in theirs)
        if guidance is None:
            assert not torch.equal(ours.latents[0], ours.latents[1])


def test_same_batch_shape_is_bit_equal(dit):
    velocities_only(dit)
    theirs = dg.generate(dit, "apple", seed=4, progress=False, **tiny.CALL)
    for _ in range(2):
        assert torch.equal(sample(dit, ["apple"], [4], RULES[0][0], **tiny.CALL).latents, theirs.latents)


def test_counts_are_what_plain_hooks_count(dits):
    dit, counted, rows = dits("flux"), [0], 2
    weak = noised_copy(dit.transformer, 0.1)
    mine = [b for r in dit.family.lists for t in (dit.transformer, weak) for b in getattr(t, r.path)]
    handles = [
        b.register_forward_pre_hook(lambda m, a, k: counted.__setitem__(0, counted[0] + rows), with_kwargs=True)
        for b in mine
    ]
    disrupted = {"d": OFF, "several": dg.Disrupt([3], [0, 2]), "weak": weak}
    try:
        sampled = sample(
            dit,
            ["a", "b"],
            [0, 1],
            lambda at: at["c"] + at["d"] + at["several"] + at["weak"],
            sources=disrupted,
            **tiny.CALL,
        )
    finally:
        for handle in handles:
            handle.remove()
    assert sampled.cost.block_calls == 3 * 2 * (5 + 3 + 5 + 5) == counted[0]  # a kept block's stub has no pre-hooks
    assert sampled.cost.forwards == 3 * 2 * 4


def test_a_prediction_is_computed_once_a_step_and_what_is_only_watched_is_counted_apart(dits):
    dit, observed = dits("sd3"), []

    def observe(at, velocity):
        assert at["c"] is at["c"] and torch.equal(velocity, at["c"])
        observed.append((at.step, at.steps, list(at.pictures), at["u"].shape))

    plain = sample(dit, *PICTURES, RULES[0][0], batch=2, **tiny.CALL)
    with_observer = sample(dit, *PICTURES, RULES[0][0], batch=2, observe=observe, **tiny.CALL)
    assert torch.equal(plain.latents, with_observer.latents)
    assert with_observer.cost == plain.cost and with_observer.cost.forwards == 9 == with_observer.observed.forwards
    assert [s[:3] for s in observed[2:4]] == [(2, 3, [0, 1]), (0, 3, [2])] and observed[0][3] == (2, 4, 16, 24)


def test_nothing_is_left_after_an_exception(dits):
    dit = dits("sd3")

    def broken(at):
        _ = at["d"]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        sample(dit, ["a"], [0], broken, sources={"d": OFF}, **tiny.CALL)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in dit.transformer.modules())
    assert len(dit.transformer.transformer_blocks) == 4


def test_bad_input_is_refused(dits):
    dit, cond = dits("sd3"), RULES[0][0]
    for message, change in (
        ("no prompts", {"prompts": []}),
        ("2 prompts and 1 seed:", {"prompts": ["a", "b"]}),
        ("steps=0", {"steps": 0}),
        ("batch=0", {"batch": 0}),
        ("choose other names", {"sources": {"c": OFF}}),
        ("a source is a Linear", {"sources": {"t": torch.nn.Linear(2, 2)}}),
    ):
        call = {**tiny.CALL, "prompts": ["a"], "seeds": [0], **change}
        with pytest.raises(ValueError, match=message):
            sample(dit, call.pop("prompts"), call.pop("seeds"), cond, **call)
    with pytest.raises(IndexError, match="there are 0 to 3"):
        sample(dit, ["a"], [0], cond, sources={"d": dg.Disrupt([3], 9)}, **tiny.CALL)
    with pytest.raises(KeyError, match="there are"):
        sample(dit, ["a"], [0], lambda at: at["x"], **tiny.CALL)
