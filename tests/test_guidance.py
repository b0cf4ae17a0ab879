"""Guidances against hand algebra, the plan's arithmetic, and verdicts that can come out either way."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from scipy.ndimage import gaussian_filter

import dg_tools as dg
from dg_tools import metrics
from dg_tools.experiments import guidance_alone, guidance_outcomes, open_result, prompts_alone
from dg_tools.experiments._guidance import guidance
from dg_tools.experiments.directions import GuidanceRule, gaussian_blur, noised_copy
from dg_tools.experiments.guidance_plan import block_calls, equal_steps, runs
from dg_tools.experiments.perception_distortion import Truth, distortion, judgement, perception
from dg_tools.experiments.sampling_loop import sample
from dg_tools.experiments.semantics import Score

OFF = dg.Disrupt([3, 7], 1)
S, W = 3.0, 0.5
PICTURES = (["apple", "a tree"], [4, 5])


def run(dit, rule, observe=None, **sources):
    return sample(dit, *PICTURES, rule, sources={"d": OFF, **sources}, observe=observe, **tiny.CALL)


def flat(x):
    return x.flatten(1).double().numpy()


def pairs(count=2, size=(32, 48)):
    chance = torch.Generator().manual_seed(1)
    return [(word, torch.rand(3, *size, generator=chance) * 2 - 1) for word in ("apple", "tree", "cup")[:count]]


@pytest.fixture(scope="module")
def result(dits):
    settings = {"channels": [3, 7], "block": 1, "steps": 2, "controls": 2, "windows": [(0.5, 1.0)], "scales": [1.0]}
    return guidance(dits("sd3"), pairs(), [0, 1], progress=False, max_sequence_length=8, **settings)


# -- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_parts_of_dg_are_the_projection_and_add_up(dits, name):
    whole, along, across = (GuidanceRule(p, S, W, part=p) for p in ("whole", "along", "across"))
    checked = []

    def observe(at, velocity):
        dg_direction, cfg = flat(at["c"] - at["d"]), flat(at["c"] - at["u"])
        share = (dg_direction * cfg).sum(1) / (cfg * cfg).sum(1)
        assert np.allclose(flat(along.term(at)), W * share[:, None] * cfg, rtol=1e-3, atol=1e-5)
        both = flat(along.term(at)) + flat(across.term(at))
        assert np.allclose(both, flat(whole.term(at)), atol=1e-5)
        assert np.abs((flat(across.term(at)) * cfg).sum(1)).max() < 1e-4 * np.linalg.norm(cfg)
        expected = flat(at["u"] + S * (at["c"] - at["u"])) + W * dg_direction
        assert np.allclose(flat(velocity), expected, atol=1e-4)
        checked.append(at.step)

    run(dits(name), whole, observe)
    assert checked == [0, 1, 2]


def test_matched_norm_holds_for_each_picture_at_every_step(dits):
    dit = dits("sd3")
    sources = {"control": OFF.controls(1)[0], "twin": noised_copy(dit.transformer, 0.1)}
    ratios = []

    def observe(at, velocity):
        target = W * np.linalg.norm(flat(at["c"] - at["d"]), axis=1)
        for name in ("control", "twin", "blur"):
            rule = GuidanceRule(name, S, W, degraded=name, norm_of="d")
            ratios.append(np.linalg.norm(flat(rule.term(at)), axis=1) / target)
            other = np.linalg.norm(flat(GuidanceRule(name, S, W, degraded=name).term(at)), axis=1)
            assert np.abs(other / target - 1).max() > 0.01  # without it they are not equal

    run(dit, GuidanceRule("DG", S, W), observe, **sources)
    assert len(ratios) == 9 and np.allclose(ratios, 1, rtol=1e-5)


def test_w_zero_and_steps_outside_the_window_are_cfg_bit_for_bit(dits):
    dit = dits("flux")
    cfg = run(dit, GuidanceRule("CFG", S)).latents
    assert torch.equal(run(dit, GuidanceRule("off", S, 0.0)).latents, cfg)
    assert not torch.equal(run(dit, GuidanceRule("on", S, W)).latents, cfg)
    inside = run(dit, GuidanceRule("late", S, W, window=(0.5, 1.0), cfg_window=(0.0, 0.5)))
    theirs = dg.DetailGuidance(1.0, W, disrupt=OFF, detail_guidance_start=0.5)
    assert [n for n in range(3) if "pred_disrupted" in theirs.passes(n, 3)] == [2]
    assert inside.cost.block_calls == 2 * (3 * 5 + 2 * 5 + 1 * 3)


def test_blur_is_scipys():
    x = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sigma in (0.6, 1.5):
        theirs = gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest")
        assert np.allclose(gaussian_blur(x, sigma).numpy(), theirs, atol=1e-12)


def test_blur_guidance_is_unsharp_masking_of_x0(dits):
    def observe(at, velocity):
        x0 = at.x0(at["c"]).double()
        sharp = x0 + W * (x0 - gaussian_blur(x0, 1.0))
        assert np.allclose(flat(at.x0(velocity)), flat(sharp), atol=1e-4)

    sampled = run(dits("sd3"), GuidanceRule("blur", 1.0, W, degraded="blur"), observe)
    assert sampled.cost.forwards == 3 * 2  # no second forward


def test_a_noised_copy_has_noise_of_the_given_size(dits):
    original = dits("flux").transformer
    before = {k: v.clone() for k, v in original.state_dict().items()}
    copy, again = noised_copy(original, 0.1, seed=3), noised_copy(original, 0.1, seed=3)
    for name, value in original.named_parameters():
        other = copy.get_parameter(name)
        assert torch.equal(other, again.get_parameter(name)) and torch.equal(value, before[name])
        if value.ndim > 1 and value.numel() > 500:
            assert (other - value).std().item() == pytest.approx(0.1 * value.std().item(), rel=0.15)
        elif value.ndim == 1:
            assert torch.equal(other, value)
    with pytest.raises(ValueError, match="more than 0"):
        noised_copy(original, 0.0)


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_costs_and_equal_compute_by_hand():
    sources = {"d": dg.Disrupt([3], 2)}
    both, cfg = GuidanceRule("DG+CFG", S, W), GuidanceRule("CFG", S)
    assert block_calls(both, sources, 12, 20) == 20 * (12 + 12 + 9) == 660
    assert block_calls(cfg, sources, 12, 20) == 480
    assert equal_steps(cfg, 660, sources, 12, 20) == 28  # 648 and 672 are as near: the more, against DG
    half = GuidanceRule("CFG", S, cfg_window=(0.25, 0.75))
    assert block_calls(half, sources, 12, 20) == 20 * 12 + 10 * 12
    assert block_calls(GuidanceRule("along", 1.0, W, part="along"), sources, 12, 20) == 660  # u is needed to project


def test_a_run_that_is_there_already_is_refused():
    sources = {"d": OFF, "control 0": OFF.controls(1)[0]}
    settings = {"steps": 4, "scale": S, "weight": W, "window": (0.2, 0.8), "blur_sigma": 1.0, "controls": 1}
    with pytest.raises(ValueError, match="the same"):
        runs(sources, 4, scales=[W], **settings)


# -- the experiment ---------------------------------------------------------------------------------------------------


def test_the_table_holds_every_run_and_picture(result):
    plan = result.tables["runs"]
    assert len(result.table) == 4 * len(plan) and set(result.table["rule"]) == set(plan["rule"])
    assert len(result.primary.null) == 2 and result.primary.name == "rightness"
    calls = plan.set_index("rule")["block_calls"]
    assert calls["CFG 3"] == 2 * 8 and calls["CFG 3 + DG 0.5"] == 2 * 10 and calls["CFG 3, 3 steps"] == 24
    assert calls["CFG 3 + blur 0.5"] == calls["CFG 3"]
    assert {"spectrum", "statistics", "kernel"} <= set(result.tables["plane"].columns)
    assert not result.tables["plane"][["spectrum", "statistics", "kernel"]].isna().any().any()
    assert set(result.tables["bought"]["amount_is"]) <= {"gained", "lost", "same", "undecided"}


def test_gain_and_daemon_stand_beside_every_dg(result):
    plan = result.tables["runs"].set_index("rule")
    for base in ("cond", "CFG 3", "CFG 3, in 0.2 to 0.8"):
        beside = plan.query("role == 'one pass' and base == @base")
        assert len(beside) == 2 and (beside["block_calls"] == plan["block_calls"][base]).all()
        bought = result.tables["bought"].query("base == @base")["rule"]
        assert set(beside.index) <= set(bought)
    names = {"gain 1.1", "daemon 0.5", "gain 1.1, without CFG", "daemon 0.5, without CFG"}
    for what in ("rightness", "amount"):
        assert {f"{what}, beside {name}" for name in names} <= {o.name for o in result.outcomes}
    mean = result.table.groupby("rule")["high_correlation"].mean()
    gain = result.outcome("rightness, beside gain 1.1")
    assert gain.estimate == pytest.approx(mean["CFG 3 + DG 0.5"] - mean["CFG 3 + gain 1.1"])


def test_rows_are_what_the_loop_gives(result, dits):
    dit, (words, truth) = dits("sd3"), zip(*pairs(), strict=True)
    off = dg.Disrupt([3, 7], 1)
    call = {"height": 32, "width": 48, "steps": 2, "max_sequence_length": 8}
    generation = dg.generate(
        dit, list(words), seed=[0, 1], guidance=dg.DetailGuidance(S, W, disrupt=off), progress=False, **call
    )
    pictures = torch.stack([torch.tensor(np.asarray(i)) for i in generation.images]).permute(0, 3, 1, 2) / 127.5 - 1
    expected = distortion(pictures, Truth.of(dit, torch.stack(truth).repeat_interleave(2, 0)))
    rows = result.table[result.table["rule"] == "CFG 3 + DG 0.5"]
    assert np.allclose(rows["high_correlation"], expected["high_correlation"], atol=2e-3)  # generate's are 8-bit
    assert np.allclose(rows["amount"], expected["amount"], atol=2e-2)


def test_the_direction_log_holds_cosines_and_norms_of_every_step(result):
    log = result.tables["pushes"]
    part = log[(log["rule"] == "CFG 3") & (log["quantity"] == "cosine")]
    assert len(part) == 2 * 4 * 6 and part["value"].between(-1, 1).all()
    assert result.outcome("hidden CFG").estimate == pytest.approx(
        log.query("rule == 'CFG 3 + DG 0.5' and quantity == 'cosine'")["value"].mean()
    )
    spectra, maps = result.tables["spectra"], result.tables["maps"]
    assert set(spectra["of"]) == {"u", "d", "blur", "twin", "control 0"}
    assert maps.groupby(["rule", "step", "of"]).size().eq(16 * 16).all()


def test_a_detection_gives_the_control_matched_in_variance(dits):
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 0, [5], 60.0)
    dit = dg.load(pipeline)
    result = guidance(
        dit,
        pairs(3),
        [0],
        block=1,
        steps=2,
        controls=1,
        progress=False,
        scales=(),
        windows=(),
        blocks=(),
        max_sequence_length=8,
    )
    assert result.settings["channels"] == [5] and len(result.settings["detection"]) == 1
    assert set(result.table["prompt"]) == set(result.settings["test"]) and len(result.settings["test"]) == 2
    assert "CFG 3 + variance control, norm of DG" in set(result.table["rule"])
    assert "rightness, beside variance control" in set(result.effects()["outcome"])


def test_result_is_kept_and_drawn(result, tmp_path):
    result.save(tmp_path)
    again = open_result(tmp_path)
    assert again.verdict == result.verdict and len(again.table) == len(result.table)
    figure = again.plot()
    assert len(figure.axes) == 7
    from dg_tools.plots import direction_maps

    assert len(direction_maps(again, ("u", "d", "blur")).axes) == 6


def test_perception_of_the_references_is_zero(dits):
    dit = dits("sd3")
    truth = Truth.of(dit, torch.stack([p for _, p in pairs(3)]).repeat(2, 1, 1, 1))
    same = perception(dit, truth.pictures, truth)
    assert same["spectrum"] == 0 and same["statistics"] == 0
    other = perception(dit, truth.pictures * 0.5, truth)
    assert other["spectrum"] == pytest.approx(20 * np.log10(2)) and other["kernel"] > same["kernel"]


def test_distortion_is_in_bands_per_latent_cell_which_an_offset_leaves_as_they_are(dits):
    dit = dits("sd3")
    truth = Truth.of(dit, torch.stack([p for _, p in pairs(3)]))
    samples = 0.5 * truth.pictures + 0.1 * truth.pictures.roll(3, -1)
    before, after = (distortion(x, truth) for x in (samples, samples + 0.3))
    columns = [c for c in before if c.startswith(("low_", "mid_", "high_", "amount")) or c == "detail_share"]
    assert len(columns) == 13
    for column in columns:
        assert np.allclose(before[column], after[column], rtol=1e-5, atol=1e-7), column
    change = (after["error"] - before["error"]).mean()  # of the whole picture: the mean counts
    shift = 0.3 * (0.3 + 2 * (samples - truth.pictures).mean()).item()
    assert change == pytest.approx(shift, rel=1e-4)
    height, width = samples.shape[-2:]
    cycles = dit.vae_scale_factor * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    power = [(np.abs(np.fft.fft2(x.numpy())) ** 2)[..., cycles >= 1 / 4].sum((1, 2)) for x in (samples, truth.pictures)]
    assert np.allclose(before["amount"], np.log2(power[0] / power[1]), atol=1e-5)


def test_amount_counts_doublings(dits):
    truth = Truth.of(dits("sd3"), torch.stack([p for _, p in pairs(3)]))
    doubled = distortion(truth.pictures * 2, truth)
    assert np.allclose(doubled["amount"], 2) and np.allclose(doubled["high_correlation"], 1)
    assert np.allclose(distortion(truth.pictures / 2, truth)["amount_error"], 2)


# -- prompts without pictures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(dits):
    settings = {"channels": [3, 7], "block": 1, "steps": 2, "controls": 2, "windows": [(0.5, 1.0)], "scales": [1.0]}
    seen = Score(lambda pictures, prompts, clean: -(pictures - clean).abs().mean((1, 2, 3)), 0.5)
    settings |= {"scores": {"clip margin": seen}, **tiny.SIZE}
    return guidance(dits("sd3"), ["apple", "tree"], [0, 1], progress=False, max_sequence_length=8, **settings)


def test_prompts_alone_are_compared_with_the_plain_sample(alone, dits):
    """Detail against the sample without guidance; the low band and scores against the run that DG is added to."""
    call = {"seed": [0, 1], "progress": False, "max_sequence_length": 8, "steps": 2, **tiny.SIZE}
    rules = (None, dg.CFG(S), dg.DetailGuidance(S, W, disrupt=OFF))
    plain, cfg, dg_cfg = (dg.generate(dits("sd3"), ["apple", "tree"], guidance=rule, **call).pictures for rule in rules)
    rows = alone.table[alone.table["rule"] == "CFG 3 + DG 0.5"]
    amounts = metrics.amount_change(dg_cfg, plain, 2)
    assert np.allclose(rows["amount"], amounts, atol=0.05)  # generate's are 8-bit
    assert np.allclose(rows["low_band"], metrics.low_correlation(dg_cfg, cfg, 2), atol=1e-3)
    assert np.allclose(rows["clip margin"], -(dg_cfg - cfg).abs().mean((1, 2, 3)), atol=0.01)
    base = alone.table[alone.table["role"] == "base"]
    assert np.allclose(base["low_band"], 1) and (base[base["rule"] == "cond"]["amount"] == 0).all()


def test_the_result_on_prompts_alone_is_whole(alone, tmp_path):
    names = {o.name for o in alone.outcomes}
    assert alone.primary.name == "amount" and len(alone.primary.null) == 2
    assert {"amount, beside gain 1.1", "amount, without CFG", "amount, 1/4 to 1/2", "low_band", "hidden CFG"} <= names
    assert {"clip margin", "amount, CFG direction removed"} <= names and not any("rightness" in n for n in names)
    mean = alone.table.groupby("rule")["amount"].mean()
    gain = alone.outcome("amount, beside gain 1.1")
    assert gain.estimate == pytest.approx(mean["CFG 3 + DG 0.5"] - mean["CFG 3 + gain 1.1"])
    margin = alone.outcome("clip margin")
    assert margin.direction == "above" and margin.margin == -0.5
    assert "Semantics rests on CLIP's margin" in alone.verdict and alone.verdict.startswith(alone.primary.sentence())
    assert "plane" not in alone.tables and "no reference pictures" in alone.notes[0]
    alone.save(tmp_path)
    again = open_result(tmp_path)
    assert again.verdict == alone.verdict and len(again.plot().axes) == 6


@pytest.mark.parametrize(
    ("more", "drawn", "kept", "opening"),
    [
        (0.3, 0.0, 0.99, ("Holds", "Holds")),
        (-0.3, 0.0, 0.5, ("Does not hold", "Does not hold")),
        (0.3, 0.4, 0.99, ("Not shown, matched controls do the same", "Holds")),
    ],
)
def test_the_verdict_on_prompts_alone_can_come_out_either_way(more, drawn, kept, opening):
    table, directions, plan = built()
    ours = {r.name for r in plan if r.role in ("DG", "part of DG")}
    draws = {r.name for r in plan if r.draw >= 0}
    chance = np.random.default_rng(0)
    amount = np.select([table["rule"].isin(ours), table["rule"].isin(draws)], [more, drawn], 0.0)
    table = table.assign(amount=amount + 0.01 * chance.standard_normal(len(table)), low_band=kept)
    effects = guidance_alone.outcomes(table, directions, plan, {})
    said = prompts_alone.verdict(effects, "plain")
    assert said.startswith(opening[0]) and f"was at hand. {opening[1]}: DG keeps the low band" in said
    line = guidance_alone.sentences(guidance_alone.compare(table, plan), "a model")[0]
    assert ("more detail" if more > 0 else "less detail") in line and f"correlates by {kept:.3f}" in line


# -- verdicts ---------------------------------------------------------------------------------------------------------


def built(right=0.0, amount=0.0, drawn=0.0, controls=20):
    """A table in which DG changes the correlation by `right`, the amount error by `amount`; draws by `drawn`."""
    sources = {"d": OFF, "control 0": OFF, "twin": OFF}
    plan = runs(sources, 4, steps=4, scale=S, weight=W, window=(0.2, 0.8), blur_sigma=1.0, controls=controls)
    chance, rows, directions = np.random.default_rng(0), [], []
    for one in plan:
        for prompt in range(12):
            gain = right if one.role in ("DG", "part of DG") else drawn if one.draw >= 0 else 0.0
            less = amount if one.role in ("DG", "part of DG") else 0.0
            noise = 0.002 * chance.standard_normal(2)
            common = {"rule": one.name, "prompt": prompt, "seed": 0}
            high, error = 0.4 + gain + noise[0], 1.0 + less + noise[1]
            rows.append({**common, "high_correlation": high, "amount_error": error})
            directions.append({**common, "quantity": "cosine", "with": "u", "value": 0.9 if one.draw < 0 else 0.1})
    return pd.DataFrame(rows), pd.DataFrame(directions), plan


@pytest.mark.parametrize(
    ("settings", "opening"),
    [
        ({"right": 0.05}, "Holds"),
        ({"right": -0.05}, "Does not hold"),
        ({"right": 0.0}, "Does not hold"),
        ({"right": 0.05, "drawn": 0.06}, "Not shown, matched controls do the same"),
        ({"right": 0.05, "controls": 3}, "Not shown, too few controls"),
        ({"right": 0.02}, "Undecided"),
    ],
)
def test_the_verdict_can_come_out_every_way(settings, opening):
    primary = next(o for o in guidance_outcomes.outcomes(*built(**settings)) if o.primary)
    assert primary.sentence().startswith(opening)


def test_amount_and_rightness_stand_side_by_side():
    table, directions, plan = built(right=-0.1, amount=-0.4)
    effects = {o.name: o for o in guidance_outcomes.outcomes(table, directions, plan)}
    assert effects["rightness"].status == "fails" and effects["amount"].status == "holds"
    assert effects["rightness, CFG direction removed"].status == "holds" and effects["hidden CFG"].status == "holds"
    comparison = guidance_outcomes.compare(table, plan)
    assert set(comparison["amount_is"]) == {"gained"} and set(comparison["rightness_is"]) == {"lost"}
    line = guidance_outcomes.sentences(comparison, "a model")[0]
    assert "amount of detail comes nearer (+0.39" in line and "rightness falls (-0.1" in line


def test_an_interval_in_one_word():
    assert [judgement(*x, 0.1) for x in ((0.2, 0.3), (-0.3, -0.2), (-0.05, 0.1), (0.05, 0.2))] == [
        "gained",
        "lost",
        "same",
        "undecided",
    ]


def test_bad_input_is_refused_before_any_forward(dits):
    dit = dits("sd3")
    good = {"channels": [3], "progress": False}
    for message, change in (
        ("empty list of prompts", {"prompts": []}),
        ("has no picture, and other prompts have one", {"prompts": ["owl", pairs(1)[0]]}),
        (
            "needs pictures: pass .* pairs, or leave baselines",
            {"prompts": ["a", "b"], "baselines": ["PAG"]},
        ),
        ("too small for a band", {"prompts": ["a", "b"], "height": 16, "width": 16}),
        ("at least 2", {"prompts": pairs(1)}),
        ("given twice", {"prompts": [pairs(1)[0], pairs(1)[0]]}),
        ("at least one, and each once", {"seeds": []}),
        ("at least one, and each once", {"seeds": [1, 1]}),
        ("scale=1", {"scale": 1.0}),
        ("more than 0", {"weight": 0.0}),
        ("more than 0", {"scales": [-1.0]}),
        ("2 steps", {"steps": 1}),
        ("1 control", {"controls": 0}),
        ("latent pixels", {"blur_sigma": 0.0}),
        ("outside 0..1", {"window": (0.5, 0.2)}),
        ("outside 0..1", {"windows": [(0.5, 1.2)]}),
        ("pass each once", {"scales": [0.5]}),
        ("pass each once", {"blocks": [2, 2]}),
        ("more than 0", {"noise": 0.0}),
        ("weak_model is a Linear", {"weak_model": torch.nn.Linear(2, 2)}),
    ):
        call = {"prompts": pairs(2), "seeds": [0], **good, **change}
        with pytest.raises(ValueError, match=message):
            guidance(dit, call.pop("prompts"), call.pop("seeds"), **call)
    for change in ({"channels": [99]}, {"block": 9}, {"blocks": [9]}):
        with pytest.raises(IndexError, match="there are 0 to"):
            guidance(dit, pairs(2), [0], **{**good, **change})
