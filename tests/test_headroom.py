"""How near a capture comes to the largest number of a dtype: against plain hooks, and against an overflow."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools import plots


def largest_by_hooks(dit):
    """Largest |x| of block 2's image and text, and of its MLP's output, over one run of the stock pipeline."""
    seen, block = {"image": 0.0, "text": 0.0, "mlp": 0.0}, dit.blocks[2]

    def out(module, args, output):
        for stream in ("image", "text"):
            seen[stream] = max(seen[stream], output[getattr(block.record, stream)].abs().max().item())

    def mlp(module, args, output):
        seen["mlp"] = max(seen["mlp"], output.abs().max().item())

    handles = [block.module.register_forward_hook(out)]
    handles.append(block.module.get_submodule(block.record.mlp).register_forward_hook(mlp))
    try:
        dit.pipeline(**dit.arguments("apple", seed=1, **tiny.CALL), output_type="latent")
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_headroom_equals_plain_hooks(dits):
    dit = dits("sd3")
    table = dg.capture(dit, "apple", seeds=1, progress=False, **tiny.CALL).headroom()
    expected = largest_by_hooks(dit)
    rows = table[table["site"] == dit.sites[2]].set_index("place")
    for place, value in expected.items():
        assert rows.loc[place, "largest"] == pytest.approx(value, rel=1e-6)
        assert rows.loc[place, "octaves"] == pytest.approx(math.log2(65504 / value), rel=1e-6)
    last = table[table["site"] == dit.sites[-1]]
    assert set(last["place"]) == {"image", "attn", "mlp"}  # SD3's last block returns no text
    figure = plots.headroom(table)
    line = next(x for x in figure.axes[0].lines if x.get_label() == "MLP's output")
    assert line.get_ydata()[2] == pytest.approx(expected["mlp"], rel=1e-6)


def test_what_would_overflow_is_below_zero(dits):
    table = dg.capture(dits("flux"), "apple", progress=False, **tiny.CALL).headroom("float8_e4m3fn")
    over = table["largest"] > torch.finfo(torch.float8_e4m3fn).max
    assert ((table["octaves"] < 0) == over).all()


def test_no_floating_dtype(dits):
    acts = dg.capture(dits("sd3"), "apple", progress=False, **tiny.CALL)
    for dtype in ("int8", "half precision"):
        with pytest.raises(ValueError, match="not a floating dtype of torch"):
            acts.headroom(dtype)
