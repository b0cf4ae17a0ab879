"""Blocks compiled by torch's own compiler, inductor: SD3 and FLUX.1 of two blocks, equal to uncompiled ones to 1e-4.

Each kind of block and each number of rows is compiled once, which takes most of the time here: SD3 runs with two rows
and the third of the fork, FLUX.1 with one row. Torch keeps what it compiled for the next time. The rest is in `make
full`.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from compilers import PROMPT, compile_blocks, fresh_compiler, uncompiled
from hand import by_hand
from torch._dynamo.utils import counters

import dg_tools as dg

OFF = dg.Disrupt([3, 7], 0)
CALL = {**tiny.CALL, "seed": 5, "progress": False}
TOLERANCE = 1e-4  # of the largest value
CHEAP = {"compile_threads": 1, "cpp.simdlen": 1, "cpp.vec_isa_ok": True}  # scalar code, and no trial of vector ones


def check_compiler():
    """Say in a sentence what is missing where this machine cannot compile C++ for Python: a failure where CI is set."""
    compiler, header = os.environ.get("CXX", "g++"), Path(sysconfig.get_path("include"), "Python.h")
    missing = [] if shutil.which(compiler) else [f"the C++ compiler {compiler} (Debian: g++)"]
    missing += [] if header.is_file() else [f"Python's headers, {header} (Debian: python3-dev)"]
    if missing:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"torch.compile needs {' and '.join(missing)}, not found on this machine: install it, then run this again")


@pytest.fixture(scope="module")
def compiled():
    """SD3 and FLUX.1 by name, compiled at their first call."""
    check_compiler()
    with fresh_compiler(), torch._inductor.config.patch(CHEAP):
        pipes = {"sd3": tiny.sd3(blocks=2), "flux": tiny.flux(double=1, single=1)}
        yield {name: dg.load(compile_blocks(pipe, dynamic=False)) for name, pipe in pipes.items()}


def near(ours, theirs):
    return (ours - theirs).abs().max() < TOLERANCE * theirs.abs().max()


def latents(dit, **kwargs):
    scale = {"guidance_scale": 3.0, "negative_prompt": ""} if dit.family.name == "sd3" else {}
    size = {"num_inference_steps": 3, "max_sequence_length": 8, **tiny.SIZE}
    generator = torch.Generator().manual_seed(5)
    return dit.pipeline(PROMPT, generator=generator, output_type="latent", **scale, **size, **kwargs)[0]


def test_sd3_with_guidance_and_classifier_free_guidance(compiled):
    dit, seen = compiled["sd3"], []
    guider = dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF)

    def look(pipe, step, timestep, tensors):
        seen.append(counters["stats"]["unique_graphs"])
        return tensors

    counters.clear()
    with dg.detail_guidance(dit, guider):
        ours = latents(dit, callback_on_step_end=look)
    assert seen == [2, 2, 2]
    with uncompiled(dit.transformer):
        plain = latents(dit)
        with by_hand(dit.transformer, 3.0, weight=0.7, channels=[3, 7], block=0):
            theirs = latents(dit)
    assert near(ours, theirs) and not near(plain, theirs)
    with dg.detail_guidance(dit, guider):
        assert torch.equal(latents(dit), ours)
    assert counters["stats"]["unique_graphs"] == 2


def test_flux_edited_captured_and_guided(compiled):
    dit = compiled["flux"]

    def guided():
        with dg.detail_guidance(dit, dg.DetailGuidance(detail_guidance_scale=0.7, disrupt=OFF), way="partial"):
            return latents(dit)

    def all_of_it():
        edited = dg.generate(dit, PROMPT, edits=OFF, **CALL).latents
        captured = dg.capture(dit, PROMPT, edits=OFF, seeds=5, progress=False, **tiny.CALL).data
        return latents(dit), edited, captured, guided()

    counters.clear()
    plain, edited, captured, ours = all_of_it()
    assert counters["stats"]["unique_graphs"] == 2
    with uncompiled(dit.transformer):
        plain_, edited_, captured_, ours_ = all_of_it()
        with by_hand(dit.transformer, 1.0, weight=0.7, channels=[3, 7], block=0):
            theirs = latents(dit)
    assert near(plain, plain_) and near(edited, edited_) and near(ours, ours_) and near(ours, theirs)
    assert not near(edited, plain.view_as(edited) if edited.shape != plain.shape else plain)
    assert not near(ours, plain)
    for name in ("mean", "abs_mean", "token_norm", "gate", "temb"):
        assert np.allclose(captured[name], captured_[name], rtol=1e-3, atol=1e-4, equal_nan=True), name
    assert counters["stats"]["unique_graphs"] == 2
