"""What is said of a model before a weight is read: the same as of the loaded model, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from test_cli import called

import dg_tools as dg
from dg_tools.models.facts import facts
from dg_tools.models.files import parameters
from dg_tools.models.profiles import PUBLISHED

ROOT = Path(__file__).parents[1]
FURTHER = {name: getattr(module, "published", module.pipeline) for name, module in tiny.families().items()}
BUILD = {**tiny.PIPELINES, **FURTHER}


@pytest.mark.parametrize("name", list(BUILD))
def test_facts_are_those_of_the_loaded_model(name, tmp_path):
    pipeline = BUILD[name]()
    pipeline.save_pretrained(tmp_path)
    dit, known = dg.load(pipeline), facts(tmp_path)
    assert known.sites == dit.sites and known.width == dit.width and known.family == dit.family.name
    assert known.pixels == dit.size() and known.grid == dit.grid() and known.steps == dit.default_steps
    assert known.prediction == dit.family.prediction and known.profile is None
    numbers = {k: sum(v.numel() for v in m.state_dict().values()) for k, m in pipeline.components.items()
               if k in ("transformer", "vae")}  # fmt: skip
    assert {k: known.parameters[k] for k in numbers} == numbers
    whole = sum(n for n in known.parameters.values() if n)
    assert known.memory["float32"]["weights"] == 2 * known.memory["bfloat16"]["weights"] == 4 * whole
    assert json.loads(json.dumps(known.to_json()))["grid"] == list(dit.grid())


@pytest.mark.parametrize("name", [None, "sd35-medium", "dit", "pixart"])
def test_a_capture_is_as_large_as_said(name, tmp_path):
    """The statistics of a capture with the default steps, to what labels and coordinates take."""
    model = None
    if name:
        BUILD[name]().save_pretrained(tmp_path)
        model = tmp_path
    dit, known = dg.load(model), facts(model)
    acts = dg.capture(dit, 1 if name == "dit" else "red apple", raw=[1], raw_steps=[0], progress=False)
    assert acts.data["hidden_states"].nbytes == known.raw
    held = acts.data.nbytes - known.raw
    assert abs(held - known.statistics) < 0.01 * held + 2000


def test_no_torch_is_loaded():
    """`import dg_tools`, `dg-tools info`, and what is typed wrongly, in a fresh interpreter."""
    heavy = "{'torch', 'diffusers', 'transformers', 'nnsight', 'numpy', 'pandas', 'xarray', 'plotly'}"
    code = f"""
import sys
import dg_tools
assert not {heavy} & set(sys.modules), 'import dg_tools'
from dg_tools.cli import main
for arguments, expected in (
    (['info'], 0), (['info', '--json'], 0), (['info', 'nothing'], 1), (['info', 'no/such-repository'], 1),
    (['--help'], 0), (['generate', '--help'], 0), (['generate', ' '], 2), (['generate', 'owl', '--seed', 'x'], 2),
    (['generate', '--from', 'nothing.png'], 1),
):
    sys.argv = ['dg-tools', *arguments]
    try:
        main()
    except SystemExit as end:
        assert (end.code or 0) == expected, (arguments, end.code)
    loaded = {heavy} & set(sys.modules)
    assert not loaded - ({{'numpy'}} if arguments[0] == 'generate' else set()), (arguments, loaded)
"""
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]


def test_what_is_printed(monkeypatch, capsys):
    code, printed, _ = called(monkeypatch, capsys, "info")
    assert code == 0
    for words in (
        "emoji-sd3",
        "sd3 (predicts velocity)",
        "12 blocks",
        "144 channels",
        "8 x 8",
        "channels 55 x 2 after block 3, w 1; from dg_tools.guidance.auto",
    ):
        assert words in printed, words
    assert "8.95 million" in printed and "Embedded models: emoji-flux, emoji-sd3." in printed
    code, printed, _ = called(monkeypatch, capsys, "info", "emoji-sd3", "--json")
    assert json.loads(printed)["profile"]["channels"] == [55]


def test_a_hub_id_only_where_it_is_cached(tmp_path, monkeypatch, capsys):
    """The cache as huggingface_hub lays it out; nothing is downloaded, and weights need not be there."""
    import huggingface_hub.constants

    code, _, error = called(monkeypatch, capsys, "info", "owner/name")
    assert code == 1 and "is not in the Hub cache, and nothing is downloaded" in error
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    name = "stabilityai/stable-diffusion-3.5-medium"
    home = tmp_path / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    folder = home / "snapshots" / "abc"
    tiny.sd3().save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    index = json.loads((folder / "transformer" / "config.json").read_text())
    index |= {"num_attention_heads": 24, "attention_head_dim": 64}  # so that the published channel exists
    (folder / "transformer" / "config.json").write_text(json.dumps(index))
    code, printed, _ = called(monkeypatch, capsys, "info", name, "--json")
    known = json.loads(printed)
    assert code == 0 and known["profile"] == PUBLISHED[name] and known["model"] == name
    assert known["parameters"]["transformer"] is None and known["memory"]["float32"]["weights"] is None
    code, printed, _ = called(monkeypatch, capsys, "info", name)
    assert code == 0 and "not known" in printed and "Weights that are missing: " in printed and "no block" in printed


def test_folders_that_are_no_pipeline(tmp_path, monkeypatch, capsys):
    good = tmp_path / "good"
    tiny.sd3().save_pretrained(good)

    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(good, folder)
        change(folder)
        code, _, error = called(monkeypatch, capsys, "info", folder)
        assert code == 1, name
        return error

    def rewrite(file, **changes):
        def change(folder):
            made = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({k: v for k, v in {**made, **changes}.items() if v is not None}))

        return change

    config, index = "transformer/config.json", "model_index.json"
    assert "no model_index.json" in broken("a", lambda f: (f / index).unlink())
    assert "has no config.json" in broken("b", lambda f: (f / config).unlink())
    assert "is not valid JSON" in broken("c", lambda f: (f / config).write_text("{"))
    assert "has no transformer (it has: " in broken("d", rewrite(index, transformer=None))
    assert "no family record for Other" in broken("e", rewrite(index, transformer=["diffusers", "Other"]))
    assert "has no 'num_layers', so the number of blocks is unknown" in broken("f", rewrite(config, num_layers=None))
    profile = {"channels": [999], "block": 0, "source": "x"}
    assert "another model's profile" in broken("g", lambda f: (f / "profile.json").write_text(json.dumps(profile)))
    pointer = "version https://git-lfs.github.com/spec/v1"
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert "is not a safetensors file" in broken("h", lambda f: (f / weights).write_text(pointer))
    shutil.copy(good / weights, good / "transformer" / "diffusion_pytorch_model.fp16.safetensors")
    assert parameters(good / "transformer") == facts(good).parameters["transformer"] == 161488, "a variant counts once"
    wan = tmp_path / "wan"
    BUILD["wan"]().save_pretrained(wan)
    made = json.loads((wan / index).read_text())
    (wan / index).write_text(json.dumps({**made, "expand_timesteps": True}))
    with pytest.raises(ValueError, match="is written for expand_timesteps=False"):
        facts(wan)
