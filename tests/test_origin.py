"""Who writes a channel: a planted writer, and the sum of the writes on every family."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments import open_result, origin
from dg_tools.experiments._origin import elsewhere
from dg_tools.experiments.trajectories import trajectories
from dg_tools.onestep import velocity

PROMPTS = ["apple", "tree", "house"]
CALL = {**tiny.CALL, "measured": 1, "progress": False}


@pytest.fixture(scope="module")
def planted():
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [3, 7], 500.0)
    return dg.load(pipeline)


@pytest.fixture(scope="module")
def result(planted):
    return origin(planted, PROMPTS[:2], [0], channels=[3, 7], block=1, **CALL)


def test_the_planted_writer_is_found_and_causes_the_channel(result):
    assert result.settings["writes_at"] == [1, 1] and "were chosen on" in result.notes[0]
    assert result.primary.status == "holds" and result.primary.estimate > 0.9 and result.primary.rank == 20
    assert result.outcome("one block writes it").estimate > 0.8
    assert result.outcome("not the embedding").status in ("holds", "no more than controls")
    written = result.table.query("block == 1 and writer == 'MLP'")
    assert np.allclose(written["write"], 500, rtol=1e-4) and np.allclose(written["size"], 500, rtol=1e-4)
    elsewhere_ = result.outcome("gate there, not elsewhere")
    assert len(elsewhere_.null) == 9 and max(elsewhere_.null) < 0.5  # three other blocks for each of two channels
    assert any("9 other places" in note for note in result.notes) and elsewhere_.status == "too few controls"
    healing = result.tables["healing"].query("kind == 'zeroed'").groupby("block")["relative"].mean()
    assert healing[1] == 0 and healing[3] < 0.5 and result.outcome("does not heal").estimate < 0.5


def test_the_gate_is_zeroed_as_a_plain_hook_would(planted, result):
    """The size at the end with both gates of block 1 at zero in channel 3 and 7, against `gates`."""
    part = next(
        trajectories(planted, PROMPTS[:2], [0], steps=3, keep=[0], progress=False, **tiny.SIZE, max_sequence_length=8)
    )
    _, sigma, z = part.steps[0]
    blocks, sizes = planted.transformer.transformer_blocks, []

    def ungate(module, inputs, output):
        output = output.clone()
        for chunk in (2, 5):  # gate_msa, gate_mlp
            output[:, [chunk * tiny.WIDTH + c for c in (3, 7)]] = 0
        return output

    handles = [blocks[3].register_forward_hook(lambda m, i, o: sizes.append(o[1][..., [3, 7]].abs().mean(1)))]
    velocity(planted, z, sigma, part.inputs)
    handles.append(blocks[1].norm1.linear.register_forward_hook(ungate))
    velocity(planted, z, sigma, part.inputs)
    for handle in handles:
        handle.remove()
    removed = result.tables["gates"].query("kind == 'own block'")["removed"].item()
    assert removed == pytest.approx((1 - sizes[1] / sizes[0]).mean().item(), rel=1e-3)


def test_writes_add_up_to_the_stream_on_every_family(dit):
    result = origin(dit, PROMPTS[:2], [0], channels=[5], controls=2, guidance_scale=2.0, **CALL)
    assert result.tables["sums"]["largest_difference"].item() < 1e-5
    total = result.table.groupby(["prompt", "seed", "sigma", "channel"])["write"].sum()
    final = result.table.groupby(["prompt", "seed", "sigma", "channel"])["final"].first()
    assert np.allclose(total, final, rtol=1e-3, atol=1e-4)
    writers = set(result.table["writer"])
    assert ("joint" in writers) == (dit.family.name == "flux") and ("position" in writers) == (dit.family.name == "sd3")
    assert ("attention 2" in writers) == bool(getattr(dit.transformer.config, "dual_attention_layers", None))


def test_a_channel_that_no_block_writes_gives_a_no():
    pipeline = tiny.sd3()
    with torch.no_grad():  # the positions write it, and no gate lets a block do so
        pipeline.transformer.pos_embed.proj.bias[3] = 300
        for block in pipeline.transformer.transformer_blocks:
            for chunk in (2, 5):
                block.norm1.linear.weight[chunk * tiny.WIDTH + 3] = 0
                block.norm1.linear.bias[chunk * tiny.WIDTH + 3] = 0
    result = origin(dg.load(pipeline), PROMPTS[:2], [0], channels=[3], controls=2, **CALL)
    assert result.primary.estimate == pytest.approx(0, abs=1e-4) and result.primary.status == "fails"
    assert result.outcome("not the embedding").estimate == pytest.approx(1, abs=1e-3)


def test_saved_and_drawn(result, tmp_path):
    result.save(tmp_path)
    axes = open_result(tmp_path).plot().axes
    assert len(axes) == 5 and "Channel 3" in axes[0].get_title() and axes[0].get_xticklabels()[0].get_text() == "in"


def test_who_reads_the_channel_by_hand(dit):
    """Norm of the weights at the channel times |1 + scale|, each over the median channel's, from the modules alone."""
    found = origin(dit, PROMPTS[:2], [0], channels=[5], controls=2, **CALL).tables["readers"]
    part = next(
        trajectories(dit, PROMPTS[:2], [0], steps=3, keep=[0], progress=False, **tiny.SIZE, max_sequence_length=8)
    )
    chunks: dict[int, torch.Tensor] = {}

    def keep(index):
        return lambda module, args, output: chunks.update({index: output.unflatten(-1, (-1, tiny.WIDTH))})

    linears = [(b.module.norm1 if hasattr(b.module, "norm1") else b.module.norm).linear for b in dit.blocks]
    handles = [linear.register_forward_hook(keep(i)) for i, linear in enumerate(linears)]
    _, sigma, z = part.steps[0]
    velocity(dit, z, sigma, part.inputs)
    for handle in handles:
        handle.remove()
    table = found.set_index(["block", "reader"])
    for i, block in enumerate(dit.blocks):
        module, single = block.module, not hasattr(block.module, "norm1")
        layers = {"q": (module.attn.to_q, 1), "k": (module.attn.to_k, 1), "v": (module.attn.to_v, 1)}
        layers["MLP"] = (module.proj_mlp, 1) if single else (module.ff.net[0].proj, 4)
        if getattr(module, "attn2", None) is not None:
            layers |= {"q 2": (module.attn2.to_q, 7), "k 2": (module.attn2.to_k, 7), "v 2": (module.attn2.to_v, 7)}
        assert set(table.loc[i].index) == set(layers)
        for reader, (layer, chunk) in layers.items():
            norm = layer.weight.detach().double().square().sum(0).sqrt().numpy()
            scale = (1 + chunks[i][:, chunk].double()).abs().mean(0).numpy()
            row = table.loc[(i, reader)]
            assert row["weight"] == pytest.approx(norm[5] / np.median(norm), rel=1e-4)
            assert row["scale"] == pytest.approx(scale[5], rel=1e-3)
            assert row["read"] == pytest.approx(norm[5] * scale[5] / np.median(norm * scale), rel=1e-3)


def test_elsewhere_gives_distinct_other_blocks():
    places = elsewhere(12, [1, 11], 20)
    assert len(set(places)) == 20 and all(a != 1 and b != 11 for a, b in places)
    assert places == elsewhere(12, [1, 11], 20)
    assert len(elsewhere(4, [2], 20)) == 3


def test_bad_input_is_refused_before_any_forward(planted):
    for arguments, error, words in (
        ({"controls": 0}, ValueError, "controls=0"),
        ({"measured": 4}, ValueError, "this run has 3 steps: pass 1 to 3"),
        ({"channels": [32]}, IndexError, r"channels \[32\] requested"),
        ({"prompts": ["apple"]}, ValueError, "needs at least 2"),
        ({"prompts": []}, ValueError, "empty list of prompts"),
        ({"seeds": []}, ValueError, "empty list of seeds"),
        ({"block": 9}, IndexError, "block 9 requested"),
    ):
        with pytest.raises(error, match=words):
            origin(planted, **{"prompts": PROMPTS, "seeds": [0], "channels": [3], **CALL, **arguments})
