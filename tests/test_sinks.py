"""The sinks experiment against plain hooks: which tokens, where channels sit, what masks cost, and when it says no."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

import dg_tools as dg
from dg_tools.experiments import open_result, sinks
from dg_tools.experiments.sinks_outcomes import in_words
from dg_tools.experiments.trajectories import trajectories
from dg_tools.onestep import velocity

PROMPTS = ["apple", "tree", "a house", "owl"]
IMAGE, TEXT, SINK = 96, 24, 5
CALL = {**tiny.SIZE, "max_sequence_length": 8, "steps": 3, "progress": False}
PRODUCT = F.scaled_dot_product_attention


@pytest.fixture(scope="module")
def planted():
    """SD3 with a text token that everything attends to: its key is what all queries have in common, and it is large."""
    dit = dg.load(tiny.sd3())
    tiny.plant(dit.pipeline, 1, [3], 300.0)
    transformer = dit.transformer
    with torch.no_grad():
        for block in transformer.transformer_blocks:
            block.attn.to_q.bias.fill_(1.0)
            block.attn.add_q_proj.bias.fill_(1.0)

    def large(module, args, output):
        output = output.clone()
        output[:, SINK] = 60.0
        return output

    transformer.context_embedder.register_forward_hook(large)
    return dit


@pytest.fixture(scope="module")
def result(planted):
    return sinks(planted, PROMPTS, [0], k=1, channels=[3, 7], measured=2, controls=3, **CALL)


def test_the_sinks_are_those_that_receive_most(planted, result):
    first = result.tables["sinks"]
    part = next(
        trajectories(planted, PROMPTS, [0], steps=3, keep=[0, 2], progress=False, **tiny.SIZE, max_sequence_length=8)
    )
    names = result.settings["test"]
    found = [i for i, p in enumerate(PROMPTS) if p not in set(result.table["prompt"])]
    assert len(found) == 1 and result.settings["tokens"] == first["token"].tolist() and len(names) == 4
    masses = []

    def product(query, key, value, **kwargs):
        if key.shape[-2] == IMAGE + TEXT:
            weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
            masses.append(weights[found, :, :IMAGE, IMAGE:].mean((1, 2)))
        return PRODUCT(query, key, value, **kwargs)

    F.scaled_dot_product_attention = product
    try:
        for _, sigma, z in part.steps:
            velocity(planted, z, sigma, part.inputs)
    finally:
        F.scaled_dot_product_attention = PRODUCT
    mass = torch.stack(masses).mean((0, 1))
    assert first["token"].tolist() == [int(mass.argmax())]
    assert first["mass"].item() == pytest.approx(mass.max().item(), rel=1e-4)
    assert first["times"].item() == pytest.approx((mass.max() / mass.mean()).item(), rel=1e-4)


def test_the_cost_of_the_mask_by_hand(planted, result):
    """The total change of x0 under the sink's mask on the score path, at one prompt and noise level."""
    prompt = result.table["prompt"].iloc[0]
    part = next(
        trajectories(planted, [prompt], [0], steps=3, keep=[0, 2], progress=False, **tiny.SIZE, max_sequence_length=8)
    )
    (_, sigma, z), token = part.steps[0], result.settings["tokens"][0]
    clean = velocity(planted, z, sigma, part.inputs)

    def product(query, key, value, **kwargs):
        if key.shape[-2] != IMAGE + TEXT:
            return PRODUCT(query, key, value, **kwargs)
        left = [i for i in range(key.shape[-2]) if i != IMAGE + token]
        return PRODUCT(query, key[..., left, :], value[..., left, :])

    F.scaled_dot_product_attention = product
    try:
        masked = velocity(planted, z, sigma, part.inputs)
    finally:
        F.scaled_dot_product_attention = PRODUCT
    own, other = z - sigma * clean, z - sigma * masked
    rows = result.table.query("role == 'sinks' and path == 'score' and prompt == @prompt and band == 'total'")
    row = rows.iloc[0]
    assert row["sigma"] == pytest.approx(sigma)
    assert row["change"] == pytest.approx(((other - own).norm() / own.norm()).item(), rel=1e-3)
    assert row["moved"] == pytest.approx(((masked - clean).norm() / clean.norm()).item(), rel=1e-3)


def test_outcomes_follow_from_the_table(result):
    mean = result.table.groupby(["path", "role", "variant", "prompt", "band"])["change"].mean()
    for path in ("score", "value"):
        for band in ("total", "high"):
            ours = mean.xs((path, "sinks"), level=("path", "role")).xs(band, level="band").droplevel("variant")
            null = mean.xs((path, "control"), level=("path", "role")).xs(band, level="band")
            gap = (ours - null.groupby("prompt").mean()).mean()
            outcome = result.outcome(f"{path} {band}")
            assert outcome.estimate == pytest.approx(gap) and len(outcome.null) == 3
    assert result.primary.name == "score total"
    controls = result.table.query("role == 'control' and path == 'score'")["variant"].unique()
    assert len(controls) == 3 and all(c.startswith("control: mask text tokens") for c in controls)


def test_where_the_channels_sit_by_hand(planted, result):
    """log2 of |x| on the sink over that on the other text tokens, last block without text left out."""
    token, prompts = result.settings["tokens"][0], list(dict.fromkeys(result.table["prompt"]))
    part = next(
        trajectories(planted, prompts, [0], steps=3, keep=[0, 2], progress=False, **tiny.SIZE, max_sequence_length=8)
    )
    seen: list[torch.Tensor] = []
    handles = [
        block.module.register_forward_hook(lambda m, a, o: seen.append(o[0].abs())) for block in planted.blocks[:-1]
    ]
    for _, sigma, z in part.steps:
        velocity(planted, z, sigma, part.inputs)
    for handle in handles:
        handle.remove()
    others = [i for i in range(TEXT) if i != token]
    ratio = torch.stack([(x[:, token] / x[:, others].mean(1)).log2() for x in seen])  # (step x block, prompt, channel)
    assert result.outcome("channels on sinks").estimate == pytest.approx(ratio[..., [3, 7]].mean().item(), rel=1e-3)
    table = result.tables["by_block"].set_index("block")
    assert np.isnan(table.loc[3, "channels"]) and table.loc[0, "channels"] == pytest.approx(
        ratio.unflatten(0, (2, 3))[:, 0][..., [3, 7]].mean().item(), rel=1e-3
    )


def test_a_mask_that_moves_nothing_tests_nothing(result):
    from dg_tools.interventions import MaskTokens

    plan = [MaskTokens([0]), MaskTokens([1], control=True)]
    moved = np.full((2, 1, 1, 1), 0.02)
    assert in_words(result.outcomes, moved, plan).startswith("Not tested what the sinks do: masking the sinks moves")
    assert "The mask acts" in in_words(result.outcomes, moved * 10, plan)


def test_saved_drawn_and_detected(result, planted, tmp_path):
    result.save(tmp_path)
    opened = open_result(tmp_path)
    assert opened.verdict == result.verdict and len(opened.plot().axes) == 3
    assert not [m for m in planted.transformer.modules() if "forward" in vars(m)]


def test_image_tokens_in_one_block_of_flux(dits):
    dit = dits("flux")
    found = sinks(dit, PROMPTS, [0], k=2, stream="image", block=3, channels=[5], measured=1, controls=2, **CALL)
    assert len(found.settings["tokens"]) == 2 and found.settings["masked_at"] == 3
    assert found.tables["by_block"]["mass"].notna().sum() == 1
    assert found.outcome("sinks elsewhere").estimate > 0


@pytest.mark.parametrize(
    "changed, error, words",
    [
        ({"k": 0}, ValueError, "k=0"),
        ({"k": 24}, ValueError, "k=24 of 24 text tokens"),
        ({"controls": 0}, ValueError, "controls=0"),
        ({"block": 9}, IndexError, "9.*0 to 3"),
        ({"stream": "both"}, ValueError, "allowed: text, image"),
        ({"measured": 4}, ValueError, "this run has 3 steps: pass 1 to 3"),
    ],
)
def test_refused(changed, error, words, dits):
    with pytest.raises(error, match=words):
        sinks(dits("sd3"), PROMPTS, [0], **{"channels": [3], "controls": 2, "measured": 1, **CALL, **changed})


def test_text_comes_first_in_flux(dits):
    """The text token that receives most by hand, in double and single blocks; its mask takes it and no image token."""
    dit = dits("flux")
    found = sinks(dit, PROMPTS, [0], k=1, channels=[5], measured=1, controls=2, **CALL)
    (token,), text = found.settings["tokens"], 8
    first = [i for i, p in enumerate(PROMPTS) if p not in set(found.table["prompt"])]
    part = next(trajectories(dit, PROMPTS, [0], steps=3, keep=[0], progress=False, **tiny.SIZE, max_sequence_length=8))
    _, sigma, z = part.steps[0]
    masses: list[torch.Tensor] = []

    def product(query, key, value, **kwargs):
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        masses.append(weights[:, :, text:, :text].mean((1, 2)))
        return PRODUCT(query, key, value, **kwargs)

    F.scaled_dot_product_attention = product
    try:
        velocity(dit, z, sigma, part.inputs)
    finally:
        F.scaled_dot_product_attention = PRODUCT
    assert len(masses) == len(dit.blocks)
    mass = torch.stack(masses)[:, first].mean((0, 1))
    assert token == int(mass.argmax())
    assert found.tables["sinks"]["mass"].item() == pytest.approx(mass[token].item(), rel=1e-4)
    hidden: list[torch.Tensor] = []
    handles = [b.module.register_forward_hook(lambda m, a, o: hidden.append(o)) for b in dit.blocks]
    velocity(dit, z, sigma, part.inputs)
    for handle in handles:
        handle.remove()
    rest = [i for i in range(len(PROMPTS)) if i not in first]
    ratios = []
    for output in hidden:
        x = (output[0] if isinstance(output, tuple) else output).abs()[rest, :text, 5]
        ratios.append((x[:, token] / x[:, [i for i in range(text) if i != token]].mean(1)).log2())
    assert found.outcome("channels on sinks").estimate == pytest.approx(torch.stack(ratios).mean().item(), rel=1e-3)
