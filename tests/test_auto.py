"""`auto`: a weak model that lacks detail is chosen, kept by the weights' hash, priced and resumed; or none is named."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.datasets.prompts import EMOJI, GENERAL, prompts_for
from dg_tools.forward.restart import Stored
from dg_tools.guidance import auto
from dg_tools.guidance.auto import choose, price, samples, scan, store, trial
from dg_tools.metrics import WeakModelRule, amount_change
from dg_tools.models.journal import Journal
from dg_tools.models.profiles import read_profile, write_profile
from dg_tools.onestep import conditions, velocity
from training import weak_model

CALL = {**tiny.SIZE, "max_sequence_length": 8, "steps": 3}
ANY = WeakModelRule(score=-99.0, high=99.0, low_correlation=-1.0, change=0.0, kept=-99.0, gain=-99.0)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "profiles")


def count_anything(patch):
    """Random weights lack detail by chance only: here every weak model counts."""
    patch.setattr(scan, "RULE", ANY)
    patch.setattr(samples, "LOW_KEPT", -1.0)


@pytest.fixture
def anything(monkeypatch):
    count_anything(monkeypatch)


def plant():
    pipeline = tiny.sd3(seed=0)
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    return dg.load(pipeline)


@pytest.fixture
def planted():
    return plant()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One choice on a model with planted channels: the model, its profile, its folder, and the rows that were run."""
    dit, folder, rows = plant(), tmp_path_factory.mktemp("auto") / "profiles", [0.0]

    def count(module, args, output):
        if not isinstance(module, Stored):
            rows[0] += output[1].shape[0] / len(dit.blocks)

    with pytest.MonkeyPatch.context() as patch:
        count_anything(patch)
        patch.setattr(store, "cache_folder", lambda: folder)
        handles = [block.module.register_forward_hook(count) for block in dit.blocks]
        profile = auto.auto_profile(dit, progress=False, **CALL)
    for handle in handles:
        handle.remove()
    return dit, profile, folder, rows[0]


def test_finds_what_is_planted_and_keeps_the_choice(whole, monkeypatch):
    dit, profile, folder, _ = whole
    assert sorted(profile["channels"]) == [5, 20] and 1 <= profile["block"] < 4 and profile["mode"] == "scale"
    assert profile["rho"] in scan.RHOS and profile["detail_guidance_scale"] in price.WEIGHTS
    assert {row["block"] for row in profile["scan"]} == {1, 2, 3} and len(profile["scan"]) == 12
    assert f"channels {profile['channels']} x {profile['rho']:g} after block" in profile["verdict"]
    best = max(profile["samples"], key=lambda row: row["beyond"])
    assert [best[n] for n in ("block", "rho", "w")] == [profile[n] for n in ("block", "rho", "detail_guidance_scale")]
    file = folder / f"{store.weights_hash(dit)}.json"
    assert read_profile(file) == profile and not list(folder.glob("*.part"))
    guider = dg.DetailGuidance.from_profile(file)
    assert guider.disrupt == dg.Disrupt(profile["channels"], profile["block"], "scale", rho=profile["rho"])
    assert guider.detail_guidance_scale == profile["detail_guidance_scale"]
    assert dg.DetailGuidance(1.0, 0.5, str(file)).disrupt == guider.disrupt
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in dit.transformer.modules())
    monkeypatch.setattr(store, "cache_folder", lambda: folder)
    monkeypatch.setattr(scan, "trial_of", lambda *a: pytest.fail("scanned again"))
    assert auto.auto_profile(dit, progress=False, **CALL) == profile
    made = dg.generate(dit, "apple", guidance=dg.DetailGuidance(2.0, 0.8, "auto"), progress=False, **CALL)
    same = dg.generate(dit, "apple", guidance=dg.DetailGuidance(2.0, 0.8, guider.disrupt), progress=False, **CALL)
    assert torch.equal(made.latents, same.latents) and made.guided[0].mean_push > 0
    again = dg.DetailGuidance.from_config(dg.DetailGuidance(2.0, 0.8, "auto").config)
    assert again.auto and again.disrupt is None


def test_the_price_is_what_was_run(whole):
    _, profile, _, rows = whole
    timed = 2  # the forecast's own
    assert profile["price"]["forwards"] == pytest.approx(rows - timed, abs=0.6) and profile["price"]["decodes"] == 21
    assert 0 < profile["price"]["pictures"] <= 20 and profile["window"] == [0.0, 1.0]


def test_other_weights_have_another_choice(planted):
    before = store.weights_hash(planted)
    with torch.no_grad():
        planted.transformer.proj_out.bias[0] += 1
    assert store.weights_hash(planted) != before


def test_where_nothing_lacks_detail_a_sentence_says_so_and_no_block_is_named(planted, monkeypatch, capsys):
    monkeypatch.setattr(scan, "RULE", WeakModelRule(score=99.0))
    profile = auto.auto_profile(planted, progress=False, **CALL)
    assert profile["block"] is None and not profile["samples"] and sorted(profile["channels"]) == [5, 20]
    assert "no block is named: none of 12 settings makes a weak model" in profile["verdict"]
    assert "not surely more than 99" in profile["verdict"] and profile["verdict"] in capsys.readouterr().out
    monkeypatch.setattr(scan, "trial_of", lambda *a: pytest.fail("scanned again"))
    with pytest.raises(RuntimeError, match='disrupt="auto": no block is named'):
        dg.generate(planted, "apple", guidance=dg.DetailGuidance(2.0, 0.8, "auto"), progress=False, **CALL)
    with pytest.raises(ValueError, match="names no block: no block is named"):
        dg.DetailGuidance.from_profile(profile, detail_guidance_scale=1.0)


def test_nothing_massive_is_said(dits, monkeypatch, capsys):
    """Before a picture is drawn a forward on noise says that there may be none; the pictures decide."""
    dit, states = dg.load(tiny.sd3(seed=0)), []
    handles = [b.module.register_forward_hook(lambda m, a, output: states.append(output[1][0])) for b in dit.blocks]
    expected = price.forecast(dit, "apple", **CALL)
    for handle in handles:
        handle.remove()
    for x in states[: len(dit.blocks)]:  # the rule by hand, on the first forward
        size, one_sign = x.abs().mean(0), (x > 0).float().mean(0)
        steady = x.std(0, correction=0) <= 0.5 * x.mean(0).abs()
        assert not ((size >= 5 * np.median(size)) & (abs(one_sign - 0.5) >= 0.45) & steady).any()
    assert expected.on_noise == () and sorted(price.forecast(plant(), "apple", **CALL).on_noise) == [5, 20]
    said = []

    def drawn(*args, **kwargs):
        said.append(capsys.readouterr().out)
        return trial.sampled(*args, **kwargs)

    monkeypatch.setattr(choose, "sampled", drawn)
    with pytest.raises(RuntimeError, match="no channel of this model is massive"):
        auto.auto_profile(dit, progress=False, **CALL)
    assert "auto: this model may have no massive channel: in one forward on noise none has 5 times" in said[0]


def test_what_cannot_be_tried_is_refused_first(planted):
    with pytest.raises(ValueError, match="2 prompts; auto scans at least 4"):
        auto.auto_profile(planted, prompts=["a", "b"], **CALL)
    with pytest.raises(ValueError, match="pass at least two prompts"):
        auto.scan_blocks(planted, ["a"], **CALL)


# -- one step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_weak_predictions_are_those_of_whole_forwards_with_a_hook(dits, name):
    dit, channels = dits(name), [3, 7]
    z = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    inputs = conditions(dit, ["apple", "owl"], *tiny.SIZE.values(), max_sequence_length=8)
    edits = [dg.Disrupt(channels, b, "scale", rho=r) for b, r in ((2, 1.5), (0, 0.0), (2, 0.5))]
    spent: list[float] = []
    made = list(trial.weak_predictions(dit, z, 0.5, inputs, edits, spent.append))
    count, last = len(dit.blocks), {}

    def scaled(module, args, output, block, rho):
        record = dit.blocks[block].record
        hidden = record.get(output, "image", 8 * 12).clone()
        hidden[..., channels] *= rho
        return record.put(output, "image", hidden, 8 * 12)

    def reading(module, args, output):
        last["image"] = dit.blocks[-1].record.get(output, "image", 8 * 12)[..., channels].double()

    def forward(block=None, rho=1.0):
        handles = [dit.blocks[-1].module.register_forward_hook(reading)]
        if block is not None:
            module = dit.blocks[block].module
            handles.append(module.register_forward_hook(lambda m, a, o: scaled(m, a, o, block, rho)))
        hidden = dit.pipeline._pack_latents(z, *z.shape) if name == "flux" else z
        level = torch.full((2,), 0.5 * dit.family.timestep_scale)
        with torch.no_grad():
            out = dit.transformer(**inputs, hidden_states=hidden, timestep=level, return_dict=False)[0]
        for handle in handles:
            handle.remove()
        unpacked = dit.pipeline._unpack_latents(out, *tiny.SIZE.values(), 2) if name == "flux" else out
        return unpacked, last["image"]

    def output_of(block):
        seen = {}
        handle = dit.blocks[block].module.register_forward_hook(
            lambda m, a, o: seen.update(x=dit.blocks[block].record.get(o, "image", 8 * 12)[..., channels].double())
        )
        clean = forward()
        handle.remove()
        return seen["x"], *clean

    assert len(made) == 4 and torch.equal(made[0][1], torch.ones(2))
    for (weak, kept), edit in zip(made[1:], edits, strict=True):
        before, clean, after_clean = output_of(edit.block)
        theirs, after = forward(edit.block, edit.rho)
        assert torch.allclose(made[0][0], clean, atol=1e-5) and torch.allclose(weak, theirs, atol=1e-5)
        assert (weak - clean).abs().max() > 1e-3
        change = (edit.rho - 1) * before
        share = (change * (after - after_clean)).sum((1, 2)) / change.square().sum((1, 2))
        assert torch.allclose(kept.double(), share, rtol=1e-3, atol=1e-5)
    assert sum(spent) == pytest.approx(2 * (1 + sum((count - e.block - 1) / count for e in edits)))
    assert not any(m._forward_hooks for m in dit.transformer.modules())


@pytest.mark.parametrize("name", ["chroma", "flux2", "qwen", "sana", "wan"])
def test_weak_predictions_of_other_families(name):
    tinies = tiny.families()[name]
    dit = dg.load(tinies.pipeline())
    call = {k: v for k, v in tinies.CALL.items() if k != "steps"}
    inputs = conditions(dit, ["a", "b"], **tinies.SIZE, **call)
    z = trial.sampled(dit, ["a", "b"], [0, 1], lambda rows: None, steps=1, **tinies.SIZE, **call).latents
    edits = [dg.Disrupt([3, 5], 1, "scale", rho=2.0), dg.Disrupt([3, 5], 0, "scale", rho=0.5)]
    (cond, _), *made = trial.weak_predictions(dit, z, 0.5, inputs, edits, lambda rows: None)
    for (weak, _), edit in zip(made, edits, strict=True):
        whole = velocity(dit, z, 0.5, inputs, [edit])
        assert (weak - whole).abs().max() < 1e-4 * whole.abs().max() and not torch.equal(weak, cond)


def test_what_belongs_to_the_readers_own_call_is_not_passed_on(planted, monkeypatch):
    passed = []
    monkeypatch.setattr(choose, "chosen", lambda *a, **k: passed.append(k) or KEPT)
    call = {**CALL, "steps": 99, "latents": torch.ones(1), "negative_prompt": "b", "output_type": "pt"}
    auto.auto_profile(planted, cache=False, progress=False, **call)
    assert passed == [{**CALL, "steps": 28}]


def test_the_change_of_the_last_block_is_there_after_it(dits):
    dit = dits("sd3")
    inputs = conditions(dit, ["apple"], *tiny.SIZE.values(), max_sequence_length=8)
    edits = [dg.Disrupt([3], len(dit.blocks) - 1, "scale", rho=2.0)]
    made = list(trial.weak_predictions(dit, torch.randn(1, 4, 16, 24), 0.5, inputs, edits, lambda rows: None))
    assert made[1][1].tolist() == [1.0] and not torch.equal(made[0][0], made[1][0])


def test_the_scan_judges_all_pictures_together_in_any_chunks(planted):
    call = {**CALL, "steps": 1, "progress": False}
    settings = {"blocks": [2], "rhos": (0.5, 2.0), **call}
    one, two = (auto.scan_blocks(planted, ["a", "b", "c"], chunk=n, **settings) for n in (1, 3))
    assert list(one["rho"]) == [0.5, 2.0] and not one["eligible"].any() and one["misses"].map(len).min() > 0
    assert np.allclose(one[["score", "gain", "change", "kept"]], two[["score", "gain", "change", "kept"]], atol=1e-4)
    with pytest.raises(ValueError, match=r"no channel is massive at blocks \[0\]"):
        auto.scan_blocks(planted, ["a", "b"], blocks=[0], **call)


def test_blocks_are_spread_evenly_as_far_as_the_room_goes(planted):
    known = type("M", (), {"channels": [5], "at": lambda self, block: [5] if block else []})()
    assert scan.candidates(planted, known, 1e9) == [1, 2, 3]
    assert scan.candidates(planted, known, 12 * (2 / 4)) == [1, 3]  # after the last block nothing is left to run
    assert scan.candidates(planted, known, 1) == []
    assert scan.candidates(planted, known, 1e9, 2) == [1, 3]


# -- guided samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_the_samples_are_those_of_detail_guidance_and_of_its_gain(dits, name):
    dit, edit, spent = dits(name), dg.Disrupt([3, 7], 1, "scale", rho=1.8), []
    run = trial.sampled(dit, ["a", "b"], [3, 4], spent.append, edit=edit, weight=0.8, **CALL)
    for i, (prompt, seed) in enumerate((("a", 3), ("b", 4))):
        theirs = dg.generate(dit, prompt, seed=seed, guidance=dg.DetailGuidance(1.0, 0.8, edit), progress=False, **CALL)
        assert torch.allclose(run.latents[i], theirs.latents[0], atol=1e-4)
        assert [g[i].item() for g in run.gains] == pytest.approx(list(theirs.guided[0].gain), rel=1e-4)
    count = len(dit.blocks)
    assert sum(spent) == pytest.approx(2 * 3 * (1 + (count - 2) / count))
    plain = trial.sampled(dit, ["a"], [3], spent.append, **CALL).latents
    assert torch.allclose(plain, dg.generate(dit, "a", seed=3, progress=False, **CALL).latents, atol=1e-5)
    forward, factors = dit.transformer.forward, iter((1.1, 1.2, 1.3))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dit.transformer, "forward", lambda **k: (next(factors) * forward(**k)[0],))
        theirs = dg.generate(dit, "a", seed=3, progress=False, **CALL).latents
    ours = trial.sampled(
        dit, ["a"], [3], spent.append, factors=[torch.tensor([f]) for f in (1.1, 1.2, 1.3)], **CALL
    ).latents
    assert torch.allclose(ours, theirs, atol=1e-4) and not torch.allclose(ours, plain, atol=1e-2)
    assert "forward" not in vars(dit.transformer)


def test_samples_run_in_chunks(dits):
    dit, edit, spent, call = dits("sd3"), dg.Disrupt([3, 7], 1, "scale", rho=1.8), [], {**CALL, "steps": 2}
    base = samples.Base(["a", "b", "c"], range(3), torch.empty(0), 2)
    parts = base.run(dit, spent.append, edit=edit, weight=0.8, **call)
    at_once = trial.sampled(dit, "abc", range(3), lambda rows: None, edit=edit, weight=0.8, **call)
    assert torch.allclose(parts.latents, at_once.latents, atol=1e-4) and max(spent) == 2
    assert torch.allclose(torch.stack(parts.gains), torch.stack(at_once.gains), atol=1e-5)
    factors = [torch.tensor([1.1, 1.2, 1.3])] * 2
    louder = base.run(dit, spent.append, factors=factors, **call).latents
    assert torch.allclose(
        louder, trial.sampled(dit, "abc", range(3), lambda rows: None, factors=factors, **call).latents, atol=1e-4
    )


def test_what_counts_is_the_amount_beyond_the_own_gain():
    about = {"block": 2, "rho": 1.5, "channels": [5]}
    rows = [
        {**about, "run": "DG", "w": 0.5, "strength": 0.1, "amount": [0.3, 0.5], "low": [1.0, 0.92]},
        {**about, "run": "DG", "w": 1.0, "strength": 0.2, "amount": [0.9, 0.9], "low": [0.9, 0.9]},
        {**about, "run": "its gain", "w": 1.0, "strength": 0.2, "amount": [0.2, 0.4], "low": [1.0, 1.0]},
        {**about, "block": 3, "run": "DG", "w": 1.0, "strength": 0.4, "amount": [0.5, 0.5], "low": [1.0, 1.0]},
    ]
    table = samples.compared(rows)
    assert table["amount"].tolist() == pytest.approx([0.4, 0.9, 0.5])
    assert table["gain_amount"].tolist() == pytest.approx([0.15, 0.3, 0.6])  # by strength, where it was not run
    assert table["beyond"].tolist() == pytest.approx([0.25, 0.6, -0.1])
    assert table["kept"].tolist() == [True, False, True]
    scan_rows = [{**about, "score": 0.5, "score_low": 0.3, "score_high": 0.7, "gain": 0.9, "eligible": True}]
    scan_rows += [{**scan_rows[0], "rho": 0.0, "score": -0.2, "eligible": False}]
    massive = type("M", (), {"channels": [5]})()
    profile = choose.profile_of(massive, pd.DataFrame(scan_rows), table)
    choice = [profile[name] for name in ("block", "rho", "detail_guidance_scale")]
    assert choice == [2, 1.5, 0.5]  # w 1 loses the low band
    assert "Zeroing (rho 0) makes no detail-deficient model here: its best score is -0.20" in profile["verdict"]
    lost = choose.profile_of(massive, pd.DataFrame(scan_rows), table.assign(kept=False))
    assert lost["block"] is None and "lose the low band" in lost["verdict"]
    assert json.loads(json.dumps(profile)) == profile


def test_finalists_are_of_two_blocks():
    rows = [(1, 1.5, 0.4, True), (1, 2.0, 0.6, True), (2, 2.0, 0.5, True), (3, 2.0, 0.9, False), (4, 1.5, 0.3, True)]
    table = pd.DataFrame(rows, columns=["block", "rho", "score", "eligible"])
    assert [(r["block"], r["rho"]) for r in samples.finalists(table)] == [(1, 2.0), (2, 2.0)]


# -- the price --------------------------------------------------------------------------------------------------------


def test_the_forecast_is_a_bound_and_no_model_costs_more_than_twenty_pictures(dits):
    made = auto.forecast(dits("flux"), "a", **CALL)
    assert 0 < made.pictures <= 20 and made.decodes == 21 and made.seconds > 0 and made.memory > 1000
    for blocks, steps in ((4, 28), (24, 28), (57, 28), (57, 50), (12, 20)):

        class Deep:
            default_steps = steps
            family = type("F", (), {"partial_forward": True})

        dit = Deep()
        dit.blocks = range(blocks)
        known = type("M", (), {"channels": [5], "at": lambda self, b: [5]})()
        unit = price.picture_rows(dit)
        tried = scan.candidates(dit, known, price.scan_room(dit, steps))
        trials = len(scan.SIGMAS) * len(scan.RHOS) * sum(trial.share_after(dit, b) for b in tried)
        assert len(tried) >= min(5, blocks)
        assert price.SCANNED * (steps + 2 * len(scan.SIGMAS) + trials) <= price.SCAN_PICTURES * unit
        assert price.sample_rows(dit, [0, 1], steps, 1) <= (price.SAMPLE_PICTURES - 0.5) * unit


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_an_interrupted_choice_goes_on_from_what_is_done(planted, whole, anything, tmp_path, monkeypatch, caplog):
    own, calls = scan.trial_of, []

    def interrupted(dit, *args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(dit, *args)

    monkeypatch.setattr(scan, "trial_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        auto.auto_profile(planted, progress=False, **CALL)
    assert "interrupted: what is done is kept in" in caplog.text
    assert list((tmp_path / "profiles").glob("*.part/*.safetensors"))
    drawn = trial.sampled
    plain = []

    def noted(*args, **kwargs):
        plain.append(kwargs.get("edit") is None and not kwargs.get("factors"))
        return drawn(*args, **kwargs)

    monkeypatch.setattr(choose, "sampled", noted)
    again = auto.auto_profile(planted, progress=False, **CALL)
    assert len(calls) == 3 and not plain  # one chunk of two was left, and no picture was drawn again
    assert {**again, "price": None} == {**whole[1], "price": None}
    assert not list((tmp_path / "profiles").glob("*.part"))


def test_a_journal_of_other_settings_is_begun_anew(tmp_path):
    journal = Journal(tmp_path / "x.part", {"steps": 3})
    journal["scan"] = [1.0, float("nan")]
    journal.keep_latents("a", torch.ones(2, 3))
    assert Journal(tmp_path / "x.part", {"steps": 3})["scan"] == [1.0, None]
    assert torch.equal(Journal(tmp_path / "x.part", {"steps": 3}).latents("a"), torch.ones(2, 3))
    other = Journal(tmp_path / "x.part", {"steps": 4})
    assert "scan" not in other and other.latents("a") is None
    (tmp_path / "x.part" / "a.safetensors").write_bytes(b"damaged")
    assert Journal(tmp_path / "x.part", {"steps": 3}).latents("a") is None
    (tmp_path / "x.part" / "journal.json").write_bytes(b"{")
    assert "scan" not in Journal(tmp_path / "x.part", {"steps": 3})


@pytest.mark.parametrize(
    "content", [b"", b'{"channels": [3], "blo', b"[]", b"3", b'{"channels": [3]}', b"\xff\x00",
                b'{"channels": "37", "block": 1}', b'{"channels": [3], "block": 99}'],
)  # fmt: skip
def test_a_damaged_choice_is_made_again(planted, tmp_path, caplog, content, monkeypatch):
    monkeypatch.setattr(choose, "chosen", lambda *a, **k: {**KEPT, "channels": [5, 20]})
    file = tmp_path / "profiles" / f"{store.weights_hash(planted)}.json"
    file.parent.mkdir()
    file.write_bytes(content)
    profile = auto.auto_profile(planted, progress=False, **CALL)
    assert sorted(profile["channels"]) == [5, 20]
    assert f"the choice kept in {file} is damaged" in caplog.text and "made again" in caplog.text
    caplog.clear()
    assert auto.auto_profile(planted, progress=False, **CALL) == profile and not caplog.text


KEPT = {"channels": [5], "block": 1, "mode": "scale", "rho": 1.5, "source": "a test", "verdict": "a test"}


def test_a_choice_by_an_earlier_objective_is_read_as_a_profile_and_made_again(planted, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="dg_tools")
    old = {"channels": [5, 20], "block": 0, "objective": "zeroing", "source": "auto", "by_block": []}
    file = tmp_path / "profiles" / f"{store.weights_hash(planted)}.json"
    file.parent.mkdir()
    file.write_text(json.dumps(old))
    assert dg.DetailGuidance(1.0, 0.5, str(file)).disrupt == dg.Disrupt([5, 20], 0)
    monkeypatch.setattr(choose, "chosen", lambda *a, **k: KEPT)
    assert auto.auto_profile(planted, progress=False, **CALL)["rho"] == 1.5
    assert "was written by an earlier version of auto" in caplog.text


def test_a_profile_of_other_weights_is_taken_with_a_warning(planted, monkeypatch, caplog):
    """A folder with other weights and the old profile.json; another dtype is another hash, and no other model."""
    hash_, dtype = store.weights_hash(planted), "float32"
    for profile, warned in (
        ({**KEPT, "weights": hash_, "dtype": dtype}, False),
        ({**KEPT, "weights": "0" * 16, "dtype": "bfloat16"}, False),
        (KEPT, False),
        ({**KEPT, "weights": "0" * 16, "dtype": dtype}, True),
    ):
        monkeypatch.setattr(planted, "profile", profile)
        assert store.default_profile(planted) == profile
        assert ("was made for other weights (0000000000000000; these are " + hash_ in caplog.text) is warned
        assert warned or not caplog.text


def test_a_choice_that_cannot_be_kept_is_used(planted, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(choose, "chosen", lambda *a, **k: {**KEPT, "channels": [5, 20]})
    (tmp_path / "profiles").write_text("a file where the folder should be")
    profile = auto.auto_profile(planted, progress=False, **CALL)
    assert sorted(profile["channels"]) == [5, 20] and "could not be kept in" in caplog.text
    journal = Journal(tmp_path / "profiles" / "x.part", {})
    journal["scan"] = 1
    assert journal["scan"] == 1 and "what is done cannot be kept" in caplog.text


def test_an_attribute_that_was_changed_is_kept(planted, monkeypatch):
    monkeypatch.setattr(choose, "chosen", lambda *a, **k: KEPT)
    guider = dg.DetailGuidance(detail_guidance_scale=0.5, disrupt="auto")
    guider.detail_guidance_scale = 0.9
    assert guider.resolved(planted, progress=False, **CALL).detail_guidance_scale == 0.9


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(ValueError, match="p.json is not a profile: it is not JSON"):
        dg.DetailGuidance(1.0, 0.5, str(tmp_path / "p.json"))


def test_names_of_profiles():
    with pytest.raises(ValueError, match="names channels .154, 1446. and no block, since none is published"):
        dg.DetailGuidance(1.0, 0.5, "black-forest-labs/FLUX.1-dev")
    with pytest.raises(ValueError, match="no profile 'owner/name'"):
        dg.DetailGuidance(1.0, 0.5, "owner/name")
    profile = dg.load().profile
    weak = dg.Disrupt(profile["channels"], profile["block"], "scale", rho=profile["rho"])
    assert dg.DetailGuidance(1.0, 0.5, "emoji-sd3").disrupt == weak == dg.Disrupt.from_profile(profile)
    with pytest.raises(ValueError, match="needs a model"):
        dg.DetailGuidance(1.0, 0.5, "auto").passes(0, 1)


def test_captions_for_the_embedded_models_and_general_prompts_for_others(dits):
    assert prompts_for(dg.load()) == EMOJI and prompts_for(dits("sd3")) == GENERAL
    assert len(set(GENERAL)) == len(GENERAL) >= 7


@pytest.mark.parametrize("name", ["emoji-sd3", "emoji-flux"])
def test_an_embedded_model_carries_its_choice_and_it_acts(name, monkeypatch):
    """Made by `python -m training.weak_model`: nothing is tried again, and the guidance it gives changes the run."""
    dit = dg.load(name)
    monkeypatch.setattr(choose, "chosen", lambda *a, **k: pytest.fail("chosen again"))
    profile = auto.auto_profile(dit)
    assert profile["weights"] == store.weights_hash(dit) and profile["model"] == name
    assert profile["price"]["pictures"] <= 20 and profile["measured"]["beyond"][1] > 0
    row = next(r for r in profile["scan"] if (r["block"], r["rho"]) == (profile["block"], profile["rho"]))
    assert row["eligible"] and row["channels"] == profile["channels"]
    guider = dg.DetailGuidance(detail_guidance_scale=profile["detail_guidance_scale"], disrupt="auto")
    report = dg.generate(dit, "red apple", steps=2, guidance=guider, progress=False).guided[0]
    assert min(report.change) >= 0.1 and max(report.gain) < 1
    with torch.no_grad():
        dit.transformer.proj_out.bias[0] += 1
    assert store.shipped_profile(dit) is None


def test_what_a_choice_is_worth_on_other_prompts(whole):
    dit, profile, *_ = whole
    call = {k: v for k, v in CALL.items() if k != "steps"}
    made = auto.measured_on(dit, profile, ["x", "y", "z"], seeds=[7, 8, 9], chunk=2, steps=2, progress=False, **call)
    assert made["prompts"] == 3 and made["steps"] == 2
    weak = dg.Disrupt(profile["channels"], profile["block"], "scale", rho=profile["rho"])
    guider = dg.DetailGuidance(1.0, profile["detail_guidance_scale"], weak)
    amounts, alone, cell = [], [], dit.vae_scale_factor
    for prompt, seed in zip("xyz", (7, 8, 9), strict=True):
        pair = dg.generate(dit, prompt, seed=seed, steps=2, guidance=[None, guider], progress=False, **call)
        factor = pair.guided[1].own_gain(profile["detail_guidance_scale"])
        louder = dg.generate(
            dit, prompt, seed=seed, steps=2, guidance=dg.baselines.Gain(gain=factor), progress=False, **call
        )
        plain, guided = pair.pictures[:1], pair.pictures[1:]
        amounts.append(amount_change(guided, plain, cell).item())
        alone.append(amount_change(louder.pictures, plain, cell).item())
    assert made["amount"][0] == pytest.approx(np.mean(amounts), abs=0.02)  # PIL rounds to 8 bits
    assert made["gain_amount"][0] == pytest.approx(np.mean(alone), abs=0.02)
    assert made["beyond"][0] == pytest.approx(np.mean(amounts) - np.mean(alone), abs=0.04)
    with pytest.raises(ValueError, match="pass at least two prompts"):
        auto.measured_on(dit, profile, ["x"])


def test_the_file_that_training_writes_is_a_profile(whole, tmp_path, monkeypatch):
    """`training.weak_model`: the choice, measured on held-out captions only, as a file that a guidance takes."""
    dit, profile, *_ = whole
    monkeypatch.setattr(weak_model, "auto_profile", lambda *args, **kwargs: dict(profile))
    asked = []

    def measured_on(dit, profile, captions, **kwargs):
        asked.extend(captions)
        return auto.measured_on(dit, profile, captions, chunk=2, **{**CALL, **kwargs})

    monkeypatch.setattr(weak_model, "measured_on", measured_on)
    source = dg.references()
    made = weak_model.chosen(dit, source, 2, otherwise=[3], progress=False)
    assert len(asked) == 2 and all(source.named(caption).held_out for caption in asked)
    file = write_profile(tmp_path / "profile.json", made)
    again = read_profile(file)
    assert (
        again["measured"]["prompts"] == 2
        and again["channels"] == profile["channels"] == read_profile(tmp_path)["channels"]
    )
    weak = dg.Disrupt(profile["channels"], profile["block"], "scale", rho=profile["rho"])
    guider = dg.DetailGuidance(1.0, 0.5, disrupt=str(file))
    assert guider.disrupt == weak
    assert dg.generate(dit, "x", guidance=guider, progress=False, **CALL).guided[0].mean_push > 0

    def none_is_massive(*args, **kwargs):
        raise RuntimeError("no massive channel")

    monkeypatch.setattr(weak_model, "auto_profile", none_is_massive)
    made = weak_model.chosen(dit, source, 2, otherwise=[3], progress=False)
    file = write_profile(tmp_path / "none.json", made)
    assert read_profile(file)["channels"] == [3] and "no massive channel" in made["verdict"] and len(asked) == 2
    with pytest.raises(ValueError, match="no block"):
        dg.DetailGuidance(1.0, 0.5, disrupt=str(file))
