"""Baselines in the guidance experiment: the loop's predictions are the pipeline's, each method is searched alike."""

from __future__ import annotations

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments._guidance import guidance
from dg_tools.experiments.directions import GuidanceRule
from dg_tools.experiments.guidance_plan import block_calls
from dg_tools.experiments.sampling_loop import sample
from dg_tools.generation.sampling import run
from dg_tools.guidance.baselines import PAG, SEG, SLG, DetailDaemon, Gain

CALL = {**tiny.CALL, "steps": 2}


@pytest.mark.parametrize("name", ["sd3", "sd35-medium", "flux"])
@pytest.mark.parametrize("kind", [PAG, SLG, SEG])
@pytest.mark.parametrize("block", [0, 2])
def test_the_loop_gives_the_pipelines_latents_at_the_same_cost(dits, name, kind, block):
    dit, baseline = dits(name), kind(3.0, 0.5, blocks=block)
    rule = GuidanceRule("baseline", 3.0, 0.5, degraded="x")
    ours = sample(dit, ["apple"], [4], rule, sources={"x": baseline}, **CALL)
    theirs, count = run(dit, "apple", seed=4, guidance=baseline, **CALL)
    theirs = theirs if theirs.ndim == 4 else dit.family.latents.unpack(dit.pipeline, theirs, 32, 48)
    assert (ours.latents - theirs).abs().max() / theirs.abs().max() < 1e-4
    assert ours.cost.block_calls == count.block_calls == block_calls(rule, {"x": baseline}, len(dit.blocks), 2)


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("guider", [Gain(gain=1.2), Gain(gain=1.1, of="x0"), DetailDaemon(amount=0.5)])
def test_what_costs_no_pass_gives_the_pipelines_latents_too(dits, name, scale, guider):
    dit, call = dits(name), {**CALL, "steps": 3}
    theirs = type(guider).from_config({**guider.config, "guidance_scale": scale})
    theirs, count = run(dit, "apple", seed=4, guidance=theirs, **call)
    theirs = theirs if theirs.ndim == 4 else dit.family.latents.unpack(dit.pipeline, theirs, 32, 48)
    ours = sample(dit, ["apple"], [4], GuidanceRule("x", scale, one_pass=guider), **call)
    assert (ours.latents - theirs).abs().max() / theirs.abs().max() < 1e-4
    assert ours.cost.block_calls == count.block_calls
    half = GuidanceRule("x", scale, one_pass=guider, window=(0.0, 0.5))
    plain, half = (sample(dit, ["apple"], [4], r, **call).latents for r in (GuidanceRule("x", scale), half))
    assert not torch.equal(plain, ours.latents) and not torch.equal(half, plain)
    assert torch.equal(half, ours.latents) == isinstance(guider, DetailDaemon)  # its bump lies within


def test_every_method_has_the_same_budget(dits):
    chance = torch.Generator().manual_seed(1)
    pairs = [(word, torch.rand(3, 32, 48, generator=chance) * 2 - 1) for word in ("apple", "tree")]
    result = guidance(
        dits("sd3"),
        pairs,
        [0, 1],
        channels=[3, 7],
        block=1,
        steps=2,
        controls=1,
        scales=[1.0],
        windows=[(0.5, 1.0)],
        baselines=["PAG", "SLG", "blur"],
        progress=False,
        max_sequence_length=8,
    )
    search = result.tables["search"]
    assert search.groupby("method")["rule"].count().to_dict() == {"DG": 4, "PAG": 4, "SLG": 4, "blur": 3}
    places = {m: set(search.query("method == @m")["varied"]) for m in ("PAG", "SLG")}
    assert places["PAG"] == places["SLG"] == {"block 2", "block 1", "w = 1", "in 0.5 to 1"}
    calls = search.set_index("rule")["block_calls"]
    assert calls["CFG 3 + PAG 0.5"] == 2 * (8 + 2) and calls["CFG 3 + SLG 0.5, block 1"] == 2 * (8 + 2)
    assert calls["CFG 3 + blur 0.5"] == 2 * 8
    assert set(search["base"]) == {"CFG 3"} and set(search["rule"]) <= set(result.table["rule"])
    assert any("4 tried" in line and "PAG" in line for line in result.notes)
    assert len(result.plot().axes) == 7


def test_unknown_baselines_and_families_without_the_layout_are_refused(dits):
    picture = torch.full((3, 32, 48), -0.5)
    for names in (["CADS"], ["PAG", "PAG"]):
        with pytest.raises(ValueError, match="some of PAG, SLG, SEG, SoftPAG, blur, noised twin"):
            guidance(dits("sd3"), [("a", picture), ("b", picture)], channels=[1], baselines=names, progress=False)
    dit = dg.load(tiny.families()["auraflow"].pipeline())
    with pytest.raises(ValueError, match="this model is of family 'auraflow'"):
        guidance(dit, [("a", picture), ("b", picture)], channels=[1], baselines=["SEG"], progress=False)
