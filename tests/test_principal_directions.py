"""The first direction over tokens against torch's SVD, on planted channels and planted directions."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.activations import principal_directions
from dg_tools.activations._principal_directions import first_direction

CALL = {**tiny.SIZE, "steps": 2, "max_sequence_length": 8, "progress": False}


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_equal_to_an_svd(scale):
    chance = torch.Generator().manual_seed(0)
    hidden = torch.randn(96, 32, generator=chance) * torch.linspace(1, 2, 32)
    hidden += scale * torch.randn(32, generator=chance)
    direction, share = first_direction(hidden)
    _, values, vectors = np.linalg.svd(hidden.double().numpy(), full_matrices=False)
    assert share == pytest.approx(values[0] ** 2 / (values**2).sum(), rel=1e-3)
    assert abs(direction.double().numpy() @ vectors[0]) > (0.98 if scale < 30 else 0.9999)
    assert torch.equal(direction, first_direction(hidden)[0])


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_by_block_from_plain_hooks(name, dits):
    dit, seen = dits(name), []
    handles = [
        b.module.register_forward_hook(lambda m, a, o: seen.append(o[1][0].double().numpy())) for b in dit.blocks
    ]
    try:
        table = principal_directions(dit, "apple", channels=[3, 5], **CALL)
    finally:
        for handle in handles:
            handle.remove()
    blocks = len(dit.blocks)
    assert table["block"].tolist() == list(range(blocks)) and table["site"].tolist() == dit.sites
    for block in range(blocks):
        runs = [np.linalg.svd(seen[step * blocks + block], full_matrices=False) for step in range(2)]
        first = np.stack([vectors[0] for _, _, vectors in runs])
        row = table.loc[block]
        assert row["on_channels"] == pytest.approx((first[:, [3, 5]] ** 2).sum(1).mean(), abs=1e-3)
        assert row["energy"] == pytest.approx(np.mean([v[0] ** 2 / (v**2).sum() for _, v, _ in runs]), rel=1e-3)
        assert row["same"] == pytest.approx(abs(first[0] @ first[1]), abs=1e-3)
        flat = [seen[step * blocks + block] for step in range(2)]
        known = np.mean([(x[:, [3, 5]] ** 2).sum() / (x**2).sum() for x in flat])
        assert row["channels_energy"] == pytest.approx(known, rel=1e-4)


def test_a_planted_channel_is_the_direction():
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [3], 500.0)
    table = principal_directions(dg.load(pipeline), "apple", channels=[3], **CALL).set_index("block")
    assert table.loc[[1, 2, 3], "on_channels"].min() > 0.9 and table.loc[[1, 2, 3], "channel"].eq(3).all()
    assert table.loc[1, "centred_on_channels"] < 0.2 and table.loc[0, "on_channels"] < 0.5


def test_guided_rows_and_refusals(dits):
    dit = dits("sd3")
    with pytest.raises(IndexError, match="channels .32. requested"):
        principal_directions(dit, "apple", channels=[32], **CALL)
    with pytest.raises(ValueError, match="channels is empty"):
        principal_directions(dit, "apple", channels=[], **CALL)
    with pytest.raises(ValueError, match="empty list of prompts"):
        principal_directions(dit, [], channels=[1], **CALL)
