"""Where a model goes. The accelerator is faked: as the CPU where it must run, and as "meta" where it is looked at."""

from __future__ import annotations

import json
from functools import partial

import accelerate
import pytest
import tiny
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from test_cli import called

import dg_tools as dg
from dg_tools import cli
from dg_tools.models import devices
from dg_tools.models.provenance import weights_hash
from dg_tools.sweeps import _sweep

OFFLOADS = ("model", "sequential", "group")
SMALL = ["--steps", "2", "--height", "32", "--width", "48"]


def offload_parameters(offload, model, device, **kwargs):
    """accelerate's `cpu_offload`, with parameters in its map: with bare tensors it fails from the CPU to the CPU.

    With weights that are tied, as T5's are, it fails there all the same: the other parts stay where they are.
    """
    if not isinstance(model, SD3Transformer2DModel):
        return model
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return offload(model, device.type, state_dict=state, **kwargs)  # "cpu:0" is another device to accelerate


@pytest.fixture
def faked(monkeypatch):
    """Say which accelerator there is."""
    monkeypatch.setattr(accelerate, "cpu_offload", partial(offload_parameters, accelerate.cpu_offload))
    return lambda device: monkeypatch.setattr(devices, "accelerator", lambda: device and torch.device(device))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    pipeline = tiny.sd3()
    tiny.plant(pipeline, 1, [5, 20], 400.0)
    pipeline.save_pretrained(path)
    return path


def test_an_accelerator_is_used_where_there_is_one(folder, faked, capsys):
    faked("meta")
    dit = dg.load(folder)
    assert (dit.transformer.device.type, dit.dtype) == ("meta", torch.bfloat16)
    assert capsys.readouterr().out == (
        "load: on meta in bfloat16, the accelerator of this machine; device='cpu' or another dtype= changes that\n"
    )
    dit = dg.load(folder, dtype="float16")
    assert (dit.transformer.device.type, dit.dtype) == ("meta", torch.float16)
    for given in ({"device": "cpu"}, {"device": "cpu", "dtype": torch.float32}):
        dit = dg.load(folder, **given)
        assert (dit.transformer.device.type, dit.dtype) == ("cpu", torch.float32)
    assert dg.load(tiny.sd3()).transformer.device.type == "cpu"


def test_an_embedded_model_stays(faked, capsys, monkeypatch):
    """On the CPU in float32, unless another device is given."""
    faked("meta")
    monkeypatch.setattr(devices, "usable", lambda device: device and torch.device(device))  # meta holds no numbers
    dit = dg.load()
    assert (dit.transformer.device.type, dit.dtype) == ("cpu", torch.float32) and not capsys.readouterr().out
    assert dg.load(device="meta").dtype == torch.bfloat16


def test_without_an_accelerator(folder, faked, capsys):
    faked(None)
    dit = dg.load(folder)
    assert (dit.transformer.device.type, dit.dtype) == ("cpu", torch.float32) and not capsys.readouterr().out
    with pytest.raises(ValueError, match="offload 'model' keeps weights .* there is none here: leave it out"):
        dg.load(folder, offload="model")
    with pytest.raises(ValueError, match="the device is cpu: leave it out"):
        dg.load(tiny.sd3(), device="cpu", offload="group")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"offload": "disk"}, "offload 'disk' is unknown: pass none, model, sequential, group"),
        ({"dtype": "float12"}, "dtype 'float12' is unknown: pass float32"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
    ],
)
def test_bad_values(folder, given, words):
    with pytest.raises(ValueError, match=words):
        dg.load(folder, **given)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloaded_runs_are_plain_runs(folder, faked, offload):
    """From a folder and from a pipeline: the same bits, guided and edited, captured and found."""
    faked("cpu")
    plain, call = dg.load(folder), {**tiny.CALL, "progress": False}
    off = dg.Disrupt([3, 7], 1)
    guidances = [None, dg.CFG(3.0), dg.DetailGuidance(3.0, 0.8, off)]

    def pictures(dit):
        guided = dg.generate(dit, "a", guidance=guidances, **call).latents
        return torch.cat([guided, dg.generate(dit, "a", edits=off, **call).latents])

    theirs, acts = pictures(plain), dg.capture(plain, "a", **call)
    for model in (folder, tiny_of(folder)):
        dit = dg.load(model, offload=offload)
        hooks = [m for m in dit.transformer.modules() if hasattr(m, "_hf_hook") or hasattr(m, "_diffusers_hook")]
        assert hooks and torch.equal(pictures(dit), theirs) and weights_hash(dit) == weights_hash(plain)
        assert dg.capture(dit, "a", **call).data["abs_mean"].identical(acts.data["abs_mean"])


def tiny_of(folder):
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["capture", "compare", "demo", "find", "generate", "sweep"])
def test_every_command_that_runs_a_model_has_the_options(command, tmp_path, monkeypatch, capsys):
    """A bad value ends it before anything is loaded, with what there is."""
    monkeypatch.setattr(dg, "load", lambda *a, **k: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    target = {"demo": [], "sweep": ["f.yaml"], "compare": ["owl", "--cfg", "3"]}.get(command, ["owl"])
    for option, value, words in (
        ("--offload", "disk", "'disk' is unknown; there are none, model, sequential, group"),
        ("--dtype", "float12", "'float12' is unknown; there are auto, float32, bfloat16, float16"),
    ):
        code, printed, error = called(monkeypatch, capsys, command, *target, option, value)
        assert code == 2 and words in error and not printed
    (tmp_path / "f.yaml").write_text("{folder: s, detail_guidance_scales: [1.0], prompts: [owl, tree]}")
    code, _, error = called(monkeypatch, capsys, command, *target, "--device", "cuda")
    assert code == 1 and "device 'cuda' cannot be used here" in error
    code, _, error = called(monkeypatch, capsys, command, *target, "--device", "meta")
    assert code == 1 and "device 'meta' cannot be used here" in error
    assert [p.name for p in tmp_path.iterdir()] == ["f.yaml"]


@pytest.mark.parametrize("offload", OFFLOADS)
def test_generate_makes_the_same_picture_offloaded(folder, faked, offload, tmp_path, monkeypatch, capsys):
    faked("cpu")
    ask = ["generate", "owl", "-m", folder, *SMALL, "--dg", "1", "--channel", "5", "--block", "1", "--alone"]
    code, printed, _ = called(monkeypatch, capsys, *ask, "--offload", offload, "-o", tmp_path, "--json")
    made = json.loads(printed)["pictures"][0]
    assert code == 0 and (made["device"], made["dtype"]) == ("cpu", "float32")
    code, printed, _ = called(monkeypatch, capsys, "generate", "--from", made["file"], "-m", folder, "-o", tmp_path)
    assert code == 0 and "the same, pixel by pixel" in printed
    again = ["generate", "--from", made["file"], "-m", folder, "-o", tmp_path, "--offload", offload]
    assert called(monkeypatch, capsys, *again)[0] == 0


def test_offloading_without_an_accelerator_is_an_error(folder, faked, tmp_path, monkeypatch, capsys):
    faked(None)
    for device in ([], ["--device", "cpu"]):
        ask = ["generate", "owl", "-m", folder, "-o", tmp_path / "o", "--offload", "model", *device]
        code, printed, error = called(monkeypatch, capsys, *ask)
        assert code == 1 and "offload 'model' keeps weights" in error and not printed


def test_the_precision_is_said(folder, faked, tmp_path, monkeypatch, capsys):
    faked("cpu")
    out = tmp_path / "a.zarr"
    ask = ["capture", "owl", "-m", folder, "-o", out, *SMALL, "--dtype", "bfloat16", "--json"]
    code, printed, _ = called(monkeypatch, capsys, *ask)
    assert code == 0 and json.loads(printed)["dtype"] == "bfloat16"
    code, printed, _ = called(
        monkeypatch, capsys, "find", folder, *SMALL[:2], "-p", "a", "--dtype", "bfloat16", "--json"
    )
    assert code == 0 and {5, 20} <= set(json.loads(printed)["channels"])
    code, _, error = called(monkeypatch, capsys, "find", out, "--device", "cpu")
    assert code == 2 and "are for a model" in error


def test_a_sweep_is_told_where(folder, tmp_path, monkeypatch):
    """By its file, and by the options before that."""
    given = {}

    def load(model, **where):
        given.update(where)
        raise ZeroDivisionError

    monkeypatch.setattr(_sweep, "load", load)
    settings = {"folder": "s", "detail_guidance_scales": [1.0], "prompts": ["owl", "tree"], "model": str(folder)}
    with pytest.raises(ZeroDivisionError):
        dg.sweep({**settings, "dtype": "bfloat16", "offload": "model"})
    assert given == {"device": None, "dtype": "bfloat16", "offload": "model"}
    file = tmp_path / "f.yaml"
    file.write_text(json.dumps({**settings, "dtype": "bfloat16"}))
    monkeypatch.setattr("sys.argv", ["dg-tools", "sweep", str(file), "--dtype", "float16", "--device", "cpu"])
    with pytest.raises(ZeroDivisionError):
        cli.main()
    assert given == {"device": "cpu", "dtype": "float16", "offload": "none"}


def test_what_the_accelerator_is_comes_from_torch(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("xpu"))
    assert devices.accelerator() == torch.device("xpu")
