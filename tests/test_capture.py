"""Captured statistics against plain hooks and plain torch, on every family."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.activations import reduce
from dg_tools.datasets.examples import Example


def hooked(dit, prompt, seed, s):
    """Block outputs, AdaLN linears and MLP outputs of one run of the stock pipeline, by call."""
    calls, handles = [], []

    def begin(module, args, kwargs):
        calls.append({"out": [], "mod": [], "mlp": [], "attn": []})

    handles.append(dit.transformer.register_forward_pre_hook(begin, with_kwargs=True))
    for block in dit.blocks:
        record, module = block.record, block.module
        put = lambda key: lambda m, i, o: calls[-1][key].append(o)  # noqa: E731
        handles.append(module.get_submodule(record.adaln).register_forward_hook(put("mod")))
        handles.append(module.get_submodule(record.mlp).register_forward_hook(put("mlp")))
        if record.attn:
            handles.append(module.get_submodule(record.attn).register_forward_hook(put("attn")))
        handles.append(module.register_forward_hook(put("out")))
    try:
        arguments = dit.arguments(prompt, seed=seed, **tiny.CALL, guidance_scale=s)
        dit.pipeline(**arguments, output_type="latent")
    finally:
        for handle in handles:
            handle.remove()
    return calls


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_statistics_equal_plain_hooks(dit, s):
    guidance = dg.CFG(s) if s > 1 else None
    acts = dg.capture(
        dit,
        ["apple", "tree"],
        seeds=[0, 3],
        guidance=guidance,
        rows="all",
        raw=[1, len(dit.blocks) - 1],
        progress=False,
        **tiny.CALL,
    )
    calls = hooked(dit, "tree", 3, s)
    data = acts.data.sel(prompt="tree", seed=3)
    sequential = dit.family.rows == "sequential" and s > 1
    assert list(acts.data.branch.values) == (["cond", "uncond"] if s > 1 else ["cond"])
    for step in range(3):
        for branch in acts.data.branch.values:
            if sequential:
                call, row = calls[2 * step + (branch == "uncond")], 0
            else:
                call, row = calls[step], int(s > 1 and branch == "cond")
            for block in dit.blocks:
                k, record = block.index, block.record
                x = call["out"][k][record.image][row]
                at = data.sel(branch=branch, step=step, stream="image").isel(site=k)
                same = lambda name, value, at=at: np.array_equal(at[name].values, value.float().numpy())  # noqa: E731
                assert same("mean", x.mean(0)) and same("abs_mean", x.abs().mean(0))
                assert same("token_norm", x.norm(dim=1)) and same("abs_max", x.abs().amax(0))
                assert at["top_value"].values[0] == x.flatten()[x.abs().argmax()].item()
                channel, token = int(at["top_channel"].values[0]), int(at["top_token"].values[0])
                assert x[token, channel].item() == at["top_value"].values[0]
                assert at["clipped"].item() == 0
                chunks = record.chunks(block.module)
                mods = dict(zip(chunks, call["mod"][k].chunk(len(chunks), dim=1), strict=True))
                gate = mods[record.mlp_gate][row]
                part = record.mlp_gate.partition("_")[2] or "all"
                assert np.array_equal(at["gate"].sel(part=part).values, gate.numpy())
                written = call["mlp"][k][row][-len(x) :]  # FLUX single blocks write text and image tokens at once
                assert np.allclose(at["mlp_write"], (gate * written).abs().mean(0), rtol=1e-5, atol=0)
                text = call["out"][k][record.text]
                other = data.sel(branch=branch, step=step, stream="text").isel(site=k)["abs_mean"].values
                expected = np.full(dit.width, np.nan) if text is None else text[row].abs().mean(0).numpy()
                assert np.array_equal(other, expected, equal_nan=True)
            for site in (1, len(dit.blocks) - 1):
                raw = data["hidden_states"].sel(branch=branch, raw_step=step, raw_site=dit.sites[site]).values
                assert np.array_equal(raw, call["out"][site][dit.blocks[site].record.image][row].numpy())
    sigmas = acts.data.sigma.values
    assert sigmas[0] == 1.0 and (np.diff(sigmas) < 0).all()


def test_the_picture_is_the_pipelines_own(dit):
    acts = dg.capture(dit, "apple", seeds=2, progress=False, **tiny.CALL)
    image = dg.generate(dit, "apple", seed=2, progress=False, **tiny.CALL).images[0]
    assert np.array_equal(acts.data["picture"].squeeze().values, np.asarray(image))
    assert acts.grid == (8, 12)


def test_capture_sees_edits(dit):
    off = dg.Disrupt([2], 1)
    acts = dg.capture(dit, "apple", edits=off, progress=False, **tiny.CALL)
    size = acts.data["abs_mean"].sel(stream="image").isel(site=1).squeeze().values
    assert (size[:, 2] == 0).all() and (size[:, 3] > 0).all()
    made = dg.generate(dit, "apple", edits=off, progress=False, **tiny.CALL)
    assert np.array_equal(acts.data["picture"].squeeze().values, np.asarray(made.images[0]))
    assert acts.data.attrs["edits"] == [off.sentence()]


def test_prompts_of_every_form(dits):
    items = ["apple", Example("tree"), ("owl", np.zeros((32, 48, 3), np.uint8))]
    acts = dg.capture(dits("sd3"), items, steps=1, **tiny.SIZE, progress=False, max_sequence_length=8)
    assert list(acts.data["prompt"].values) == ["apple", "tree", "owl"]


def test_save_and_open(dits, tmp_path):
    acts = dg.capture(dits("sd3"), ["apple", "tree"], raw=[0], raw_steps=[1], progress=False, **tiny.CALL)
    acts.save(tmp_path / "a.zarr")
    again = dg.open_activations(tmp_path / "a.zarr")
    assert again.data.load().equals(acts.data)
    assert again.grid == (8, 12) and again.data.attrs["steps"] == 3
    assert set(acts.to_dataframe("median_abs_mean")) >= {"prompt", "seed", "step", "sigma", "median_abs_mean"}
    with pytest.raises(FileNotFoundError, match="holds no activations"):
        dg.open_activations(tmp_path / "nothing")


def test_a_clipped_value_is_counted():
    from dg_tools.activations import statistics

    x = torch.zeros(4, 8, dtype=torch.float16)
    x[1, 2], x[2, 3] = 65504.0, float("nan")
    assert statistics(x)["clipped"] == 2


def test_what_is_not_finite_is_clipped():
    x = torch.randn(2, 5, 3)
    x[0, 1, 2], x[1, 0, 0], x[1, 4, 1] = torch.nan, torch.inf, -torch.inf
    assert reduce.statistics(x)["clipped"].tolist() == [1, 2]


def test_the_order_of_variables_is_always_the_same(dit, monkeypatch):
    whole = dg.capture(dit, "red apple", seeds=0, steps=2, progress=False).data
    monkeypatch.setattr(reduce, "BITE", 100)  # each block is reduced on its own, and none waits for the end of a call
    parts = dg.capture(dit, "red apple", seeds=0, steps=2, progress=False).data
    assert list(parts.sizes) == list(whole.sizes) and list(parts) == list(whole)
    assert list(whole["stream"].values) == ["image", "text"]
