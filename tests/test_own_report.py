"""A report on a model without references: what is planted is found, noise is not judged, a stopped report goes on."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import socket

import numpy as np
import pytest
import tiny
import tiny_wan
import torch
from safetensors.torch import load_file

import dg_tools as dg
from dg_tools.datasets.examples import Example
from dg_tools.guidance.auto import samples as auto_samples
from dg_tools.guidance.auto import scan, store
from dg_tools.metrics import WeakModelRule
from dg_tools.models.profiles import read_profile
from dg_tools.report import Report, channels, forecast, measure, own_rows, own_runs, plan, rules
from dg_tools.report.extent import extent_of
from dg_tools.report.sections import KEYS
from dg_tools.report.stages import FOLDER, Stages, Unit
from dg_tools.report.subjects import Subjects, chunks
from dg_tools.report.verdict import NOT_TESTED, REPORTED

CHANNELS, BLOCK, VALUE = [5, 20], 1, 400.0
PROMPTS = ["a red apple", "an owl", "a house", "a tree", "a fish", "the sun", "a boat", "a key"]
TOY = {"size": "toy", "batch": 2, "progress": False}
WEAK_ROWS = {
    f"{weak} {row}" for weak in ("zero", "auto") for row in ("a", "stays", "b", "c", "d", f"b, {own_rows.CFG}")
}
SAMPLE_ROWS = WEAK_ROWS | {"curve", "capable"}


def anything_counts(patch, folder):
    """Random weights draw noise and lack detail by chance only: here every model can draw, and every edit acts."""
    any_rule = WeakModelRule(score=-99.0, high=99.0, low_correlation=-1.0, change=0.0, kept=-99.0, gain=-99.0)
    patch.setattr(scan, "RULE", any_rule)
    patch.setattr(auto_samples, "LOW_KEPT", -1.0)
    patch.setattr(store, "cache_folder", lambda: folder / "profiles")
    for name, value in {"DENOISED": 1e9, "COARSER": 1e9, "ACTS": 0.0}.items():
        patch.setattr(rules, name, value)


def loaded(pipeline=None, **call):
    if pipeline is None:
        pipeline = tiny.sd3(seed=0)
        tiny.plant(pipeline, BLOCK, CHANNELS, VALUE)
    dit = dg.load(pipeline)
    dit.call = {**tiny.SIZE, "max_sequence_length": 8, **call}
    return dit


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A report at toy size on a model with planted channels: the model, the report, its folder."""
    folder = tmp_path_factory.mktemp("whole")
    dit = loaded()
    with pytest.MonkeyPatch.context() as patch:
        anything_counts(patch, folder)
        made = measure(dit, PROMPTS, out=folder / "report", **TOY)
    return dit, made, folder / "report"


def values(report):
    """Everything of a report but its times."""
    record = report.to_json()
    del record["cost"]
    if record["profile"] is not None:
        record["profile"] = {**record["profile"], "price": None}  # in pictures, by the time that one takes
    record["sections"] = [s for s in record["sections"] if s["key"] != "cost"]
    return record


def test_what_is_planted_is_found_and_every_section_is_filled(whole):
    dit, made, _ = whole
    assert tuple(s.key for s in made.sections) == KEYS and not [s.key for s in made.sections if s.missing]
    rows = {row[0]: row for row in made.section("channels").tables[0].rows}
    assert sorted(rows) == CHANNELS and {row[1] for row in rows.values()} == {dit.sites[BLOCK]}
    assert {row[2] for row in rows.values()} == {dit.sites[BLOCK]}, "written where they are planted"
    gates = made.section("gates").tables[0].rows
    assert {row[0] for row in gates} == set(CHANNELS) and {row[1] for row in gates} == {dit.sites[BLOCK]}
    assert {row.key for row in made.claims} == {claim.key for claim in rules.CHANNELS} | SAMPLE_ROWS
    assert not {row.key for row in made.claims if row.key in WEAK_ROWS and "not run" in row.why}
    assert next(row for row in made.claims if row.key == "auto d").status == REPORTED
    titles = made.section("strip").figures[0].numbers["titles"]
    assert titles[:4] == ["cond", "weak model", "DG", "its gain alone"] and titles[-2] == "DG, other channels"
    assert {own_rows.CFG, f"{own_rows.CFG} + DG"} < set(titles) and titles[-1].startswith("knob, rho ")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in dit.transformer.modules())


def test_the_folder_holds_the_page_the_numbers_and_a_profile(whole):
    _, made, folder = whole
    assert {p.name for p in folder.iterdir()} == {
        "index.html", "report.json", "run.safetensors", "profile.json", "figures", FOLDER
    }  # fmt: skip
    record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert Report.open(folder).to_json() == made.to_json() == record
    profile = read_profile(folder / "profile.json")
    assert sorted(profile["channels"]) == CHANNELS
    guider = dg.DetailGuidance(2.0, 0.5, str(folder / "profile.json"))
    assert guider.disrupt.block == profile["block"]


def test_the_run_that_the_page_shows_is_what_hooks_see(whole):
    dit, made, folder = whole
    run, seen = made.run, []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[1][0]))
        for block in dit.transformer.transformer_blocks
    ]
    try:
        picture = dg.generate(dit, run.about["prompt"], seed=0, steps=len(run.about["steps"])).images[0]
    finally:
        for hook in hooks:
            hook.remove()
    assert (
        run.about["steps"] == list(range(made.settings["steps"])) and run.about["massive"] == run.about["kept_channels"]
    )
    assert sorted(run.about["massive"]) == CHANNELS and run.about["grid"] == list(
        dit.grid(tiny.SIZE["height"], tiny.SIZE["width"])
    )
    states = torch.stack(seen).unflatten(0, (-1, len(dit.blocks))).float()  # step, block, token, channel
    arrays = load_file(folder / "run.safetensors")
    by_hand = {
        "abs_mean": states.abs().mean(2),
        "token_norm": states.norm(dim=3),
        "top_value": torch.gather(f := states.flatten(2), 2, f.abs().argmax(2, keepdim=True))[..., 0],
        "median_abs_mean": states.abs().mean(2).sort(dim=2).values[..., (states.shape[-1] - 1) // 2],
        "hidden": states[..., run.about["kept_channels"]],
    }
    for name, value in by_hand.items():
        torch.testing.assert_close(arrays[name].float(), value, rtol=2**-8, atol=1e-6)
    assert (arrays["picture"].numpy() == np.asarray(picture)).all()
    step, block, channel, token = (run.about["opens_at"][name] for name in ("step", "block", "channel", "token"))
    shown = arrays["hidden"][step, block, :, run.about["kept_channels"].index(channel)].float().abs()
    assert channel in CHANNELS and block >= BLOCK and shown[token] == shown.max()


def test_the_forecast_is_an_upper_bound_and_stands_beside_what_was_measured(whole):
    _, made, _ = whole
    expected, spent = made.cost["forecast"], made.cost["measured"]
    assert 0 < spent["forwards"] <= expected["forwards"] and 0 < spent["decodes"] <= expected["decodes"]
    table = made.section("cost").tables[0]
    for stage, at_most, decodes_at_most, _, forwards, decodes, _ in table.rows:
        assert 0 < forwards <= at_most, stage
        assert decodes <= decodes_at_most, stage
    assert sum(row[4] for row in table.rows[:-1]) == pytest.approx(table.rows[-1][4])


def test_the_forecast_bounds_what_a_report_on_emoji_sd3_took():
    """Counted by hooks on a toy report on eight of its references; six channels are massive there."""
    took = {
        "base": (16, 8), "channels": (41, 0), "gates": (48, 0), "drawing": (12, 4), "headroom": (2, 1),
        "zeroing": (88, 312), "w of zeroing": (28, 16), "dose": (420, 408), "samples": (144, 60),
        "controls": (107.3, 16),
    }  # fmt: skip
    pairs = [Example("a red apple", None)] * 4
    given = Subjects(pairs, pairs, 64, 64, "given")
    at_most = plan.counts(given, extent_of("toy"), 2, [1 - (block + 1) / 12 for block in range(12)], True, 4)
    assert at_most.keys() == took.keys()
    for stage, (forwards, decodes) in took.items():
        assert forwards <= at_most[stage][0] < 6 * forwards and decodes <= at_most[stage][1], stage


def test_a_unit_that_two_stages_ask_for_is_paid_once(tmp_path):
    stages = Stages(tmp_path / "report", loaded(), progress=False)
    jobs = {name: lambda: Unit({}) for name in ("one", "two")}
    stages.each("stage", {"one": jobs["one"]})
    before = dict(stages.costs["stage"])
    stages.each("stage", {"one": jobs["one"]})
    assert stages.costs["stage"] == before and before["seconds"] > 0
    stages.each("stage", jobs)
    assert stages.costs["stage"]["seconds"] > before["seconds"], "the other one is paid"


def test_the_strip_says_what_each_number_is_against_and_passes_are_of_one_step(whole):
    _, made, _ = whole
    section = made.section("strip")
    table = section.tables[0]
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["cond"]["passes per step"] == 1 and rows[own_rows.CFG]["passes per step"] == 2
    assert 1 < rows["DG, auto"]["passes per step"] <= 2
    assert rows["weak, zero"]["passes per step"] == rows["its gain, zero"]["passes per step"] == 1
    assert {run: row["against"] for run, row in rows.items() if row["against"] != "cond"} == {
        run: own_rows.CFG for run in rows if run.startswith(f"{own_rows.CFG} and DG")
    }
    numbers = section.figures[0].numbers
    notes = dict(zip(numbers["titles"], numbers["notes"], strict=True))
    assert notes["cond"] == "the base" and notes["DG"].endswith(" against cond")
    assert notes[own_rows.CFG].endswith(" against cond")
    assert notes[f"{own_rows.CFG} + DG"].endswith(f" against {own_rows.CFG}")
    assert rows[f"{own_rows.CFG} and DG, auto"]["passes per step"] <= 3


def test_the_rule_of_auto_is_said_in_words(whole):
    _, made, _ = whole
    words = made.section("weak_model").words
    assert "WeakModelRule" in made.profile["objective"] and "WeakModelRule" not in words
    assert "surely more than 0.15, high-band power ratio below 0.9, " in words


def test_what_is_done_is_not_done_again(whole, monkeypatch, tmp_path):
    dit, made, folder = whole
    anything_counts(monkeypatch, tmp_path)
    monkeypatch.setattr(Stages, "made", lambda *a: pytest.fail("what was done is done again"))
    again = measure(dit, PROMPTS, out=folder, **TOY)
    assert again.to_json() == made.to_json()


def copied(folder, to, *without):
    """A copy of a report's folder in which the units whose names begin so are missing, and the report too."""
    shutil.copytree(folder / FOLDER, to / FOLDER)
    gone = [p for p in (to / FOLDER).iterdir() if p.name.startswith(without)]
    for file in gone:
        file.unlink()
    return len(gone)


def test_a_stopped_report_goes_on(whole, monkeypatch, tmp_path):
    dit, made, folder = whole
    anything_counts(monkeypatch, tmp_path)
    out = tmp_path / "report"
    missing = copied(folder, out, "channels-", "auto-", "test-DG", "matching-", "gates-")
    own, done = Stages.made, []

    def stopping(self, make):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(make)
        return own(self, make)

    monkeypatch.setattr(Stages, "made", stopping)
    with pytest.raises(KeyboardInterrupt, match="what is done is kept"):
        measure(dit, PROMPTS, out=out, **TOY)
    assert not (out / "report.json").exists()
    (out / FOLDER / ".test-DG-auto-0-to-2.safetensors.part0").write_bytes(b"of a process that was killed")
    broken = next((out / FOLDER).glob("headroom-*"))
    broken.write_bytes(broken.read_bytes()[:50])
    kept = {p: p.stat().st_mtime_ns for p in (out / FOLDER).iterdir() if p != broken}
    monkeypatch.setattr(Stages, "made", lambda self, make: done.append(make) or own(self, make))
    again = measure(dit, PROMPTS, out=out, **TOY)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert len(done) == missing + 1, "what was missing, and the broken one"
    assert values(again) == values(made)


def test_a_full_disk(whole, monkeypatch, tmp_path):
    dit, _, folder = whole
    copied(folder, tmp_path / "report", "hidden-")
    real, calls = os.fsync, []

    def fsync(file):
        calls.append(file)
        raise OSError(errno.ENOSPC, "No space left on device")

    anything_counts(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"the disk is full: hidden-.* What is done is kept") as caught:
        measure(dit, PROMPTS, out=tmp_path / "report", **TOY)
    assert caught.value.errno == errno.ENOSPC and len(calls) == 1 and real is not os.fsync
    assert not list((tmp_path / "report").rglob("*.part*")) and not (tmp_path / "report" / "report.json").exists()


def worker(rank, port, dit, out, folder):
    """One of two processes, as a launcher starts them."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({k: str(v) for k, v in (where | ranks).items()})
    with pytest.MonkeyPatch.context() as patch:
        anything_counts(patch, folder)
        made = measure(dit, PROMPTS, out=out, **TOY)
    (folder / f"units{rank}").write_text(json.dumps(sorted(made.cost["stages"])))


def test_two_processes_give_what_one_gives(whole, tmp_path):
    dit, made, folder = whole
    copied(folder, tmp_path / "report", "channels-", "gates-", "test-", "drawing-", "zeroing-", "matching-")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    pair = [fork.Process(target=worker, args=(r, port, dit, tmp_path / "report", tmp_path)) for r in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(240)
    assert [process.exitcode for process in pair] == [0, 0]
    assert values(Report.open(tmp_path / "report")) == values(made)
    assert (tmp_path / "units0").read_text() == (tmp_path / "units1").read_text()


def test_a_model_that_draws_noise_is_not_tested(whole, tmp_path):
    dit, _, folder = whole
    copied(folder, tmp_path / "report")  # what was measured is the same by any rules
    made = measure(dit, PROMPTS, out=tmp_path / "report", **TOY)
    rows = {row.key: row for row in made.claims}
    assert {rows[key].status for key in SAMPLE_ROWS - {"capable"}} == {NOT_TESTED}
    assert all("it is not shown that the model draws pictures" in rows[key].why for key in SAMPLE_ROWS - {"capable"})
    assert rows["capable"].number[1] > rules.DENOISED, "random weights do not denoise"
    assert rows["stands out"].status != NOT_TESTED, "the channels are judged all the same"
    assert made.profile is None and not (tmp_path / "report" / "profile.json").exists()
    assert "Not measured" in made.section("dose").missing
    assert made.section("weak_model").missing.startswith("Not looked for: one step leaves")
    assert made.section("strip").figures[0].numbers["titles"] == ["cond"]


def test_an_edit_that_does_not_act_is_not_tested(whole, tmp_path, monkeypatch):
    dit, _, folder = whole
    copied(folder, tmp_path / "report")
    anything_counts(monkeypatch, tmp_path)
    monkeypatch.setattr(rules, "ACTS", 1e9)
    monkeypatch.setattr(own_runs, "draw_controls", lambda *a: pytest.fail("controls") if a[2].edits else {})
    made = measure(dit, PROMPTS, out=tmp_path / "report", **TOY)
    rows = {row.key: row for row in made.claims}
    assert {rows[key].status for key in WEAK_ROWS} == {NOT_TESTED}
    assert all("the edit hardly acts" in rows[f"{weak} a"].why for weak in ("zero", "auto"))


def test_another_models_folder_is_refused(whole, monkeypatch, tmp_path):
    _, _, folder = whole
    other = loaded(tiny.sd3(seed=1))
    with pytest.raises(FileExistsError, match=r"holds a report on .*pass another folder"):
        measure(other, PROMPTS, out=folder, **TOY)


def test_bad_input_is_refused_before_any_run(whole, tmp_path, monkeypatch):
    dit, _, _ = whole
    monkeypatch.setattr(dit.transformer, "forward", lambda *a, **k: pytest.fail("a forward was run"))
    for arguments, words in (
        ({"items": PROMPTS[:5]}, r"5 distinct prompt\(s\); at least 6 are needed"),
        ({"items": PROMPTS, "size": "huge"}, "allowed: quick, standard, full"),
        ({"items": PROMPTS, "batch": 1}, "at least 2 prompts in one forward"),
        ({"items": PROMPTS, "steps": 0}, "steps=0"),
        ({"items": PROMPTS, "height": 33}, "multiples of 4 pixels"),
        ({"items": PROMPTS, "height": 8, "width": 12}, "height=8, width=12: too small to measure detail in"),
    ):
        with pytest.raises(ValueError, match=words):
            measure(dit, out=tmp_path / "report", **{**TOY, **arguments})
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        measure(dit, PROMPTS, out=tmp_path / "file", **TOY)
    assert not (tmp_path / "report").exists()


def test_the_forecast_alone_runs_next_to_nothing(whole, tmp_path):
    dit, _, _ = whole
    rows = []
    handle = dit.blocks[0].module.register_forward_hook(lambda m, a, output: rows.append(len(output[1])))
    try:
        small, large = (forecast(dit, size=size) for size in ("quick", "standard"))
    finally:
        handle.remove()
    assert len(rows) == 4 and small.forwards < large.forwards and small.seconds > 0
    assert "at most" in str(small) and json.dumps(small.to_json())


def test_pictures_that_are_given_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "profiles")
    pictures = torch.rand(len(PROMPTS), 3, *tiny.SIZE.values(), generator=torch.Generator().manual_seed(0)) * 2 - 1
    items = list(zip(PROMPTS, pictures, strict=True))
    own, seen = channels.measure, []
    monkeypatch.setattr(channels, "measure", lambda dit, pairs, *rest: seen.extend(pairs) or own(dit, pairs, *rest))
    made = measure(loaded(), items, out=tmp_path / "report", **TOY)
    assert made.settings["pictures"] is not None and not made.section("channels").missing
    assert [pair.prompt for pair in seen] == PROMPTS
    assert torch.equal(torch.stack([pair.picture for pair in seen]), pictures), "and not the model's own samples"
    with pytest.raises(ValueError, match="the pictures are 32 x 48"):
        measure(loaded(), items, out=tmp_path / "other", height=64, **TOY)


def plant_wan(pipeline, block, channels, value):
    """A constant written by this block's MLP, through a gate of its own."""
    target, time = pipeline.transformer.blocks[block], pipeline.transformer.condition_embedder.time_proj
    with torch.no_grad():
        for c in channels:
            time.weight[5 * tiny.WIDTH + c] = time.bias[5 * tiny.WIDTH + c] = 0
            target.scale_shift_table[0, 5, c] = 1
            target.ffn.net[2].weight[c], target.ffn.net[2].bias[c] = 0, value


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_other_families(family, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "profiles")
    pipeline, call = tiny.flux(), {}
    if family == "wan":
        pipeline, call = tiny_wan.pipeline(), {**tiny_wan.STOCK, **tiny_wan.SIZE}
        plant_wan(pipeline, BLOCK, CHANNELS, VALUE)
    else:
        tiny.plant(pipeline, BLOCK, CHANNELS, VALUE)
    dit = loaded(pipeline, **call)
    made = measure(dit, PROMPTS, out=tmp_path / "report", **TOY)
    assert sorted(row[0] for row in made.section("channels").tables[0].rows) == CHANNELS
    assert {row[2] for row in made.section("channels").tables[0].rows} == {dit.sites[BLOCK]}


def test_chunks_are_of_nearly_equal_size():
    for count in range(2, 30):
        for batch in range(2, 9):
            sizes = [c.stop - c.start for c in chunks(count, batch)]
            assert sum(sizes) == count and min(sizes) >= 2 and max(sizes) <= max(batch, 3)
