"""The edits that act elsewhere than at one block's output, in capture (nnsight) and in modular pipelines."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

import dg_tools as dg
from dg_tools.generation.sampling import run

PROMPT, TWO = "a red apple", {**tiny.CALL, "steps": 2}
EDITS = {
    "gate": dg.Disrupt([3, 7], 1, "gate"),
    "other gates": dg.Disrupt([3, 7], 1, "gate", others=True, draw=2),
    "clean": dg.Disrupt([3, 7], 0, norms="clean"),
    "blocks": dg.Disrupt([3, 7], [0, 2], "dc"),
    "gate clean": dg.Disrupt([3, 7], 0, "gate", steps=[1], norms="clean"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_capture_shows_what_a_run_with_hooks_has(dits, name):
    """The trace reads, and hooks of the test's own read: the same hidden states, the same steps, one of each."""
    edit = EDITS[name]
    for family in ("sd35-medium", "flux"):
        dit = dits(family)
        last, seen = len(dit.blocks) - 1, []
        at = dit.blocks[last].record.image
        acts = dg.capture(dit, PROMPT, seeds=3, edits=edit, guidance=dg.CFG(3.0), raw=[last], progress=False, **TWO)

        def look(m, i, o, at=at, seen=seen):
            seen.append(o[at][-1].clone())

        handle = dit.blocks[last].module.register_forward_hook(look)
        run(dit, PROMPT, seed=3, edits=[edit], guidance=dg.CFG(3.0), **TWO)
        handle.remove()
        # of each step's passes, the clean ones come first; on FLUX the conditional call comes before the other
        if edit.norms == "clean":
            passes = 1 if dit.family.rows == "batched" else 2
            order, kept = [], 0
            for step in range(2):
                for half in range(passes):
                    kept += 1 + (edit.steps is None or step in edit.steps)
                    order += [kept - 1] if half == 0 else []
        else:
            order = [0, 1] if dit.family.rows == "batched" else [0, 2]
        expected = torch.stack([seen[i] for i in order]).numpy()
        found = acts.data["hidden_states"].squeeze().values
        assert np.array_equal(found, expected), name
        assert acts.data.sizes["step"] == 2
        if edit.mode == "gate" and edit.norms == "own":
            gates = acts.data["gate"].isel(site=1).squeeze().dropna("part", how="all").values
            closed = (gates == 0).all(tuple(range(gates.ndim - 1))).nonzero()[0].tolist()
            assert closed == ([3, 7] if not edit.others else sorted(edit.drawn(tiny.WIDTH)[0]))


def test_modular_pipelines_run_the_disrupted_pass_whole():
    dit = dg.load(tiny.sd3())
    modular = StableDiffusion3AutoBlocks().init_pipeline()
    modular.update_components(**dit.pipeline.components)
    modular.set_progress_bar_config(disable=True)
    for edit in EDITS.values():
        if edit.steps is not None:
            continue
        guider = dg.DetailGuidance(3.0, 0.8, edit)
        modular.update_components(guider=guider)
        ours = modular(
            prompt=PROMPT, negative_prompt="", num_inference_steps=2, max_sequence_length=8, output="latents",
            generator=torch.Generator().manual_seed(5), **tiny.SIZE,
        )  # fmt: skip
        theirs, _ = run(dit, PROMPT, seed=5, guidance=guider, **TWO)
        assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4, edit
        assert "forward" not in dit.transformer.__dict__
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in dit.transformer.modules())
