"""`detail` against the same thing written out, its margins, and what it says without references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import score_folders
import tiny
import torch

import dg_tools as dg
from dg_tools import metrics
from dg_tools.experiments import detail, open_result
from dg_tools.experiments._detail import outcome
from dg_tools.experiments.detail_measures import DETAIL, SEMANTICS
from dg_tools.experiments.local_detail import local_outcomes
from dg_tools.experiments.samples import Samples
from dg_tools.experiments.semantics import Score, semantic_scores
from dg_tools.metrics.cell_bands import named_bands
from dg_tools.models.pictures import decode

CALL = {"max_sequence_length": 8, "progress": False, "steps": 2}


def pictures(n: int) -> list[tuple[str, torch.Tensor]]:
    chance = torch.Generator().manual_seed(0)
    return [(f"thing {i}", torch.rand(3, 32, 48, generator=chance) * 2 - 1) for i in range(n)]


@pytest.fixture(scope="module")
def result():
    dit, items = dg.load(tiny.sd3()), pictures(3)
    made = detail(dit, items, [4, 9], channels=[3, 7], block=1, controls=2, batch=4, **CALL)
    return dit, items, made


def test_equals_the_experiment_written_out(result):
    """Sampled one by one with the pipeline's own call and a plain hook, at both scales."""
    dit, items, made = result
    truth = items[1][1][None]

    def zero(module, inputs, output):
        output[1][..., [3, 7]] = 0

    def left_only(module, inputs, output):
        output[1].unflatten(1, (8, 12))[..., :6, [3, 7]] = 0

    def picture(scale, hook=None):
        handle = dit.blocks[1].module.register_forward_hook(hook) if hook else None
        latents = dit.pipeline(
            items[1][0], height=32, width=48, num_inference_steps=2, guidance_scale=scale, output_type="latent",
            generator=torch.Generator().manual_seed(9), max_sequence_length=8,
        ).images  # fmt: skip
        if handle:
            handle.remove()
        return decode(dit, latents, output_type="pt") * 2 - 1

    for scale in (3.0, 1.0):
        for variant, hook in (("clean", None), ("zero", zero)):
            row = made.table[
                (made.table["variant"] == variant) & (made.table["scale"] == scale)
                & (made.table["prompt"] == items[1][0]) & (made.table["seed"] == 9)
            ]  # fmt: skip
            x, bands = picture(scale, hook), named_bands(dit.vae_scale_factor)
            power = np.abs(np.fft.fft2(x[0].double().numpy())) ** 2 / x[0, 0].numel()
            low = 2 * np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(48)) < 1 / 8
            low[0, 0] = False  # the mean
            assert row["low_power"].item() == pytest.approx(power[:, low].sum() / x[0].numel(), rel=1e-3)
            assert row["high_power"].item() == pytest.approx(metrics.band_power(x, bands)["high"].item(), rel=1e-3)
            expected = metrics.coherent_power(x, truth, bands)["high"].coherent.item()
            assert row["high_coherent"].item() == pytest.approx(expected, rel=1e-2, abs=1e-6)
            distances = [(metrics_small(x) - metrics_small(y[None])).norm().item() for _, y in items]
            assert row["retrieval_rank"].item() == sum(d < distances[1] for d in distances)
    local = made.tables["local"].set_index(["prompt", "seed", "disrupted", "measured"])
    half = picture(3.0, left_only) - picture(3.0)
    high = metrics.band_pass(half, "high", bands).square().mean(1)[0]
    for side, columns in (("left", slice(0, 24)), ("right", slice(24, 48))):
        expected = high[:, columns].mean().item()
        assert local.loc[(items[1][0], 9, "left", side), "changed"] == pytest.approx(expected, rel=1e-3)


def metrics_small(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(x, 16)


def test_result_is_whole(result, tmp_path):
    dit, items, made = result
    assert made.primary.name == "high_coherent" and made.primary.margin == -0.1
    names = {o.name for o in made.outcomes}
    assert {"found", "low_correlation", "layout", "high_power_s1", "blur", "local_detail", "local_change"} <= names
    assert set(made.table["variant"]) == {"clean", "zero", "control 0", "control 1"}
    assert len(made.table) == 4 * 2 * 3 * 2
    assert set(made.tables["search"]["matched"]) == {"output"}
    made.save(tmp_path)
    again = open_result(tmp_path)
    assert again.verdict == made.verdict and len(again.plot().axes) == 5 + 3
    bright = Score(lambda made, prompts, clean: made.mean((1, 2, 3)), 0.5)
    settings = {"channels": [3], "block": 1, "controls": 2, "scales": (1.0,), "local": False, **CALL}
    settings["scores"] = {"bright": bright}
    once, twice = (detail(dit, items[:2], [4], **settings) for _ in range(2))
    assert once.table.equals(twice.table)
    change = once.table.groupby("variant")["bright"].mean()
    scored = once.outcome("bright")
    assert scored.direction == "within" and scored.margin == 0.5
    assert scored.estimate == pytest.approx(change["zero"] - change["clean"], abs=1e-6)
    assert len(once.plot().axes) == 3 + 2


def amount(x: torch.Tensor, clean: torch.Tensor, cell: int) -> float:
    """amt_c of one picture by an explicit sum over frequencies."""

    def ratio(picture: torch.Tensor) -> float:
        power = np.abs(np.fft.fft2(picture[0].double().numpy())) ** 2
        low = high = 0.0
        for i, fy in enumerate(np.fft.fftfreq(x.shape[-2])):
            for j, fx in enumerate(np.fft.fftfreq(x.shape[-1])):
                cycles = cell * np.hypot(fy, fx)
                low += power[:, i, j].sum() * (0 < cycles < 1 / 8)
                high += power[:, i, j].sum() * (cycles >= 1 / 4)
        return float(np.log2(high / low))

    return ratio(x) - ratio(clean)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Prompts without pictures, on FLUX, with CLIP and DINO in folders."""
    root, words = tmp_path_factory.mktemp("scores"), ["apple", "tree"]
    scores = semantic_scores(words, clip=score_folders.clip(root / "clip"), dino=score_folders.dino(root / "dino"))
    dit = dg.load(tiny.flux())
    settings = {"channels": [3], "block": 2, "controls": 2, "height": 32, "width": 48, **CALL}
    return dit, settings, scores, detail(dit, words, [0, 1], scales=(1.0,), scores=scores, **settings)


def test_prompts_alone_are_compared_with_the_clean_sample_at_equal_contrast(alone):
    """By the pipeline's own call and a plain hook."""
    dit, _, scores, made = alone

    def zero(module, inputs, output):
        (output[1] if isinstance(output, tuple) else output)[..., [3]] = 0

    def picture(hook=None):
        handle = dit.blocks[2].module.register_forward_hook(hook) if hook else None
        latents = dit.pipeline(
            "tree", height=32, width=48, num_inference_steps=2, guidance_scale=1.0, output_type="pt",
            generator=torch.Generator().manual_seed(1), max_sequence_length=8,
        ).images  # fmt: skip
        if handle:
            handle.remove()
        return latents * 2 - 1

    row = made.table.query("variant == 'zero' and prompt == 'tree' and seed == 1")
    ours, clean = picture(zero), picture()
    assert row["amount"].item() == pytest.approx(amount(ours, clean, dit.vae_scale_factor), abs=2e-3)
    assert row["dino"].item() == pytest.approx(scores["dino"].of(ours, ["tree"], clean).item(), abs=1e-4)
    assert "high_power" not in made.table and {"amount 1/4 to 1/2", "amount above 1/2"} <= set(made.table)
    clean = made.table[made.table["variant"] == "clean"]
    assert (clean["amount"] == 0).all() and np.allclose(clean["low_band"], 1) and (clean["found"] == 1).all()


def test_the_verdict_on_prompts_alone_says_what_it_rests_on(alone, tmp_path):
    dit, settings, _, made = alone
    assert made.primary.name == "amount" and made.primary.unit == "doublings at equal contrast"
    assert {"low_band", "clip margin", "dino margin", "amount 1/8 to 1/4"} <= {o.name for o in made.outcomes}
    assert made.verdict.startswith(made.primary.sentence()) and "Semantics rests on CLIP's margin" in made.verdict
    assert made.verdict.endswith(made.outcome("clip margin").sentence())
    assert "no reference pictures" in made.notes[0] and not any("cycle per pixel" in n for n in made.notes)
    bare = detail(dit, ["apple", "tree"], [0], scales=(1.0,), scores={}, local=False, **settings)
    assert "Semantics rests on the correlation of the low band" in bare.words
    assert bare.words.endswith(bare.outcome("low_band").sentence())
    made.save(tmp_path)
    assert open_result(tmp_path).verdict == made.verdict and len(open_result(tmp_path).plot().axes) == 5 + 3


def test_pictures_too_small_for_a_low_band_are_refused(dits):
    with pytest.raises(ValueError, match="8 x 8 latent cells: too small"):
        detail(dits("flux"), ["a", "b"], [0], channels=[3], block=2, controls=2, height=16, width=16, **CALL)


def test_retrieval_among_references_of_the_same_style_and_background():
    dit, source = dg.load(tiny.sd3()), dg.references()
    chosen = source.sample(3, seed=2)
    samples = Samples(dit, chosen, [0], steps=1, folder=source)
    truth = source.pictures(chosen)
    table = samples.measure(truth, truth)
    assert (table["found"] == 1).all()
    flipped = samples.measure(truth.flip(0), truth)
    assert not (flipped["found"] == 1).all()


def test_outcomes_on_numbers_made_to_order():
    rows = []
    for variant, factor in {"clean": 1.0, "zero": 0.7, **{f"control {i}": 0.95 + 0.01 * i for i in range(20)}}.items():
        rows += [
            {"variant": variant, "prompt": f"p{i}", "seed": s, "high_power": factor * (1 + i), "found": float(i > 3)}
            for i in range(8) for s in (0, 1)
        ]  # fmt: skip
    table, names = pd.DataFrame(rows), [f"control {i}" for i in range(20)]
    loss = outcome(table, DETAIL[0], "high_power", names, primary=True, scale=3)
    assert loss.estimate == pytest.approx(-0.3) and loss.status == "holds" and loss.rank == 20
    kept = outcome(table, SEMANTICS[0], "found", names, primary=False, scale=3)
    assert kept.estimate == 0 and kept.status == "holds"
    none = table.assign(high_power=table["high_power"].where(table["variant"] != "zero", table["high_power"] / 0.7))
    assert outcome(none, DETAIL[0], "high_power", names, primary=True, scale=3).status == "fails"
    empty = table.assign(high_power=np.nan)
    assert outcome(empty, DETAIL[0], "high_power", names, primary=True, scale=3) is None


def test_local_outcomes_on_numbers_made_to_order():
    rows = []
    for prompt in "abcd":
        for disrupted in ("left", "right"):
            for measured in ("left", "right"):
                own = disrupted == measured
                changed = np.e if own else 1.0
                rows.append((prompt, 0, disrupted, measured, 0.6 if own else 0.9, 1.0, changed))
    columns = ["prompt", "seed", "disrupted", "measured", "power", "clean", "changed"]
    loss, change = local_outcomes(pd.DataFrame(rows, columns=columns))
    assert loss.estimate == pytest.approx(-0.3) and loss.status == "holds"
    assert change.estimate == pytest.approx(1) and change.status == "holds"
    twice = [(p, s, d, m, 2 * power, 2.0, x) for p, s, d, m, power, _, x in rows[:4]]  # another picture of "a"
    loss, change = local_outcomes(pd.DataFrame(rows + twice, columns=columns))
    assert loss.estimate == pytest.approx(-0.3) and change.estimate == pytest.approx(1)


def test_bad_input_is_refused_before_any_forward(dits):
    dit = dits("sd3")
    settings = {"channels": [3], "block": 1, "controls": 2, **CALL}
    with pytest.raises(ValueError, match="empty list of prompts"):
        detail(dit, [], [0], **settings)
    with pytest.raises(ValueError, match="empty list of seeds"):
        detail(dit, ["a", "b"], [], **settings)
    with pytest.raises(ValueError, match="needs at least 2"):
        detail(dit, ["a"], [0], **settings)
    with pytest.raises(ValueError, match="at least 1 \\(1: off\\)"):
        detail(dit, ["a", "b"], [0], scales=(0.5,), **settings)
    with pytest.raises(ValueError, match="pass a picture with each prompt, or with none"):
        detail(dit, ["a", pictures(1)[0]], [0], **settings)
    with pytest.raises(ValueError, match="at least 2, of kind"):
        detail(dit, ["a", "b"], [0], **{**settings, "controls": 1})
    with pytest.raises(IndexError, match="there are 0 to 31"):
        detail(dit, ["a", "b"], [0], **{**settings, "channels": [40]})
