"""What sets the size: models whose modulation knows only the time, or only the prompt, and the swap written out."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments import open_result, timestep
from dg_tools.experiments.modulation_swap import relative
from dg_tools.experiments.timestep_outcomes import ranks, shares, slopes

PROMPTS = ["apple", "tree", "house"]
CALL = {**tiny.CALL, "measured": 3, "swaps": 2, "progress": False, "channels": [5], "controls": 20}


def knowing(what: str, name: str = "sd3"):
    """A tiny DiT whose time-text embedding holds one of the two only."""
    pipeline = tiny.PIPELINES[name]()
    embed = pipeline.transformer.time_text_embed
    silent = embed.text_embedder if what == "time" else embed.timestep_embedder
    with torch.no_grad():
        silent.linear_2.weight.zero_()
        silent.linear_2.bias.zero_()
    return dg.load(pipeline)


@pytest.fixture(scope="module")
def timed():
    return knowing("time")


@pytest.fixture(scope="module")
def result(timed):
    return timestep(timed, PROMPTS, [0, 1], block=1, **CALL)


def swaps(result, swap: str, reach: str = "blocks up to it") -> float:
    table = result.tables["swaps"].query("swap == @swap and reach == @reach and kind == 'massive'")
    return table["change"].mean()


def test_modulation_that_knows_the_time_only(result):
    assert swaps(result, "prompt") < 1e-5 < 1e-2 < swaps(result, "timestep")
    assert swaps(result, "prompt", "the block alone") < 1e-5 < swaps(result, "timestep", "the block alone")
    primary = result.primary
    assert primary.name == "time over prompt" and primary.estimate > 5 and primary.low > 1 and len(primary.null) == 20
    assert len(result.table) == 3 * 2 * 3 * 4


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_modulation_that_knows_the_prompt_only_gives_a_no(name):
    result = timestep(knowing("prompt", name), PROMPTS[:2], [0], block=1, **{**CALL, "controls": 2})
    assert swaps(result, "timestep") < 1e-5 < 1e-3 < swaps(result, "prompt")
    assert result.primary.status == "fails" and result.verdict.startswith("Does not hold")


def test_every_family(dit):
    result = timestep(dit, PROMPTS[:2], [0], **{**CALL, "measured": 2, "controls": 2}, guidance_scale=2.0)
    block = len(dit.blocks) // 2
    assert result.settings["block"] == block and not result.table.isna().any().any()
    parts = [n for n in dit.blocks[block].record.chunks(dit.blocks[block].module) if n.startswith("gate")]
    assert list(result.tables["gates"]["part"].unique()) == parts
    assert swaps(result, "timestep") > 0 and swaps(result, "prompt") > 0


def test_the_swap_written_out(dits):
    """SD3, block 0: the change of one channel for one pair of prompts, by a hook of its own."""
    dit = dits("sd3")
    settings = {**CALL, "steps": 1, "measured": 1, "controls": 2}
    with pytest.raises(ValueError, match="two noise levels"):
        timestep(dit, PROMPTS[:2], [0], block=0, **settings)
    result = timestep(dit, PROMPTS[:2], [0], block=0, **{**settings, "steps": 2, "measured": 2, "swaps": 1})
    model, latents = dit.transformer, []
    handle = model.register_forward_pre_hook(
        lambda m, a, k: latents.append((k["hidden_states"].clone(), k["timestep"].clone())), with_kwargs=True
    )
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    dit.pipeline(
        PROMPTS[:2],
        generator=generators,
        num_inference_steps=2,
        guidance_scale=1.0,
        max_sequence_length=8,
        **tiny.SIZE,
        output_type="latent",
    )
    handle.remove()
    embeds, _, pooled, _ = dit.pipeline.encode_prompt(
        PROMPTS[:2], None, None, do_classifier_free_guidance=False, max_sequence_length=8
    )
    changes = []
    for z, t in latents:
        sizes = []
        for other in (pooled, pooled.flip(0)):
            temb = model.time_text_embed(t, other)
            with torch.no_grad():
                context = model.context_embedder(embeds)
                _, image = model.transformer_blocks[0](model.pos_embed(z), context, temb)
            sizes.append(relative(image.abs().mean(1).numpy())[:, 5])
        changes.append(np.abs(sizes[1] - sizes[0]))
    ours = result.tables["swaps"].query("swap == 'prompt' and kind == 'massive'")["change"].to_numpy()
    assert np.allclose(ours, np.mean(changes, 0), rtol=1e-2, atol=1e-4) and ours.min() > 1e-3


def test_shares_slopes_and_ranks_on_known_numbers():
    by_time = np.broadcast_to(np.array([0.0, 1, 2]), (4, 2, 3))
    assert np.allclose(shares(by_time), [1, 0, 0, 0])
    by_prompt = np.broadcast_to(np.arange(4.0)[:, None, None], (4, 2, 3))
    assert np.allclose(shares(by_prompt), [0, 1, 0, 0]) and np.allclose(shares(by_time + by_prompt).sum(), 1)
    assert np.allclose(slopes(by_time, [1.0, 0.5, 0.0]), -2)
    gates = {"gate": np.broadcast_to(np.array([1.0, 5, 2, 3]), (2, 1, 1, 4))}
    assert ranks(gates, [1]).tolist() == [1, 1] and ranks(gates, [0]).tolist() == [0, 0]
    assert relative(np.array([1.0, 2, 8]))[2] == 2


def test_same_call_same_bytes_saved_and_drawn(timed, result, tmp_path):
    again = timestep(timed, PROMPTS, [0, 1], block=1, **CALL)
    assert again.table.equals(result.table) and again.outcomes == result.outcomes
    result.save(tmp_path)
    axes = open_result(tmp_path).plot().axes
    assert len(axes) == 4 and axes[0].xaxis_inverted() and axes[2].get_xlabel().startswith("channel")


def test_bad_input_is_refused_before_any_forward(dits):
    for arguments, words in (
        ({"measured": 1}, "two noise levels"),
        ({"swaps": 0}, "swaps=0"),
        ({"controls": 0}, "controls=0"),
        ({"prompts": ["apple"]}, "needs at least 2"),
        ({"prompts": []}, "empty list of prompts"),
        ({"seeds": []}, "empty list of seeds"),
    ):
        with pytest.raises(ValueError, match=words):
            timestep(dits("sd3"), **{"prompts": PROMPTS, "seeds": [0], **CALL, **arguments})
    with pytest.raises(IndexError, match=r"channels \[32\] requested"):
        timestep(dits("sd3"), PROMPTS, [0], **{**CALL, "channels": [32]})
