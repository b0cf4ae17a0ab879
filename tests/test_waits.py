"""A guided or edited run waits for the device once a run, and not once a step: a value that is read makes it wait."""

from __future__ import annotations

import sys

import pytest
import tiny
import torch

import dg_tools as dg

OFF = dg.Disrupt([3, 7], 1)
CONTEXTS = {
    "guidance": lambda pipe: dg.detail_guidance(pipe, dg.DetailGuidance(None, 0.7, OFF)),
    "edit": lambda pipe: OFF.on(pipe),
}


@pytest.fixture
def reads(monkeypatch):
    """Every line of the package that reads a value from a tensor."""
    found = []

    def counted(name):
        own = getattr(torch.Tensor, name)

        def read(tensor, *args):
            frame = sys._getframe(1)
            if "/dg_tools/" in frame.f_code.co_filename.replace("\\", "/"):
                found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {name}")
            return own(tensor, *args)

        monkeypatch.setattr(torch.Tensor, name, read)

    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "numpy", "cpu"):
        counted(name)
    return found


@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_more_steps_read_no_more(reads, name, kind):
    pipe = tiny.PIPELINES[name]()
    scale = {"true_cfg_scale" if name == "flux" else "guidance_scale": 3.0, "negative_prompt": ""}
    counts = []
    for steps in (2, 5):
        reads.clear()
        with CONTEXTS[kind](pipe):
            pipe("a", num_inference_steps=steps, max_sequence_length=8, output_type="latent", **scale, **tiny.SIZE)
        counts.append(len(reads))
    assert 0 < counts[0] == counts[1], reads
