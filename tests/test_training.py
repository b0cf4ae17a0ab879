"""All five commands of training/ at toy size, one after another, and what they do with bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
NAMES = [f"{colour}-{shape}" for colour in ("red", "blue", "green", "pink") for shape in ("dot", "bar", "ring")]


def icons(folder: Path) -> Path:
    """Two icon packages as npm lays them out, with made-up shapes, so that the test needs no network."""
    shapes = {
        "dot": '<circle cx="16" cy="16" r="12" fill="{}"/>',
        "bar": '<rect x="4" y="12" width="24" height="8" fill="{}"/>',
        "ring": '<circle cx="16" cy="16" r="9" fill="none" stroke="{}" stroke-width="5"/>',
    }
    for style, extra in (("fluent-emoji", '<circle cx="12" cy="12" r="3" fill="white"/>'), ("fluent-emoji-flat", "")):
        package = folder / "node_modules" / "@iconify-json" / style
        package.mkdir(parents=True)
        bodies = {n: {"body": shapes[n.split("-")[1]].format(n.split("-")[0]) + extra} for n in NAMES}
        bodies["red-dot-dark"] = {"body": "<g/>"}  # a skin tone: left out
        (package / "icons.json").write_text(json.dumps({"width": 32, "height": 32, "icons": bodies}))
        categories = {"Food & Drink": [*NAMES, "red-dot-dark"], "Objects": []}
        (package / "metadata.json").write_text(json.dumps({"categories": categories}))
    return folder


def command(name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`python -m training.NAME ARGUMENTS` in this process, which has imported torch already."""
    app = typer.Typer(add_completion=False)
    app.command()(import_module(f"training.{name}").main)
    handler, words = signal.getsignal(signal.SIGINT), [str(a) for a in arguments]
    try:
        with torch.random.fork_rng():
            result = CliRunner().invoke(app, words)
    finally:
        signal.signal(signal.SIGINT, handler)
    stopped = isinstance(result.exception, SystemExit) or result.exception is None
    if not stopped or (check and result.exit_code):
        raise AssertionError(result.output[-2000:]) from result.exception
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.output)


def own_process(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, as a reader starts it."""
    words = [sys.executable, "-m", f"training.{name}", *map(str, arguments)]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder after data, VAE and DiT."""
    place = tmp_path_factory.mktemp("training")
    run = place / "run"
    own_process("data", "--recipe", "toy", "--icons", icons(place / "icons"), "--run", run)
    command("vae", "--recipe", "toy", "--run", run)
    command("dit", "--recipe", "toy", "--run", run)
    return run


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The model folder of that run, without a card."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    command("export", "--recipe", "toy", "--run", trained, "--to", folder)
    return folder


def test_all_five_commands(trained, exported, tmp_path):
    import dg_tools as dg
    from dg_tools.datasets.references import References

    references = References(trained / "references")
    assert references.names == sorted(NAMES) and len(references.held_out) == 2
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    shutil.copytree(exported.parent / "emoji", tmp_path / "emoji")
    made = command("evaluate", "--model", folder, "--quick")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Gates" in card and "NOT met" in card, made.stdout
    assert "`one_step.csv`); bands, all without the mean: low below 1/8 cycle per latent cell" in card
    for name in ("loss.png", "samples.png", "one_step.png", "outlier_channels.csv", "one_step.csv", "profile.json"):
        assert (folder / name).is_file(), name
    dit = dg.load(folder)
    assert dit.call == {"max_sequence_length": 4} and dit.profile["block"] is None
    assert (
        "no channel of this model is massive" in dit.profile["verdict"]
        and "channels" in card.split("**e. The weak model")[1]
    )
    steps = {int(line.split(",")[0]) for line in (folder / "outliers.csv").read_text().splitlines()[1:]}
    assert len(steps) == 8 or max(steps) == 12
    losses = [json.loads(line)["loss"] for line in (folder / "dit.jsonl").read_text().splitlines()]
    assert losses and all(np.isfinite(losses))
    warm = tmp_path / "warm"
    warm.mkdir()
    for name in ("words.json", "latents.safetensors"):
        (warm / name).write_bytes((trained / name).read_bytes())
    (warm / "references").symlink_to(trained / "references")
    recipe = tmp_path / "longer.toml"
    toy = (ROOT / "training" / "recipes" / "toy.toml").read_text()
    recipe.write_text(toy.replace("t5_length = 4\nsteps = 12", "t5_length = 4\nsteps = 16"))
    command("dit", "--recipe", recipe, "--run", warm, "--warm-start", folder)
    state = torch.load(warm / "dit.pt", weights_only=True)
    runs = json.loads(state["history"])
    assert state["step"] == 16 and [r["steps"] for r in runs] == [12, 4]


def test_latents_are_normalised_and_folding_changed_nothing(trained):
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    from dg_tools.datasets.references import STYLES, References
    from training.data import BACKGROUNDS

    latents = load_file(trained / "latents.safetensors")["latents"].float()
    flat = latents.transpose(0, 3).flatten(1)
    assert flat.mean(1).abs().max() < 0.01 and (flat.std(1) - 1).abs().max() < 0.01
    references = References(trained / "references")
    vae = AutoencoderKL.from_pretrained(trained / "vae")
    picture = references.picture(references.reference(references.names[3], STYLES[1], list(BACKGROUNDS)[2]))
    with torch.no_grad():
        again = vae.encode(picture[None]).latent_dist.mode()[0]
    assert torch.allclose(again, latents[3, 1, 2], atol=2e-2)


def test_a_run_that_is_stopped_and_resumed_equals_one_in_one_go(trained, tmp_path):
    for name in ("words.json", "latents.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "references").symlink_to(trained / "references")
    toy = (ROOT / "training" / "recipes" / "toy.toml").read_text()
    short = tmp_path / "short.toml"
    short.write_text(toy.replace("t5_length = 4\nsteps = 12", "t5_length = 4\nsteps = 5"))
    command("dit", "--recipe", short, "--run", tmp_path)
    command("dit", "--recipe", "toy", "--run", tmp_path)
    ours, whole = (torch.load(p / "dit.pt", weights_only=True) for p in (tmp_path, trained))
    for key, value in whole["model"].items():
        assert torch.equal(value, ours["model"][key]), key


def test_ctrl_c_keeps_a_checkpoint(trained, tmp_path):
    for name in ("words.json", "latents.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "references").symlink_to(trained / "references")
    toy = (ROOT / "training" / "recipes" / "toy.toml").read_text()
    long = tmp_path / "long.toml"
    long.write_text(toy.replace("t5_length = 4\nsteps = 12", "t5_length = 4\nsteps = 100000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "training.dit", "--recipe", str(long), "--run", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "dit.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 1 and "interrupted at step" in stderr
    assert torch.load(tmp_path / "dit.pt", weights_only=True)["step"] >= 4


def test_a_taken_vae_gives_the_same_latents(trained, exported, tmp_path):
    """Models that share a VAE share its latent space, up to the half precision in which it ships."""
    from safetensors.torch import load_file

    folder, run = exported, tmp_path / "run"
    command("data", "--recipe", "toy", "--icons", icons(tmp_path / "icons"), "--run", run)
    command("vae", "--recipe", "toy", "--run", run, "--take", folder)
    ours, theirs = (load_file(p / "latents.safetensors")["latents"].float() for p in (run, trained))
    assert (ours - theirs).abs().max() < 0.05 and not (run / "vae.pt").exists()
    command("dit", "--recipe", "toy", "--run", run, "--seed", "1")
    states = [torch.load(p / "dit.pt", weights_only=True) for p in (run, trained)]
    assert json.loads(states[0]["history"])[0]["seed"] == 1
    name = "transformer.pos_embed.proj.weight"
    assert not torch.allclose(states[0]["model"][name], states[1]["model"][name], atol=0.1)
    refused = command("vae", "--recipe", "cpu", "--run", run, "--take", folder, check=False)
    assert refused.returncode == 1 and "says another shape" in refused.stderr


def test_a_flux_from_the_same_data_to_its_card(trained, tmp_path):
    """FLUX.1's class on the data and the VAE of another run: trained, exported, measured, described as what it is."""
    import dg_tools as dg

    run, folder, recipe = tmp_path / "run", tmp_path / "model", flux_recipe(tmp_path)
    run.mkdir()
    for name in ("words.json", "latents.safetensors", "references", "vae"):
        (run / name).symlink_to(trained / name)
    command("dit", "--recipe", recipe, "--run", run)
    command("export", "--recipe", recipe, "--run", run, "--to", folder)
    command("evaluate", "--model", folder, "--quick")
    call = {"height": 64, "width": 64, "max_sequence_length": 4}
    dit = dg.load(folder)
    assert dit.family.name == "flux" and dit.call == call and len(dit.blocks) == 4
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "`FluxPipeline`",
        "height=64, width=64, max_sequence_length=4",
        "true_cfg_scale",
        "2 double and 2 single",
    ):
        assert words in card, words
    assert "StableDiffusion3" not in card and "two CLIP" not in card


def flux_recipe(folder: Path) -> Path:
    """The toy recipe with FLUX.1's blocks."""
    recipe = folder / "flux.toml"
    toy = (ROOT / "training" / "recipes" / "toy.toml").read_text()
    blocks = 'architecture = "flux"\nsingle_layers = 2\n'
    recipe.write_text(toy.replace("[dit]\n", "[dit]\n" + blocks).replace("head_dim = 16", "head_dim = 18"))
    return recipe


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_training_calls_the_transformer_as_the_pipeline_does(name, trained, tmp_path):
    """Text, packing, positions and timestep: one step of the stock pipeline, at the sigma that it is at."""
    from diffusers import AutoencoderKL, FluxPipeline

    from training.architectures import ARCHITECTURES
    from training.recipe import Recipe

    recipe = Recipe.load("toy" if name == "sd3" else str(flux_recipe(tmp_path)))
    kind = ARCHITECTURES[name]
    torch.manual_seed(0)
    model, text = kind.build(recipe).eval(), kind.text.build(recipe, ["red", "apple"])
    for parameter in model.parameters():  # nothing starts at zero, so that text and timestep matter
        torch.nn.init.normal_(parameter, std=0.2)
    pipeline = kind.pipeline(model, text, AutoencoderKL.from_pretrained(trained / "vae"))
    seen = []
    hook = model.register_forward_hook(lambda m, i, k, o: seen.append((k["hidden_states"], o[0])), with_kwargs=True)
    size = {"height": 64, "width": 64, **kind.call(recipe)}
    pipeline("red apple", num_inference_steps=1, output_type="latent", guidance_scale=1.0, **size)
    hook.remove()
    (latents, wanted), side = seen[0], recipe.latent_size
    if name == "flux":
        latents, wanted = (FluxPipeline._unpack_latents(x, side, side, 1) for x in (latents, wanted))
    with torch.no_grad():
        sigma = pipeline.scheduler.sigmas[:1]
        ours = kind.velocity(model, latents, text(["red apple"], "cpu"), sigma)
        other = kind.velocity(model, latents, text(["red"], "cpu"), sigma)
    assert torch.allclose(ours, wanted, atol=1e-5) and not torch.allclose(other, wanted, atol=1e-3)


def test_sd35s_second_attention(trained):
    from dataclasses import replace

    from training.architectures import SD3
    from training.recipe import Recipe

    toy = Recipe.load("toy")
    model = SD3.build(replace(toy, dit=replace(toy.dit, dual_attention=True)))
    assert [b.use_dual_attention for b in model.transformer_blocks] == [True, False]
    assert all(not b.norm1.linear.weight.any() for b in model.transformer_blocks)
    with pytest.raises(SystemExit, match="sd3' only"):
        replace(toy, dit=replace(toy.dit, dual_attention=True, architecture="flux")).check()


def test_bad_input(trained, tmp_path):
    def refused(*arguments: str) -> str:
        made = command(*arguments, check=False)
        assert made.returncode == 1 and "Traceback" not in made.stderr, made.stderr[-2000:]
        return made.stderr

    assert "npm install" in refused("data", "--recipe", "toy", "--icons", tmp_path, "--run", tmp_path / "run")
    assert "pass one of cpu, cpu-flux, gpu, small, small-medium, toy" in refused("data", "--recipe", "huge")
    assert "run first: python -m training.data" in refused("vae", "--recipe", "toy", "--run", tmp_path)
    assert "run first: python -m training.data" in refused("dit", "--recipe", "toy", "--run", tmp_path)
    assert "run first: python -m training.dit" in refused("export", "--recipe", "toy", "--run", tmp_path, "--to", "x")
    assert "has no training.json" in refused("evaluate", "--model", tmp_path)
    toy = (ROOT / "training" / "recipes" / "toy.toml").read_text()
    wide, odd, typo = (tmp_path / f"{n}.toml" for n in ("wide", "odd", "typo"))
    wide.write_text(toy.replace("head_dim = 16", "head_dim = 32"))
    assert "another shape" in refused("dit", "--recipe", wide, "--run", trained)
    assert torch.load(trained / "dit.pt", weights_only=True)["step"] == 12
    odd.write_text(toy.replace("size = 64", "size = 63"))
    assert "not a multiple of 8" in refused("data", "--recipe", odd)
    typo.write_text(toy.replace("patch = 2", "patches = 2"))
    assert "patches" in refused("data", "--recipe", typo)
    typo.write_text('name = "other"\n' + toy)  # a recipe is named by its file
    assert "'name'" in refused("data", "--recipe", typo)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    from training.recipe import write_safely

    file = tmp_path / "dit.pt"
    file.write_text("the last good one")

    def full(path):
        path.write_text("half of")
        raise OSError(28, os.strerror(28))

    with pytest.raises(SystemExit, match="No space left on device.*from before is intact"):
        write_safely(file, full)
    assert file.read_text() == "the last good one" and list(tmp_path.iterdir()) == [file]
