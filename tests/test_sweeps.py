"""Sweeps: every cell once, whatever stops them; one process as several; a choice that other prompts had no part in."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import dg_tools as dg
from dg_tools import cli
from dg_tools.generation.sampling import run
from dg_tools.metrics import cell_correlation, cell_power
from dg_tools.models.pictures import decode
from dg_tools.models.profiles import read_profile
from dg_tools.sweeps import cells as cells_module
from dg_tools.sweeps import open_sweep, read_config
from dg_tools.sweeps.choose import best, recommendation, scores, worse_than
from dg_tools.sweeps.config import COMPARED
from dg_tools.sweeps.settings import Setting, settings_of, spread
from dg_tools.widgets.sweep_code import guidance_code
from dg_tools.widgets.sweep_lookup import StoredSweep, coordinates

ROOT = Path(__file__).parents[1]
WORDS = ("red apple", "owl", "a tree", "sun on blue", "fish")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A reference picture for each prompt, 32 x 48, with detail in it."""
    folder, made = tmp_path_factory.mktemp("pictures"), {}
    for i, word in enumerate(WORDS):
        chance = np.random.default_rng(i)
        array = chance.integers(0, 80, (32, 48, 3)) + np.linspace(0, 170, 48).astype(int)[None, :, None]
        made[word] = folder / f"{i}.png"
        Image.fromarray(array.astype(np.uint8)).save(made[word])
    return made


@pytest.fixture
def settings(tmp_path, pictures):
    """A small sweep: 4 settings of each guidance, 2 development prompts x 2 seeds in batches of 2: 26 cells."""
    return {
        "folder": str(tmp_path / "sweep"), "blocks": [0, 2], "channels": [3, 5], "guidance_scales": [1.0, 2.0],
        "detail_guidance_scales": [0.5], "windows": [[0.5, 1.0]], "seeds": [0, 1], "batch": 2, "steps": 2,
        "prompts": [{"prompt": w, "picture": str(p)} for w, p in pictures.items()], "margin": 2.0,
        "call": {"max_sequence_length": 8}, "baselines": ["CFG", "control"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def dit():
    return dg.load(tiny.sd3())


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_at(folder):
    return {f.name: f.stat().st_mtime_ns for f in (Path(folder) / "cells").glob("*.json")}


def values(made):
    return made.table.drop(columns=["seconds"])


def test_cells_choice_and_profile(settings, dit, pictures):
    made = dg.sweep(settings, dit, progress=False)
    plan, table = made.plan, made.table
    assert {g: len(p) for g, p in made.scores.groupby("guidance")} == {"cond": 1, "DG": 4, "CFG": 4, "control": 4}
    words = {split: {p for p, _ in pairs} for split, pairs in plan.pairs.items()}
    assert words["development"] | words["test"] == set(WORDS) and not words["development"] & words["test"]
    # one row against the library's own generation and a truth read by hand
    setting = next(s for s in plan.settings if s.guidance == "DG" and s.s == 2 and s.block == 2)
    row = table[
        (table["name"] if "name" in table else table["number"].map(lambda n: plan.settings[n])) == setting
    ].iloc[0]
    off = dg.Disrupt([3, 5], 2)
    guidance = dg.DetailGuidance(2.0, 0.5, off, detail_guidance_start=0.5)
    own = dg.generate(
        dit, row["prompt"], seed=int(row["seed"]), steps=2, guidance=guidance, max_sequence_length=8, progress=False,
        height=32, width=48,
    )  # fmt: skip
    picture = decode(dit, own.latents, output_type="pt") * 2 - 1
    array = np.array(Image.open(pictures[row["prompt"]]), np.float32) / 127.5 - 1
    truth = torch.from_numpy(array).permute(2, 0, 1)[None]
    high = {"high": (1 / 4, float("inf"))}  # cycles per latent cell of 2 pixels
    amount = (cell_power(picture, 2, high)["high"] / cell_power(truth, 2, high)["high"]).log2().item()
    assert row["amount"] == pytest.approx(amount, rel=1e-3)
    assert row["high_correlation"] == pytest.approx(cell_correlation(picture, truth, 2, high)["high"].item(), abs=1e-3)
    assert row["block_calls"] == own.block_calls[0]
    kept = np.asarray(made.pictures(setting)[0], np.float32)
    assert np.abs(kept / 127.5 - 1 - picture[0].permute(1, 2, 0).numpy()).max() < 0.01
    # the choice, by hand
    rows = table[table["split"] == "development"]
    mean = rows.groupby("number")["amount"].apply(lambda a: a.abs().mean())
    numbers = [i for i, s in enumerate(plan.settings) if s.guidance == "DG"]
    wanted = plan.settings[min(numbers, key=mean.get)]
    assert made.chosen["DG"] == wanted
    # the report is of the other prompts, on the same noise
    told = made.report.set_index("guidance")
    test = table[(table["split"] == "test") & (table["number"] == plan.settings.index(wanted))]
    assert told.loc["DG", "cost"] == pytest.approx(test["amount"].abs().mean())
    gain = told.loc["DG", "gain_over_CFG"]
    assert gain == pytest.approx(told.loc["CFG", "cost"] - told.loc["DG", "cost"])
    assert told.loc["DG", "gain_over_CFG_low"] <= gain <= told.loc["DG", "gain_over_CFG_high"]
    sign = {
        "better than": told.loc["DG", "gain_over_CFG_low"] > 0,
        "worse than": told.loc["DG", "gain_over_CFG_high"] < 0,
    }
    how = next((word for word, true in sign.items() if true), "not shown to differ from")
    assert f"{how} CFG (" in made.verdict and made.verdict in (made.folder / "chosen.json").read_text()
    # the profile
    profile = read_profile(made.profile)
    assert (profile["block"], profile["detail_guidance_scale"], profile["window"]) == (
        wanted.block,
        wanted.w,
        [0.5, 1.0],
    )
    assert dg.DetailGuidance(1.0, 1.0, str(made.profile)).disrupt == dg.Disrupt([3, 5], wanted.block)
    guider = dg.DetailGuidance.from_profile(made.profile)
    assert (guider.guidance_scale, guider.detail_guidance_scale) == (wanted.s, wanted.w)
    assert (guider.detail_guidance_start, guider.detail_guidance_stop) == (0.5, 1.0)
    assert dg.DetailGuidance.from_profile(profile, guidance_scale=4.0).guidance_scale == 4.0
    with pytest.raises(ValueError, match="has no detail_guidance_scale"):
        dg.DetailGuidance.from_profile({"channels": [3], "block": 1, "source": "a test"})
    json.loads((made.folder / "chosen.json").read_text())
    axes = made.plot().axes
    assert len(axes) == 3 and axes[0].get_ylabel() == "block"  # two scales s, and the colour bar


def test_nothing_is_redone(settings, dit, caplog):
    first = dg.sweep(settings, dit, progress=False)
    before = made_at(settings["folder"])
    again = dg.sweep(settings, dit, progress=False)
    assert made_at(settings["folder"]) == before and again.table.equals(first.table)
    gone = sorted(before)[3]
    (first.folder / "cells" / gone).unlink()
    damaged = sorted(before)[5]
    (first.folder / "cells" / damaged).write_text('{"rows": [')
    third = dg.sweep(settings, dit, progress=False)
    after = made_at(settings["folder"])
    assert {n for n in before if after[n] != before[n]} == {gone, damaged} and "is damaged" in caplog.text
    assert values(third).equals(values(first))
    more = {**settings, "detail_guidance_scales": [0.5, 1.0], "baselines": []}
    dg.sweep(more, dit, progress=False)
    new = made_at(settings["folder"]).keys() - before.keys()
    assert 8 <= len(new) <= 8 + 3  # 4 settings x 2 batches, and what a new choice needs on the test prompts
    with pytest.raises(ValueError, match="holds a sweep of .* with other weights"):
        dg.sweep(settings, dg.load(tiny.sd3(seed=1)), progress=False)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def test_killed_and_started_again(settings, dit):
    folder = Path(settings["folder"])
    child = multiprocessing.get_context("fork").Process(
        target=dg.sweep, args=(settings, dit), kwargs={"progress": False}
    )
    child.start()
    wait_for(lambda: len(made_at(folder)) >= 3)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    kept = made_at(folder)
    part = open_sweep(folder)
    assert 3 <= len(kept) < 26 and len(part.missing) == 26 - len(kept) and "nothing yet" in repr(part)
    assert len(part.table) == 2 * len(kept)
    with pytest.raises(RuntimeError, match="development cells are missing"):
        part.scores
    made = dg.sweep(settings, dit, progress=False)
    assert kept.items() <= made_at(folder).items()  # not one is made again
    whole = dg.sweep({**settings, "folder": str(folder) + "2"}, dit, progress=False)
    assert values(made).equals(values(whole))


def worker(rank, port, settings, dit):
    """One of two processes, as a launcher starts them."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({k: str(v) for k, v in (where | ranks).items()})
    try:
        dg.sweep(settings, dit, progress=False)
    except ChildProcessError as error:
        Path(settings["folder"], f"said{rank}").write_text(str(error))
        os._exit(7)


def test_a_killed_worker_costs_its_own_cell_only(settings, dit):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork, folder = multiprocessing.get_context("fork"), Path(settings["folder"])
    pair = [fork.Process(target=worker, args=(rank, port, settings, dit)) for rank in range(2)]
    for process in pair:
        process.start()
    wait_for(lambda: len(made_at(folder)) >= 4)
    os.kill(pair[1].pid, signal.SIGKILL)
    for process in pair:
        process.join(240)
    assert pair[0].exitcode == 7
    assert "another process of this sweep stopped while doing development cells" in (folder / "said0").read_text()
    kept = made_at(folder)
    made = dg.sweep(settings, dit, progress=False)
    assert 13 <= len(kept) < 26 and kept.items() <= made_at(folder).items()  # the other one did its half
    assert not made.missing and made.profile is not None


def test_two_processes_under_accelerate_give_what_one_gives(settings, tmp_path, dit):
    dit.pipeline.save_pretrained(tmp_path / "model")
    settings |= {"model": str(tmp_path / "model")}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**settings, "folder": str(tmp_path / "two")}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launch, "--main_process_port", "0", "-m", "dg_tools.cli", "sweep", str(tmp_path / "two.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("recommended:") == 1
    one, two = dg.sweep(settings, dit, progress=False), open_sweep(tmp_path / "two")
    assert values(one).equals(values(two)) and one.report.equals(two.report)  # bit-equal: one thread each
    assert one.profile.read_bytes().replace(b"StableDiffusion3Pipeline", b"model") == two.profile.read_bytes()
    torch.set_num_threads(2)
    more = values(dg.sweep({**settings, "folder": str(tmp_path / "three")}, dit, progress=False))
    for column in ("high_power", "amount", "high_correlation", "detail_share", "contrast"):
        assert np.allclose(more[column], values(one)[column], rtol=0, atol=1e-5), column


def test_a_full_disk(settings, dit, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="the disk is full: big.json could not be written"):
            cells_module.write(tmp_path / "big.json", lambda file: file.write(b"x" * 2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*big*")) and not list(tmp_path.glob(".*"))
    real, calls = os.fsync, []

    def fsync(file):
        calls.append(file)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(cells_module.os, "fsync", fsync)
    with pytest.raises(OSError, match=r"the disk is full.*All finished cells are kept") as caught:
        dg.sweep(settings, dit, progress=False)
    assert caught.value.errno == errno.ENOSPC
    kept = made_at(settings["folder"])
    assert len(kept) == 3 and not list(Path(settings["folder"]).rglob("*.part*"))
    monkeypatch.undo()
    made = dg.sweep(settings, dit, progress=False)
    assert kept.items() <= made_at(settings["folder"]).items() and not made.missing


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"window": [[0, 1]]}, ValueError, "unknown key 'window'; did you mean 'windows'"),
        ({"blocks": []}, ValueError, "blocks is empty"),
        ({"channels": [[]]}, ValueError, "channels holds an empty set"),
        ({"seeds": ["one"]}, ValueError, "'one' is not a whole number"),
        ({"steps": "20"}, ValueError, "steps '20': '20' is not a whole number"),
        ({"seeds": 3}, ValueError, r"seeds is 3; a list is needed, such as \[3\]"),
        ({"detail_guidance_scales": [0.5, 0.5]}, ValueError, "name each once"),
        ({"detail_guidance_scales": ["much"]}, ValueError, "a value of the wrong kind"),
        ({"detail_guidance_scales": [0.0]}, ValueError, "w must be more than 0"),
        ({"guidance_scales": [0.5]}, ValueError, "at least 1"),
        ({"blocks": [0, 9]}, IndexError, "block 9 requested; there are 0 to 3"),
        ({"channels": [99]}, IndexError, "channel 99 requested"),
        ({"channels": None}, ValueError, "no profile that names them"),
        ({"windows": [[0.1, 0.4]]}, ValueError, "no step of 2 lies in the detail guidance window"),
        ({"windows": [[0.6, 0.4]]}, ValueError, "0 <= start < stop <= 1"),
        ({"cfg_scales": [2.0]}, ValueError, "holds 1 scales, and Detail Guidance has 4 settings"),
        ({"cfg_scales": [2.0], "baselines": ["SLGUncond"]}, ValueError, "holds 1 scales, and Detail Guidance has 4"),
        ({"baselines": ["PAG2"]}, ValueError, "baseline 'PAG2' is unknown"),
        ({"references": 4}, ValueError, "one of the two"),
        ({"prompts": ["a", "b"], "objective": "amount"}, ValueError, "at least 2 must be left"),
        ({"prompts": ["a", "b", "c", "d"], "objective": "amount"}, ValueError, "needs references"),
        ({"prompts": ["a", "b", "c", "d"], "objective": "best"}, ValueError, "objective 'best' is unknown"),
        ({"prompts": ["a", "b", "c", "d"], "pictures": False}, ValueError, "compares kept pictures"),
        ({"height": 16}, ValueError, "cannot be compared"),
        ({"prompts": ["a", "b", "c", "d"], "height": 16, "width": 16}, ValueError, "too small for a band below 1/8"),
    ],
)
def test_bad_settings(settings, dit, changes, error, words):
    with pytest.raises(error, match=words):
        dg.sweep({**settings, **changes}, dit, progress=False)
    assert not Path(settings["folder"]).exists()  # before anything was written


def test_files_that_are_no_sweep(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: pass a YAML file"):
        read_config(tmp_path / "nothing.yaml")
    (tmp_path / "a.yaml").write_text("folder: [")
    with pytest.raises(ValueError, match="is not YAML"):
        read_config(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="a mapping of keys to values is needed, and this is a list"):
        read_config(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="the settings: folder, detail_guidance_scales must be given"):
        read_config({})
    with pytest.raises(FileNotFoundError, match="no sweep in"):
        open_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        open_sweep(tmp_path)


def test_without_references_and_where_nothing_holds_the_guard(settings, dit, caplog):
    words = {**settings, "prompts": list(WORDS), "margin": None, "baselines": []}
    made = dg.sweep(words, dit, progress=False)
    assert made.plan.objective == "detail" and (made.table.query("guidance == 'cond'")["layout"] > 0.999999).all()
    assert made.table["layout"].between(-1, 1.000001).all() and made.table["layout"].nunique() > 3
    strict = dg.sweep({**words, "margin": -1.0}, dit, progress=False)  # a guard that nothing can hold
    assert strict.chosen["DG"] is None and strict.profile is None and "no profile is written" in caplog.text


@pytest.mark.parametrize("high, worse", [(-0.01, ["CFG"]), (0.01, [])])
def test_nothing_is_recommended_that_is_worse(high, worse):
    """By the whole interval on the test prompts, against whatever else was searched."""
    setting = Setting("DG", 1.0, 0.5, 1, (3,))
    row = {"guidance": "DG", "gain_over_cond_high": 0.2, "gain_over_CFG_high": high}
    report = pd.DataFrame([{"guidance": "cond"}, row, {"guidance": "CFG"}])
    assert worse_than(report) == worse
    words = recommendation(setting, report)
    assert words == (
        f"nothing: the best setting of Detail Guidance ({setting}) is worse than CFG" if worse else str(setting)
    )
    assert "holds the objective's guard" in recommendation(None, report[report["guidance"] != "DG"])


def test_the_guard_and_pictures_that_are_not_finite():
    """The cheapest setting loses to one that holds the guard; one with a NaN is never chosen."""
    tried = [Setting("cond"), *(Setting("DG", w=w, block=1, channels=(3,)) for w in (0.1, 0.2, 0.3, 0.4))]
    cost, guard = (1.0, 0.1, 0.5, 0.6, np.nan), (0.50, 0.47, 0.485, 0.60, 0.60)
    rows = [
        {"number": n, "split": split, "amount_error": c, "high_correlation": g, "block_calls": 4.0}
        for n, (c, g) in enumerate(zip(cost, guard, strict=True))
        for split, c, g in (("development", c - 0.1, g), ("development", c + 0.1, g), ("test", 2 - c, 1 - g))
    ]
    found = scores(pd.DataFrame(rows), tried, "amount", 0.02)
    assert found["cost"].tolist()[:4] == pytest.approx(cost[:4]) and found["pictures"].tolist() == [2] * 5
    assert found["allowed"].tolist() == [True, False, True, True, False]
    assert best(found) == {"cond": 0, "DG": 2}


def test_as_many_settings_for_every_guidance(settings, dit):
    """By count, for baselines with and without blocks and channels; each runs, and differs from no guidance."""
    named = [b for b in COMPARED if b != "control"]
    config = read_config({**settings, "channels": [[3], [5]], "baselines": named, "prompts": list(WORDS)})
    tried = settings_of(config, dit)
    assert {b: sum(s.guidance == b for s in tried) for b in ("DG", *named)} == dict.fromkeys(("DG", *named), 8)
    assert len(set(tried)) == len({str(s) for s in tried}) == 1 + 8 * (1 + len(named))
    call = {"seed": [0, 1], "steps": 2, **tiny.SIZE, "max_sequence_length": 8}
    clean, _ = run(dit, ["owl", "fish"], **call)
    for name in named:
        made, _ = run(dit, ["owl", "fish"], guidance=[s for s in tried if s.guidance == name][-1].guider(), **call)
        assert not torch.equal(made, clean), name
    scales = spread([3.0], 6, 1.0, 8.0)
    assert len(set(scales)) == 6 and 3.0 in scales and min(scales) > 1 and max(scales) < 8
    gaps = np.diff(np.log([1, *scales, 8]))
    assert gaps.max() < 2.1 * gaps.min()


def test_given_cfg_scales_are_those_of_the_skipped_unconditional_pass_too(settings, dit):
    """4 of CFG; 2 at each of 2 blocks: the smallest and the largest."""
    given = {"cfg_scales": [4.0, 1.5, 2.0, 3.0], "baselines": ["CFG", "SLGUncond", "APG"]}
    tried = settings_of(read_config({**settings, **given}), dit)
    used = {name: [(s.block, s.s) for s in tried if s.guidance == name] for name in given["baselines"]}
    assert used["CFG"] == used["APG"] == [(None, s) for s in given["cfg_scales"]]
    assert used["SLGUncond"] == [(0, 1.5), (0, 4.0), (2, 1.5), (2, 4.0)]


def test_gain_and_daemon_stand_beside_dg_where_they_can_run(settings, dit, caplog):
    plain = {**settings, "baselines": None}
    counts = Counter(s.guidance for s in settings_of(read_config(plain), dit))
    assert counts == {"cond": 1} | dict.fromkeys(("DG", "CFG", "control", "Gain", "DetailDaemon"), 4)
    assert not caplog.text
    more = {"steps": 1, "windows": [[0.0, 1.0]]}
    counts = Counter(s.guidance for s in settings_of(read_config({**plain, **more}), dit))
    assert set(counts) == {"cond", "DG", "CFG", "control", "Gain"}
    assert "this sweep is without DetailDaemon: no step of 1 lies in the bump" in caplog.text


def test_a_dose_is_swept_reported_and_read_back(settings, dit, tmp_path):
    config = read_config({**settings, "rhos": [0.5, 1.5], "baselines": ["CFG", "control"]})
    made = settings_of(config, dit)
    doses = [s for s in made if s.guidance == "DG"]
    assert len(doses) == 8 == sum(s.guidance == "CFG" for s in made) == sum(s.guidance == "control" for s in made)
    for setting in doses:
        off = dg.Disrupt([3, 5], setting.block, "scale", rho=setting.rho)
        assert setting.guider().disrupt == off and setting.rho in (0.5, 1.5)
        assert Setting.from_json(json.loads(json.dumps(setting.to_json()))) == setting
        assert f"channels [3, 5] x {setting.rho:g}" in str(setting)
        control = replace(setting, guidance="control").guider().disrupt
        assert control == off.controls(1)[0] and control.rho == setting.rho
        space = {"dg": dg}
        exec("\n".join(guidance_code(setting)), space)
        assert space["guidance"].config == setting.guider().config
    zeroed = settings_of(read_config(settings), dit)
    assert all("rho" not in s.to_json() for s in zeroed) and "rhos" not in read_config(settings).to_json()
    assert coordinates(doses[0])["rho"] == 0.5 and coordinates(zeroed[1])["rho"] is None
    with pytest.raises(ValueError, match="rhos is empty"):
        read_config({**settings, "rhos": []})
    one = {**settings, "rhos": [0.5, 1.5], "blocks": [2], "guidance_scales": [1.0], "seeds": [0], "baselines": []}
    swept = dg.sweep(one, dit, progress=False)
    guider = dg.DetailGuidance.from_profile(swept.profile)
    assert guider.disrupt == dg.Disrupt([3, 5], 2, "scale", rho=swept.chosen["DG"].rho)
    assert [axis.get_title().replace("\n", " ") for axis in swept.plot().axes[:2]] == [
        f"s = 1, window [0.5, 1.0], channels [3, 5] x {rho:g}" for rho in (0.5, 1.5)
    ]
    stored = StoredSweep(dg.sweeps.open_sweep(swept.folder))
    assert stored.axes["rho"] == [0.5, 1.5] and "rho" in stored.varying


def test_command(settings, dit, tmp_path, monkeypatch, capsys):
    dit.pipeline.save_pretrained(tmp_path / "model")
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({**settings, "model": str(tmp_path / "model"), "baselines": []}))

    def stop():
        wait_for(lambda: len(made_at(settings["folder"])) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=stop)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind
    try:
        watcher.start()
        stopped = CliRunner().invoke(cli.app, ["sweep", str(file)])
        watcher.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.exit_code == 130 and "development cells are kept in" in stopped.output
    kept = made_at(settings["folder"])
    done = CliRunner().invoke(cli.app, ["sweep", str(file)])
    assert done.exit_code == 0 and f"{len(kept)} of 10 development cells are there" in done.output
    assert "recommended: " in done.output and "gain_over_cond" in done.output
    told = json.loads(CliRunner().invoke(cli.app, ["sweep", str(file), "--json"]).stdout)
    chosen = json.loads((Path(settings["folder"]) / "chosen.json").read_text())
    assert told == {**chosen, "folder": settings["folder"], "profile": str(Path(settings["folder"]) / "profile.json")}
    assert kept.items() <= made_at(settings["folder"]).items()
    assert CliRunner().invoke(cli.app, ["sweep"]).exit_code == 2
    helped = CliRunner().invoke(cli.app, ["sweep", "--help"]).output
    assert "references: 32" in helped and "accelerate launch" in helped and "Exit codes" in helped
    monkeypatch.setattr("sys.argv", ["dg-tools", "sweep", str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1 and "does not exist: pass a YAML file" in capsys.readouterr().err


def test_channels_that_are_left_out_are_the_profiles_with_its_dose(dit, monkeypatch):
    """Channels of the caller's own are zeroed; `rhos` has the last word; a schedule needs it."""
    monkeypatch.setattr(dit, "profile", {"channels": [3], "block": 1, "mode": "scale", "rho": 2.0, "source": "a test"})
    small = {"folder": "f", "prompts": ["a", "b", "c"], "detail_guidance_scales": [0.5], "blocks": [1], "baselines": []}
    for more, wanted in (
        ({}, dg.Disrupt([3], 1, "scale", rho=2.0)),
        ({"channels": [5]}, dg.Disrupt([5], 1)),
        ({"rhos": [1.5]}, dg.Disrupt([3], 1, "scale", rho=1.5)),
    ):
        setting = next(s for s in settings_of(read_config({**small, **more}), dit) if s.guidance == "DG")
        assert setting.disruption() == wanted
    monkeypatch.setattr(dit, "profile", {**dit.profile, "rho": [[0.3, 1.5], [0.7, 2.0]]})
    with pytest.raises(ValueError, match="the profile's dose is a schedule over sigma"):
        settings_of(read_config(small), dit)
