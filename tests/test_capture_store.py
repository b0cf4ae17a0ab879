"""Raw hidden states on disk: whole, after a kill, on a full disk, and when a file is missing or corrupt."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import zarr

import dg_tools as dg
from dg_tools.activations import StoreStopped

RAW = {"raw": [0, 2], "raw_tokens": [1, 5, 90], "raw_channels": [3, 4]}


@pytest.fixture(scope="module")
def acts(dits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "a"
    made = dg.capture(
        dits("sd3"), ["apple", "tree"], seeds=[0, 3], raw=[0, 2], store=folder, progress=False, **tiny.CALL
    )
    return folder, made


def test_a_store_holds_what_memory_would(dits, acts):
    folder, stored = acts
    kept = dg.capture(dits("sd3"), ["apple", "tree"], seeds=[0, 3], raw=[0, 2], progress=False, **tiny.CALL)
    again = dg.open_activations(folder)
    assert again.data.attrs["finished"] and "kept" not in again.data
    for name in kept.data:
        for other in (stored, again):
            assert np.array_equal(kept.data[name].values, other.data[name].values, equal_nan=True), name
    assert {"weights", "dtype", "versions", "model", "steps", "call"} <= set(again.data.attrs)
    with pytest.raises(FileExistsError, match="holds other files"):
        dg.capture(dits("sd3"), "a", raw=[0], store=Path(__file__).parent, progress=False, **tiny.CALL)


@pytest.mark.parametrize("stream", ["image", "text"])
def test_chosen_tokens_and_channels(dits, stream):
    dit = dits("sd3")
    chosen = {"raw": [0, 2], "raw_steps": [2, 0], "raw_tokens": [5, 1], "raw_channels": [4, 3], "raw_stream": stream}
    some = dg.capture(dit, "apple", progress=False, **chosen, **tiny.CALL).data["hidden_states"]
    whole = dg.capture(dit, "apple", raw=[0, 1, 2], raw_stream=stream, progress=False, **tiny.CALL).data[
        "hidden_states"
    ]
    assert list(some["raw_token"].values) == [1, 5] and list(some["raw_step"].values) == [0, 2]
    expected = whole.sel(raw_step=[0, 2], raw_site=["0", "2"]).isel(raw_token=[1, 5], channel=[3, 4])
    assert np.array_equal(some.values, expected.values) and not np.isnan(some).any()


def test_bad_choices_are_refused_before_the_run(dits):
    dit = dits("sd3")
    for wrong, error, message in (
        ({"raw": [0], "raw_tokens": [96]}, IndexError, "0 to 95"),
        ({"raw": [0], "raw_channels": [32]}, IndexError, "0 to 31"),
        ({"raw": [0], "raw_channels": [1, 1]}, ValueError, "each once"),
        ({"raw": [0], "raw_steps": []}, ValueError, "at least one"),
        ({"raw_tokens": [1]}, ValueError, "without raw="),
        ({"raw": [3], "raw_stream": "text"}, ValueError, "returns no text"),
        ({"raw": [0], "cap": 1000}, MemoryError, "the cap is"),
        ({"quantiles": (1.5,)}, ValueError, "a share"),
        ({"store": "x"}, ValueError, "name the blocks"),
    ):
        with pytest.raises(error, match=message):
            dg.capture(dit, "apple", progress=False, **wrong, **tiny.CALL)


def test_a_killed_run_leaves_a_store_that_says_what_it_has(dits, tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})
import tiny, dg_tools as dg
count = [0]
def after(pipeline, step, timestep, tensors):
    count[0] += 1
    if count[0] == 3 * 3 + 2:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return tensors
dg.capture(dg.load(tiny.sd3()), ["apple", "tree"], seeds=[0, 3], raw=[0, 2], store={str(tmp_path / "k")!r},
           progress=False, callback_on_step_end=after, **tiny.CALL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    left = dg.open_activations(tmp_path / "k")
    assert left.data.attrs["finished"] is False and "unfinished" in repr(left)
    assert left.data["kept"].values.tolist() == [[[True] * 3] * 2, [[True] * 3, [True, True, False]]]
    whole = dg.capture(dits("sd3"), ["apple", "tree"], seeds=[0, 3], raw=[0, 2], progress=False, **tiny.CALL)
    there, expected = left.data["hidden_states"], whole.data["hidden_states"]
    assert np.array_equal(there.sel(prompt="apple").values, expected.sel(prompt="apple").values)
    last = {"prompt": "tree", "seed": 3}
    assert np.array_equal(there.sel(**last, raw_step=[0, 1]), expected.sel(**last, raw_step=[0, 1]))
    assert np.isnan(there.sel(**last, raw_step=2)).all()


def test_a_full_disk_says_what_is_kept(dits, tmp_path, monkeypatch):
    own, count = zarr.Array.__setitem__, [0]

    def write(self, at, value):
        count[0] += self.basename == "hidden_states"
        if count[0] > 2 * 3 + 3:  # two blocks, three steps of the first seed; a step and a half of the second
            raise OSError(errno.ENOSPC, "No space left on device")
        own(self, at, value)

    dit = dits("sd3")
    arguments = {"seeds": [0, 3], "raw": [0, 2], "progress": False, **tiny.CALL}
    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", write)
        with pytest.raises(
            StoreStopped, match=r"'apple', seed 0: steps \[0, 1, 2\]; 'apple', seed 3: steps \[0\]"
        ) as e:
            dg.capture(dit, "apple", store=tmp_path / "f", **arguments)
    assert e.value.errno == errno.ENOSPC
    whole = dg.capture(dit, "apple", **arguments).data
    left = dg.open_activations(tmp_path / "f").data
    assert left["kept"].values.tolist() == [[[True] * 3, [True, False, False]]]
    assert np.array_equal(left["hidden_states"].sel(seed=0), whole["hidden_states"].sel(seed=0))
    kept = e.value.kept.data
    assert np.array_equal(kept["mean"].sel(seed=0), whole["mean"].sel(seed=0), equal_nan=True)
    assert np.isnan(kept["mean"].sel(seed=3)).all() and dit.tracer is None


def test_a_full_disk_on_save_leaves_the_old_store(dits, acts, tmp_path, monkeypatch):
    stored = dg.open_activations(acts[0])
    stored.save(tmp_path / "s")

    def write(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    import xarray.backends.zarr as backend

    with monkeypatch.context() as patch:
        patch.setattr(backend.ZarrStore, "store", write)
        with pytest.raises(OSError, match="which is as it was"):
            stored.save(tmp_path / "s")
    assert dg.open_activations(tmp_path / "s").data.load().equals(stored.data.load())
    assert not (tmp_path / "s.part").exists()


def test_missing_and_corrupt_chunks_are_named(acts, tmp_path):
    acts[1].save(tmp_path / "s")
    chunk = tmp_path / "s" / "abs_mean" / "0.0.0.0.0.0.0"
    raw = next(p for p in (tmp_path / "s" / "hidden_states").iterdir() if p.name[0].isdigit())
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"abs_mean/0\.0\.0\.0\.0\.0\.0 is corrupt \(another checksum\)"):
        dg.open_activations(tmp_path / "s")
    chunk.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"abs_mean/0\.0\.0\.0\.0\.0\.0 is corrupt \(7 bytes of"):
        dg.open_activations(tmp_path / "s")
    chunk.write_bytes(whole)
    dg.open_activations(tmp_path / "s")
    raw.unlink()
    with pytest.raises(ValueError, match=f"hidden_states/{raw.name} is missing".replace(".", r"\.")):
        dg.open_activations(tmp_path / "s")
    (tmp_path / "s" / "journal.jsonl").unlink()
    with pytest.raises(ValueError, match="journal.jsonl is missing"):
        dg.open_activations(tmp_path / "s")


def test_a_journal_that_checks_nothing_is_refused(acts, tmp_path):
    acts[1].save(tmp_path / "s")
    journal = tmp_path / "s" / "journal.jsonl"
    for content, words in (
        (b"", "journal.jsonl names no file"),
        (b"\xff\x00" * 9, "journal.jsonl is not text"),
        (b'{"finished": true}\n', "journal.jsonl names no file"),
        (b"[1]\n", "journal.jsonl is corrupt in line 1"),
        (b"\n".join(journal.read_bytes().splitlines()[:2]) + b"\nhalf\n{}", "journal.jsonl is corrupt in line 3"),
    ):
        journal.write_bytes(content)
        with pytest.raises(ValueError, match=f"the activations at .* are damaged: {words}"):
            dg.open_activations(tmp_path / "s")


def test_a_store_is_replaced_only_where_that_is_said(dits, tmp_path, monkeypatch):
    dit, folder = dits("sd3"), tmp_path / "a.zarr"
    arguments = {"raw": [1], "store": folder, "progress": False, **tiny.CALL}
    first = dg.capture(dit, "apple", **arguments).data.load()
    with monkeypatch.context() as patch:
        patch.setattr(dit.transformer, "forward", lambda *args, **kwargs: pytest.fail("a forward ran"))
        with pytest.raises(FileExistsError, match="holds activations already: pass another store=, or overwrite=True"):
            dg.capture(dit, "tree", **arguments)
    assert dg.open_activations(folder).data.load().equals(first)
    dg.capture(dit, "tree", overwrite=True, **arguments)
    assert list(dg.open_activations(folder).data["prompt"].values) == ["tree"]
    (tmp_path / "empty").mkdir()
    dg.capture(dit, "tree", **{**arguments, "store": tmp_path / "empty"})


def test_the_journal_names_every_file(acts):
    lines = [json.loads(x) for x in (acts[0] / "journal.jsonl").read_text().splitlines()]
    files = {p.relative_to(acts[0]).as_posix() for p in acts[0].rglob("*") if p.is_file()}
    assert {e["file"] for e in lines if "file" in e} == files - {"journal.jsonl"} and lines[-1] == {"finished": True}
