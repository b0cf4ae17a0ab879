"""Twelve photographs with captions, and three families: a report that is killed goes on, and says what is planted."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import skimage
import tiny
import tiny_wan
import torch
from PIL import Image
from test_own_report import BLOCK, CHANNELS, VALUE, loaded, plant_wan, values

from dg_tools.datasets.folder import read_folder
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.guidance.auto import store
from dg_tools.report import Report, measure
from dg_tools.report.extent import TOY
from dg_tools.report.stages import FOLDER, Stages

CAPTIONS = {
    "astronaut.png": "an astronaut in an orange suit",
    "brick.png": "a wall of bricks",
    "camera.png": "a man with a camera",
    "chelsea.png": "a ginger cat",
    "clock_motion.png": "a clock, blurred by motion",
    "coffee.png": "a cup of coffee",
    "coins.png": "old coins",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "galaxies",
    "moon.png": "the surface of the moon",
    "rocket.jpg": "a rocket before its start",
}
ALL = replace(TOY, test=8)  # with the four to choose on: every photograph
CALL = {"size": ALL, "batch": 4, "progress": False}
KEPT = 9  # units before the process is killed: some of the samples, and some of the channels


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """scikit-image's own, made small, each with its caption beside it."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, caption in CAPTIONS.items():
        with Image.open(Path(skimage.__file__).parent / "data" / name) as picture:
            picture.thumbnail((300, 300))
            picture.save(folder / name)
        (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder


def model(family):
    """A tiny model with two planted channels; random weights draw noise, so only the channels are judged."""
    if family == "wan":
        pipeline = tiny_wan.pipeline()
        plant_wan(pipeline, BLOCK, CHANNELS, VALUE)
        return loaded(pipeline, **tiny_wan.STOCK, height=64, width=96)
    pipeline = {"sd3": tiny.sd3, "flux": tiny.flux}[family](seed=0)
    tiny.plant(pipeline, BLOCK, CHANNELS, VALUE)
    return loaded(pipeline)


def killed(dit, items, out):
    """A report in a process that is killed while it writes a unit."""
    own, synced = os.fsync, []

    def fsync(file):
        own(file)
        synced.append(file)
        if len(synced) > KEPT:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync
    measure(dit, items, out=out, **CALL)


def ranked(rank, port, dit, items, out):
    """One of two processes, as a launcher starts them."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({k: str(v) for k, v in (where | ranks).items()})
    measure(dit, items, out=out, **CALL)


def pair(dit, items, out):
    """A report by two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=ranked, args=(rank, port, dit, items, out)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.mark.parametrize("family", ["sd3", "flux", "wan"])
def test_a_killed_report_on_photographs_goes_on(family, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "profiles")
    dit, out = model(family), tmp_path / "report"
    items = read_folder(photographs, height=dit.call["height"], width=dit.call["width"])

    process = multiprocessing.get_context("fork").Process(target=killed, args=(dit, items, out))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    kept = {p: p.stat().st_mtime_ns for p in (out / FOLDER).glob("[!.]*")}
    assert len(kept) == KEPT and len(list((out / FOLDER).glob(".*.part*"))) == 1 and not (out / "report.json").exists()

    if family == "sd3":
        shutil.copytree(out, tmp_path / "pair")
    own, done, seen = Stages.made, [], []
    monkeypatch.setattr(Stages, "made", lambda self, make: done.append(make) or own(self, make))
    resumed = measure(dit, items, out=out, **CALL)
    units = list((out / FOLDER).iterdir())
    assert {p: p.stat().st_mtime_ns for p in kept} == kept and len(done) == len(units) - KEPT
    assert not [p for p in units if p.name.startswith(".")], "the draft of the killed process is gone"

    read = NoisedPictures.__init__
    monkeypatch.setattr(NoisedPictures, "__init__", lambda self, d, x, s: seen.extend(x) or read(self, d, x, s))
    assert values(resumed) == values(measure(dit, items, out=tmp_path / "at once", **CALL))
    if family == "sd3":
        pair(dit, items, tmp_path / "pair")
        assert values(Report.open(tmp_path / "pair")) == values(resumed), "two processes go on as one does"
    assert {pair.prompt for pair in seen} == set(CAPTIONS.values())
    given = {item.prompt: item.picture for item in items}
    assert all(torch.equal(pair.picture, given[pair.prompt]) for pair in seen), "the photographs, and not samples"

    rows = resumed.section("channels").tables[0].rows
    assert sorted(row[0] for row in rows) == CHANNELS and {row[2] for row in rows} == {dit.sites[BLOCK]}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"Massive: channel {', '.join(str(row[0]) for row in rows)}, found on" in page
    assert all(caption in page for caption in CAPTIONS.values())
