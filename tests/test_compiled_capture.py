"""Captures of compiled blocks: the same numbers as uncompiled ones, read around the compiled code."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tiny
import torch
from compilers import Subject, fresh_compiler

import dg_tools as dg

OFF = dg.Disrupt([3, 7], 1)
CALL = {**tiny.CALL, "seeds": 5, "progress": False}
BRANCHES = {"attn_write", "mlp_write", "attn_max", "mlp_max"}  # what leaves no compiled block


@pytest.fixture(scope="module", params=["sd3", "flux"])
def subject(request):
    with fresh_compiler():
        yield Subject(request.param, dynamic=False)


def same(ours, theirs):
    """All variables but those of the branches, bit for bit."""
    assert set(theirs.data) - set(ours.data) == BRANCHES & set(theirs.data)
    for name in ours.data:
        assert np.array_equal(ours.data[name], theirs.data[name], equal_nan=True), name
    assert ours.data.attrs["left_out"] == "attn_write, mlp_write, attn_max, mlp_max of compiled blocks"
    assert "left_out" not in theirs.data.attrs


KINDS = {
    "plain": {"raw": [1]},
    "CFG, both branches": {"guidance": dg.CFG(3.0), "rows": "all", "quantiles": (0.5,)},
    "edited": {"edits": [OFF, dg.Disrupt([2], 0, "scale", rho=1.5, steps=[1])]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_capture_equals_one_of_uncompiled_blocks(subject, kind):
    def captured():
        return dg.capture(subject.dit, "apple", **CALL, **KINDS[kind])

    ours, _, calls = subject.counted(captured)
    theirs, blocks = subject.eager(captured)
    same(ours, theirs)
    assert calls == blocks
    again, graphs, _ = subject.counted(captured)
    assert graphs == 0 and np.array_equal(again.data["mean"], ours.data["mean"], equal_nan=True)


def test_gates_are_captured_after_their_edit(subject):
    edit = dg.Disrupt([3], 1, "gate")
    ours = dg.capture(subject.dit, "apple", edits=edit, **CALL)
    theirs, _ = subject.eager(lambda: dg.capture(subject.dit, "apple", edits=edit, **CALL))
    same(ours, theirs)
    gates = ours.data["gate"].isel(site=1, channel=3).values
    assert (gates[~np.isnan(gates)] == 0).all()


def test_what_is_left_out_is_said(subject, caplog):
    with caplog.at_level(logging.WARNING, logger="dg_tools"):
        dg.capture(subject.dit, "apple", **CALL)
    assert "not captured: attn_write, mlp_write, attn_max, mlp_max of compiled blocks" in caplog.text


def test_a_capture_within_a_guidance(subject):
    guider = dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF)

    def captured():
        with dg.detail_guidance(subject.dit, guider):
            return dg.capture(subject.dit, "apple", guidance=dg.CFG(3.0), **CALL)

    same(captured(), subject.eager(captured)[0])


def test_pictures_are_captured(subject):
    picture = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def captured():
        return dg.capture_image(
            subject.dit, picture, sigma=[0.3, 0.6], edits=OFF, progress=False, max_sequence_length=8
        )

    same(captured(), subject.eager(captured)[0])


def test_features_equal_those_of_uncompiled_blocks(subject):
    picture = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def features():
        return dg.features(subject.dit, picture, block=1, sigma=0.5, recipe="adaln", max_sequence_length=8)

    assert torch.equal(features(), subject.eager(features)[0])
