"""`dose` against the same thing written out with plain hooks, its controls, and verdicts on curves made to order."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.experiments import dose, open_result
from dg_tools.experiments.dose_outcomes import assemble, strongest
from dg_tools.experiments.dose_parts import journal_of
from dg_tools.experiments.samples import Samples
from dg_tools.experiments.semantics import Score
from dg_tools.guidance.auto import store

CALL = {"max_sequence_length": 8, "progress": False, "cache": False}
CHANNELS, BLOCK, SIGMA = [5, 9], 1, 0.4


def pictures(n: int) -> list[tuple]:
    chance = torch.Generator().manual_seed(0)
    return [(f"thing {i}", torch.rand(3, 32, 48, generator=chance) * 2 - 1) for i in range(n)]


@pytest.fixture(scope="module")
def measured():
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [5], 60.0)
    dit, items = dg.load(pipeline), pictures(2)
    result = dose(
        dit, items, [4, 8], channels=CHANNELS, blocks=[1, 2], block=BLOCK, rhos=(0, 0.5, 1, 1.5), sigmas=(SIGMA,),
        controls=3, scales=(1.0, 3.0), steps=2, batch=4, **CALL,
    )  # fmt: skip
    return dit, items, result


@pytest.fixture(scope="module")
def by_hand(measured):
    """v and x0 of the two pictures with noise seed 8, under any hook on the block's output."""
    dit, items, _ = measured
    vae, config = dit.pipeline.vae, dit.pipeline.vae.config
    with torch.no_grad():
        z0 = (
            vae.encode(torch.stack([x for _, x in items])).latent_dist.mode() - config.shift_factor
        ) * config.scaling_factor
        zt = (1 - SIGMA) * z0 + SIGMA * torch.randn(z0.shape, generator=torch.Generator().manual_seed(8))
        embeds, _, pooled, _ = dit.pipeline.encode_prompt(
            [p for p, _ in items], None, None, do_classifier_free_guidance=False, max_sequence_length=8
        )

    @torch.no_grad()
    def predict(channels=(), rho=1.0, factor=None):
        def multiply(module, inputs, output):
            output[1][..., list(channels)] *= rho

        handle = dit.blocks[BLOCK].module.register_forward_hook(multiply)
        level = torch.full((2,), 1000.0 * SIGMA)
        v = dit.transformer(zt, embeds, pooled, level, return_dict=False)[0] * (1.0 if factor is None else factor)
        handle.remove()
        x = vae.decode((zt - SIGMA * v) / config.scaling_factor + config.shift_factor).sample.clamp(-1, 1)
        return v, x.numpy().astype(float)

    return predict


def powers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power below 1/8 and from 1/4 cycle per latent cell of 2 pixels on, by an explicit sum over frequencies."""
    spectrum = np.abs(np.fft.fft2(x)) ** 2
    low, high = np.zeros(len(x)), np.zeros(len(x))
    for i, fy in enumerate(np.fft.fftfreq(x.shape[-2])):
        for j, fx in enumerate(np.fft.fftfreq(x.shape[-1])):
            cycles = 2 * math.hypot(fy, fx)
            low += spectrum[..., i, j].sum(1) * (0 < cycles < 1 / 8)
            high += spectrum[..., i, j].sum(1) * (cycles >= 1 / 4)
    return low, high


def rows_of(result, who: str, rho: float) -> pd.DataFrame:
    table = result.table
    at = (table["kind"] == "step") & (table["block"] == BLOCK) & (table["who"] == who) & (table["rho"] == rho)
    return table[at & (table["seed"] == 8)]


def test_one_cell_equals_plain_hooks(measured, by_hand):
    _, items, result = measured
    (v, x), (clean, x_clean) = by_hand(CHANNELS, 1.5), by_hand()
    rows = rows_of(result, "massive", 1.5)
    assert rows["prompt"].tolist() == [p for p, _ in items]
    (low, high), (low_clean, high_clean) = powers(x), powers(x_clean)
    expected = np.log2(high / low) - np.log2(high_clean / low_clean)
    assert rows["amount"].to_numpy() == pytest.approx(expected, abs=2e-3)
    norm = lambda a: a.flatten(1).norm(dim=1)  # noqa: E731
    assert rows["change"].to_numpy() == pytest.approx((norm(v - clean) / norm(clean)).numpy(), rel=1e-3)
    share = (v * clean).flatten(1).sum(1) / clean.square().flatten(1).sum(1)
    assert rows["gain"].to_numpy() == pytest.approx(share.numpy(), rel=1e-4)
    gained = powers(by_hand(factor=share[:, None, None, None])[1])
    expected = np.log2(gained[1] / gained[0]) - np.log2(high_clean / low_clean)
    assert rows_of(result, "gain alone", 1.5)["amount"].to_numpy() == pytest.approx(expected, abs=2e-3)
    alone = powers(by_hand([9], 0.0)[1])
    expected = np.log2(alone[1] / alone[0]) - np.log2(high_clean / low_clean)
    assert rows_of(result, "9 alone", 0.0)["amount"].to_numpy() == pytest.approx(expected, abs=2e-3)
    assert (rows_of(result, "massive", 1.0)["amount"] == 0).all()


def test_controls_move_the_velocity_as_much(measured, by_hand):
    _, _, result = measured
    clean, _ = by_hand()
    matching = result.tables["matching"].set_index(["who", "rho"])
    table = result.table[(result.table["kind"] == "step") & (result.table["block"] == BLOCK)]
    for rho in (0.0, 1.5):
        goal = table[(table["who"] == "massive") & (table["rho"] == rho)]["change"]
        for i in range(3):
            edit = dg.Disrupt(CHANNELS, BLOCK, "scale", draw=i, others=True)
            others = edit.drawn(tiny.WIDTH)[0]
            assert len(others) == 2 and not set(others) & set(CHANNELS)
            v, _ = by_hand(others, matching.loc[(f"control {i}", rho), "applied"])
            size = (v - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)
            assert rows_of(result, f"control {i}", rho)["change"].to_numpy() == pytest.approx(size.numpy(), rel=1e-2)
            reached = table[(table["who"] == f"control {i}") & (table["rho"] == rho)]["change"]
            assert reached.mean() == pytest.approx(goal.mean(), rel=0.1)  # over both seeds, as they were matched


def test_the_largest_others_have_the_most_energy(measured, by_hand):
    dit, _, result = measured
    outputs = []
    handle = dit.blocks[BLOCK].module.register_forward_hook(lambda m, i, o: outputs.append(o[1].detach()))
    by_hand()
    handle.remove()
    energy = outputs[0].square().mean((0, 1))
    rows = result.tables["channels"].query(f"block == {BLOCK}").set_index("channel")
    assert rows["massive"].to_dict() == {5: True, 9: False}
    assert rows.loc[5, "energy_share"] == pytest.approx((energy[5] / energy.sum()).item(), rel=0.05)
    energy[CHANNELS] = 0
    first = int(rows.loc[5, "others"].split()[0])  # over both seeds, and here over one
    assert energy[first] > 0.8 * energy.max() > 2 * energy.median()


def test_samples_equal_the_pipeline_under_a_hook(measured):
    dit, items, result = measured

    def multiply(module, inputs, output):
        output[1][..., CHANNELS] *= 1.5

    def picture(scale):
        call = {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": scale, "output_type": "pt"}
        made = dit.pipeline(items[1][0], generator=torch.Generator().manual_seed(8), max_sequence_length=8, **call)
        return made.images.numpy().astype(float) * 2 - 1

    samples = result.table[(result.table["kind"] == "sample") & (result.table["who"] == "massive")]
    for scale in (1.0, 3.0):
        clean = powers(picture(scale))
        handle = dit.blocks[BLOCK].module.register_forward_hook(multiply)
        low, high = powers(picture(scale))
        handle.remove()
        at = (samples["scale"] == scale) & (samples["rho"] == 1.5) & (samples["seed"] == 8)
        row = samples[at & (samples["prompt"] == "thing 1")]
        assert row["amount"].item() == pytest.approx(
            (np.log2(high / low) - np.log2(clean[1] / clean[0])).item(), abs=2e-3
        )
        assert -1 <= row["margin"].item() <= 1


def test_result_is_whole(measured, tmp_path):
    dit, _, result = measured
    assert result.verdict == result.words and "block 1, one step" in result.words
    assert "Massive at block 1: 5; not massive there: 9." in result.words
    result.save(tmp_path)
    again = open_result(tmp_path)
    assert again.words == result.words and len(again.table) == len(result.table)
    figure = again.plot()
    assert [a.get_title() for a in figure.axes[:4]] == ["rho 0", "rho 0.5", "rho 1", "rho 1.5"]
    assert not any(m._forward_hooks for m in dit.transformer.modules())
    assert {"power 1/4 to 1/2", "coherence 1/8 to 1/4", "error above 1/2"} <= set(result.table)


def test_one_line_without_pictures_on_another_family():
    dit = dg.load(tiny.flux())
    settings = {"height": 32, "width": 48, "channels": [3], "rhos": (0, 1, 1.5), "sigmas": (0.5,), "steps": 1}
    result = dg.dose(dit, "apple", [0, 1], blocks=[0, 3], controls=2, scales=(), **settings, **CALL)
    assert set(result.table["kind"]) == {"step"} and set(result.table["seed"]) == {0, 1}
    assert result.settings["truth"] is False and result.settings["block"] in (0, 3)
    assert [v.split(",")[0] for v in dict.fromkeys(result.tables["pictures"]["variant"])] == [
        "rho 0",
        "rho 1",
        "rho 1.5",
    ]
    result.plot()


def test_strings_say_what_semantics_rests_on():
    dit, words = dg.load(tiny.flux()), ["apple", "tree", "owl"]
    settings = {"height": 32, "width": 48, "channels": [3], "rhos": (0, 1, 1.5), "sigmas": (0.5,), "steps": 1, **CALL}
    settings |= {"blocks": [0], "controls": 2, "scales": (1.0,)}
    bare = dg.dose(dit, words, scores={}, **settings)
    low = bare.table[(bare.table["kind"] == "sample") & (bare.table["rho"] == 1.5) & (bare.table["who"] == "massive")]
    effect = bare.outcome("semantics_above_s1")
    assert effect.estimate == pytest.approx((low["low correlation"] - 1).mean()) and effect.direction == "within"
    assert "Semantics rests on the correlation of the low band" in bare.words
    score = Score(lambda pictures, prompts, clean: pictures.mean((1, 2, 3)), 0.25)
    made = dg.dose(dit, words, scores={"clip margin": score}, **settings)
    drawn = made.table[(made.table["kind"] == "sample") & (made.table["who"] == "massive")]
    mean = drawn.groupby("rho")["clip margin"].mean()
    effect = made.outcome("semantics_below_s1")
    assert effect.estimate == pytest.approx(mean[0.0] - mean[1.0]) and effect.margin == 0.25
    assert "Semantics rests on CLIP's margin of the own prompt over the nearest other: it stays at rho 0" in made.words
    with pytest.raises(ValueError, match="too small for a band"):
        dg.dose(dit, words, **{**settings, "height": 16, "width": 16})


def test_an_interrupted_curve_goes_on_from_what_is_done(measured, tmp_path, monkeypatch, caplog):
    dit, items, _ = measured
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path)
    call = {"rhos": (0, 1, 1.5), "sigmas": (SIGMA,), "controls": 2, "scales": (1.0, 3.0), "steps": 2, **CALL}
    call |= {"channels": CHANNELS, "blocks": [1, 2], "block": BLOCK}
    forwards, stop = [], [None]

    def count(module, inputs):
        forwards.append(1)
        if len(forwards) == stop[0]:
            raise KeyboardInterrupt

    handle = dit.transformer.register_forward_pre_hook(count)
    try:
        whole = dose(dit, items, [0, 1], **call)
        total, call["cache"] = len(forwards), True
        for share, most in ((0.4, 0.9), (0.9, 0.5)):  # in one step, and in the samples
            forwards.clear()
            stop[0] = round(share * total)
            with pytest.raises(KeyboardInterrupt):
                dose(dit, items, [0, 1], **call)
            assert "interrupted: what is done is kept in" in caplog.text and len(list(tmp_path.iterdir())) == 1
            forwards.clear()
            stop[0] = None
            again = dose(dit, items, [0, 1], **call)
            assert len(forwards) < most * total
            pd.testing.assert_frame_equal(again.table, whole.table)
            pd.testing.assert_frame_equal(again.tables["matching"], whole.tables["matching"])
            pd.testing.assert_frame_equal(again.tables["pictures"], whole.tables["pictures"])
            assert again.words == whole.words and not list(tmp_path.iterdir())
    finally:
        handle.remove()


def test_a_journal_is_of_one_curve(measured):
    dit, items, _ = measured
    two, three, dimmed = {"rhos": [0, 1, 2]}, {"rhos": [0, 1, 3]}, [(prompt, x * 0.5) for prompt, x in items]
    cases = [(items, two, 2), (items, three, 2), (items[::-1], two, 2), (dimmed, two, 2), (items, two, 3)]
    names = {journal_of(Samples(dit, x, [0], steps=n), settings, False).folder for x, settings, n in cases}
    assert len(names) == 5


def made(curve: dict[float, float], draws: float, kept: float = 0.05, low: float = 0.99):
    """A result of a curve made to order: eight pictures, at block 2 the curve, at block 0 a tenth of it."""
    rows = []
    for prompt in range(8):
        wobble = 0.01 * (prompt - 3.5)
        for rho, amount in curve.items():
            own = {"massive": amount, "norms kept": kept * amount, "gain alone": 0.2 * amount}
            own["largest others"] = 0.8 * amount
            own |= {f"control {i}": draws * amount * (0.9 + i / 200) for i in range(39)}
            for who, value in own.items():
                row = {"kind": "step", "who": who, "rho": rho, "sigma": 0.5, "prompt": f"p{prompt}", "seed": 0}
                rows.append({**row, "block": 2, "amount": value * (1 + wobble), "low correlation": low})
                if who == "massive":
                    rows.append({**row, "block": 0, "amount": value / 10, "low correlation": 0.999})
    matching = pd.DataFrame([{"who": f"control {i}", "rho": r, "reached": 1.0} for i in range(39) for r in (0.0, 1.5)])
    where = pd.DataFrame(
        [{"block": 2, "channel": 5, "energy_share": 0.4, "ratio": 20.0, "massive": True, "others": "1"}]
    )
    settings = {"below": 0.0, "above": 1.5, "block": 2, "cell": 4, "scales": [], "sampled": [2]}
    return assemble(pd.DataFrame(rows), where, matching, pd.DataFrame(), settings)


FALLING = {0.0: 0.4, 0.5: 0.2, 1.0: 0.0, 1.5: -0.5, 2.0: -0.9}


def test_verdict_of_a_falling_curve():
    result = made(FALLING, draws=0.1)
    status = {o.name: o.status for o in result.outcomes}
    assert status == {
        "span": "holds", "monotone": "holds", "lacks_below": "fails", "lacks_above": "holds",
        "low_band_below": "holds", "low_band_above": "holds", "norms": "holds", "gain": "fails", "others": "fails",
    }  # fmt: skip
    assert result.words.startswith("Detail falls monotonically with the dose (rho 0: +0.40, rho 1.5: -0.50")
    for part in (
        "Of these two, only rho 1.5 lacks detail",
        "39 of 39",
        "The low band stays",
        "LayerNorm explains it: with its clean statistics 5% of the change",
        "make 80%",
    ):
        assert part in result.words


def test_verdicts_of_other_curves():
    rising = made({rho: -amount for rho, amount in FALLING.items()}, draws=0.1, kept=0.9)
    assert rising.primary.status == "fails" and "Detail rises monotonically" in rising.words
    assert "rho 0 lacks detail" in rising.words and "39 of 39" in rising.words
    assert "LayerNorm does not explain it: with its clean statistics 90% of the change" in rising.words
    bent = made({0.0: -0.3, 0.5: -0.1, 1.0: 0.0, 1.5: -0.7, 2.0: -0.2}, draws=0.1, low=0.8)
    negative = made(FALLING, draws=0.1, kept=-0.05)
    assert "with its clean statistics none of the change is left" in negative.words
    assert "but not monotonically" in bent.words and "rho 0 and rho 1.5 lack detail" in bent.words
    assert "The low band changes (correlation 0.800)" in bent.words
    alike = made(FALLING, draws=1.1)
    assert alike.primary.status == "no more than controls" and "39 of 39" not in alike.words
    flat = made({rho: 0.0 for rho in FALLING}, draws=0.0)
    assert "does not change the amount of detail" in flat.words and "No side lacks detail" in flat.words
    assert "norms" not in {o.name for o in flat.outcomes}


def test_the_strongest_block_keeps_the_low_band():
    table = made(FALLING, draws=0.1).table
    massive = table[table["who"] == "massive"]
    assert strongest(massive, 0.0, 1.5) == 2
    damaged = massive.assign(**{"low correlation": massive["low correlation"].where(massive["block"] == 0, 0.5)})
    assert strongest(damaged, 0.0, 1.5) == 0


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"rhos": (0, 0.5)}, ValueError, "1 \\(the model as it is\\)"),
        ({"rhos": (0, 1)}, ValueError, "on each side"),
        ({"sigmas": (1.0,)}, ValueError, "between 0 and 1"),
        ({"controls": 1}, ValueError, "controls=1"),
        ({"scales": (0.5,)}, ValueError, "at least 1"),
        ({"blocks": [0, 99]}, IndexError, "99"),
        ({"block": 2, "blocks": [0, 1]}, ValueError, "not among"),
        ({"channels": [tiny.WIDTH]}, IndexError, "32"),
        ({"seeds": [0]}, ValueError, "two pictures"),
        ({"prompts": []}, ValueError, "prompt"),
        ({"prompts": None}, TypeError, "prompts=None; a prompt, or several, is needed"),
        ({"seeds": [3, 3]}, ValueError, "distinct seeds"),
        ({"seeds": "0"}, TypeError, "seeds='0'; whole numbers"),
        ({"rhos": 2.0}, TypeError, "rhos=2.0; several numbers"),
        ({"rhos": (0, 1, math.nan)}, ValueError, "rhos=nan; a finite number"),
        ({"sigmas": 0.5}, TypeError, "sigmas=0.5; several numbers"),
        ({"scales": 3.0}, TypeError, "scales=3.0; several numbers"),
        ({"blocks": []}, ValueError, "blocks is empty"),
        ({"channels": "5"}, TypeError, "channels='5'; whole numbers"),
        ({"batch": 0}, ValueError, "batch=0; at least one picture"),
    ],
)
def test_bad_input_is_refused_before_any_forward(measured, changed, error, words):
    dit, *_ = measured
    count = []
    handle = dit.transformer.register_forward_pre_hook(lambda *_: count.append(1))
    arguments = {"prompts": "apple", "seeds": [0, 1], "channels": CHANNELS, **changed}
    prompts, seeds = arguments.pop("prompts"), arguments.pop("seeds")
    try:
        with pytest.raises(error, match=words):
            dose(dit, prompts, seeds, **arguments, **CALL)
    finally:
        handle.remove()
    assert not count


def test_a_pipeline_in_the_place_of_a_model_is_named(measured):
    with pytest.raises(
        TypeError, match="dg.dose needs a loaded model and got a StableDiffusion3Pipeline: dit = dg.load"
    ):
        dose(measured[0].pipeline, "apple")
