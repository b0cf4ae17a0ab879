"""training/scenes at toy size: materials, scenes, tokens, the pool, and every command one after another."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_training import NAMES, icons
from training.scenes import dit, dose, evaluate, export, gpu, keep, sprites, vae
from training.scenes.materials import MATERIALS, draw
from training.scenes.recipe import SceneRecipe
from training.scenes.render import Job, Renderer
from training.scenes.ring import as_pictures
from training.scenes.scene import Scene, Scenes
from training.scenes.spectra import EDGES, decibels, known, nearest, power, tone_of
from training.scenes.state import State
from training.scenes.tokens import kept, patches, positions, predict

GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder after sprites, VAE and three of eight steps, one in each stage's turn later."""
    place = tmp_path_factory.mktemp("scenes")
    folder = icons(place / "icons")
    package = folder / "node_modules" / "@lobehub" / "fluent-emoji-3d" / "assets"
    package.mkdir(parents=True)
    chars = {f"1f60{i:x}": name for i, name in enumerate(NAMES)}
    flat = folder / "node_modules" / "@iconify-json" / "fluent-emoji-flat"
    (flat / "chars.json").write_text(json.dumps(chars))
    for i, code in enumerate(chars):
        ball = np.zeros((64, 64, 4), np.uint8)
        ball[8:56, 16:48] = (20 * i, 90, 200, 255)
        Image.fromarray(ball, "RGBA").save(package / f"{code}-fe0f.webp", lossless=True)
    made = place / "run"
    sprites.main("toy", folder, made)
    vae.main("toy", made, None, None, False)
    dit.main("toy", made, None, None, None)
    return made


@pytest.mark.parametrize("name", MATERIALS)
def test_a_material_is_new_each_time_and_has_its_colour(name):
    first, again, other = (draw(name, (70, 120, 214), 64, seed) for seed in (0, 0, 1))
    assert first.shape == (64, 64, 3) and first.min() >= 0 and first.max() <= 1 and np.isfinite(first).all()
    assert np.array_equal(first, again)
    tones = tone_of(np.stack([first, other]), [(70, 120, 214)] * 2)
    assert abs(np.corrcoef(tones[0].ravel(), tones[1].ravel())[0, 1]) < 0.5
    assert np.abs(tones).max() <= 1.001 and tones.std() > 0.1
    assert first[..., 2].mean() > first[..., 1].mean() > first[..., 0].mean()


def test_an_unknown_material_is_named():
    with pytest.raises(KeyError, match=r"'velvet' is not a material; the materials are brick"):
        draw("velvet", GREY, 32, 0)


def test_materials_differ_in_their_spectra():
    spectra = known(64, draws=12)
    for name in ("cloud", "checks", "grass"):
        tones = tone_of(np.stack([draw(name, GREY, 64, (5, i)) for i in range(4)]), [GREY] * 4)
        assert nearest(power(tones), spectra).count(name) >= 3
        assert len(decibels(power(tones), spectra[name].mean_power)) == len(EDGES) - 1


def test_scenes_say_what_they_show(run):
    scenes = Scenes(run / "references")
    scene = Scene("green-dot", "3d", "blue", "weave", seed=3)
    assert scene.caption == "green dot, 3d on blue weave" and scene.said(style=False) == "green dot on blue weave"
    assert Scene(None, None, "blue", "weave").caption == "blue weave"
    picture, mask = scenes.picture(scene), scenes.mask(scene)
    alone = scenes.picture(Scene(None, None, "blue", "weave", seed=3))
    assert picture.shape == (3, 32, 32) and mask.shape == (32, 32) and 0.1 < mask.mean() < 0.9
    corner = mask[:4, :4].sum() == 0 and torch.allclose(picture[:, 0, 0], alone[:, 0, 0], atol=0.2)
    assert corner and not torch.allclose(picture, alone, atol=0.2)
    settings = SceneRecipe.load("toy").scenes
    drawn = scenes.drawn(60, settings, seed=1)
    assert drawn == scenes.drawn(60, settings, seed=1) and any(s.name is None for s in drawn)
    assert not {(s.name, s.style) for s in drawn} & scenes.held_out
    with pytest.raises(KeyError, match="'blue-cat' is unknown; 6 are known"):
        scenes.rgba("blue-cat", "3d")


def test_dropped_tokens_are_those_of_the_whole(run):
    """All tokens kept: the model's own forward. Some kept: their targets are the same tokens of the whole target."""
    recipe = SceneRecipe.load("toy")
    state = State(recipe, run)
    for parameter in state.parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    latents, sigma = torch.randn(3, 4, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    text = state.text(["red dot", "", "blue weave"], "cpu")
    places = positions(4, 4, 32)
    assert torch.allclose(places, state.transformer.pos_embed.cropped_pos_embed(8, 8))
    with torch.no_grad():
        whole = predict(state.transformer, latents, text, sigma, places)
        stock = state.transformer(latents, *text, sigma * 1000, return_dict=False)[0]
        index = kept(3, 4, 0.25, 2, torch.Generator().manual_seed(0))
        some = predict(state.transformer, latents, text, sigma, places, index)
    assert torch.allclose(whole, patches(stock, 2), atol=1e-5)
    assert some.shape == (3, 4, 16) and len({tuple(i) for i in index.tolist()}) > 1
    rows, columns = index // 4, index % 4
    assert (rows.max(1).values - rows.min(1).values == 1).all()
    assert (columns.max(1).values - columns.min(1).values == 1).all()
    assert kept(3, 4, 1.0, 1, torch.Generator()) is None
    fine, coarse = positions(16, 16, 144).view(16, 16, 144), positions(8, 16, 144).view(8, 8, 144)
    middle = slice(0, 18)  # the slowest changes are left out: stock sines, at the same place at both sizes
    between = (fine[0::2, 0::2, middle] + fine[1::2, 1::2, middle]) / 2
    assert torch.allclose(between, coarse[..., middle], atol=0.02)


def test_a_run_is_whole_and_can_go_on(run, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    steps = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] == 8 and {"trained", "held_out", "materials", "cpu_hours"} <= set(steps[-1])
    header = (run / "dose.csv").read_text().splitlines()[0]
    assert header == "step,sigma,block,channel,ratio,rho,low,high" and len(dose.due(24000)) == 10
    tensors, record = keep.load(run / "dit.safetensors")
    assert record["step"] == 8 and not list(run.glob("*.pt")) and any(k.startswith("adam.") for k in tensors)
    dit.main("toy", run, None, None, 0.004)
    _, finished = keep.load(run / "dit-finished.safetensors")
    assert finished["step"] > 8 and keep.load(run / "dit.safetensors")[1]["step"] == 8
    export.main("toy", run, tmp_path / "model", False)
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    assert pipeline.transformer.pos_embed.pos_embed.shape == (1, 64, 32)
    paint = evaluate.Painter(tmp_path / "model")
    assert paint(["red dot, 3d on blue weave"]).shape == (1, 3, 32, 32)
    scenes = Scenes(tmp_path / "scenes")
    wanted = [Scene(n, "3d", "white", None) for n in scenes.names]
    assert evaluate.ranks(scenes, wanted, scenes.pictures(wanted)) == [0] * len(wanted)


def test_a_warm_start_takes_words_by_their_spelling(run, tmp_path):
    export.main("toy", run, tmp_path / "model", False)
    state = State(SceneRecipe.load("toy"), run)
    assert state.warm_start(tmp_path / "model") == [] and "the weights of model" in state.start
    tensors, _ = keep.load(run / "dit.safetensors")
    name = "text_encoder.text_model.embeddings.token_embedding.weight"
    average = dict(zip((n for n, p in state.model.named_parameters()), state.average, strict=True))
    row = state.text.clip_tokenizer.get_vocab()["weave"]
    order = [n for n, _ in state.model.named_parameters()]
    assert torch.allclose(average[name][row], tensors[f"average.{order.index(name)}"][row], atol=1e-6)


def test_the_decoder_alone_leaves_the_latents(run, tmp_path):
    import shutil

    from diffusers import AutoencoderKL

    shutil.copytree(run / "references", tmp_path / "references")
    shutil.copy(run / "vae.safetensors", tmp_path)
    vae.main("toy", tmp_path, None, 0.005, True)
    old, new = (AutoencoderKL.from_pretrained(p / "vae") for p in (run, tmp_path))
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(old.encode(picture).latent_dist.mode(), new.encode(picture).latent_dist.mode(), atol=1e-5)
    assert not torch.equal(old.decoder.conv_in.weight, new.decoder.conv_in.weight)
    with pytest.raises(SystemExit, match="--decoder needs --minutes"):
        vae.main("toy", tmp_path, None, None, True)


def test_the_training_of_a_gpu_at_toy_size(run, tmp_path):
    """Shards in order and with their captions; the autoencoder, two stages, a checkpoint that can be exported."""
    import shutil
    from concurrent.futures import ThreadPoolExecutor

    shutil.copytree(run / "references", tmp_path / "references")
    shutil.copy(run / "words.json", tmp_path)
    recipe, pool = SceneRecipe.load("toy"), ThreadPoolExecutor(1)
    job = Job(tmp_path, recipe, 8, bare=0.15, salt=41, number=0)
    shard = Renderer(pool, job, ahead=1).take()
    scenes = Scenes(tmp_path / "references")
    wanted = scenes.drawn(8, recipe.scenes, (recipe.seed, 41, 0))
    assert torch.allclose(as_pictures(shard["pictures"]), scenes.pictures(wanted), atol=1 / 127)
    state = State(recipe, run)
    ways = [(w.said(False, True), w.caption, "") for w in wanted]
    for row, said in enumerate(ways):
        ids = shard["clip"][row, [1, 0, 4]].long()
        encoded = state.text.encode(ids, shard["t5"][row, [1, 0, 4]].long())
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(encoded, state.text(list(said), "cpu"), strict=True))
    before = signal.getsignal(signal.SIGTERM)
    gpu.train_vae(tmp_path, recipe, Renderer(pool, job, ahead=2), 0.005, None)
    gpu.train_dit(tmp_path, recipe, Renderer(pool, job, ahead=2), 0.03, None, "graph")
    tensors, record = keep.load(tmp_path / "dit.safetensors")
    assert signal.getsignal(signal.SIGTERM) is before, "put back"
    assert record["step"] > 0 and all(t.isfinite().all() for t in tensors.values())
    assert [gpu.stage_at(recipe, s).keep for s in (0.0, 0.5, 0.99, 1.0)] == [0.25, 0.25, 1.0, 1.0]
    export.main("toy", tmp_path, tmp_path / "export" / "model", False)
    assert (tmp_path / "export" / "model" / "dose.csv").is_file()


def test_a_stop_is_asked_for_politely():
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop = keep.Stop()
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_bad_recipes(tmp_path):
    from pathlib import Path

    toy = (Path(sprites.__file__).parent / "recipes" / "toy.toml").read_text()
    odd = tmp_path / "odd.toml"
    odd.write_text(toy.replace("cell = 2", "cell = 3"))
    with pytest.raises(SystemExit, match="cell 3 its 4 tokens"):
        SceneRecipe.load(str(odd))
    odd.write_text(toy.replace("steps = 8", "steps = 9"))
    with pytest.raises(SystemExit, match=r"stages have 8 steps, dit\.steps is 9"):
        SceneRecipe.load(str(odd))
    with pytest.raises(SystemExit, match="recipe 'huge' is unknown: pass one of emoji128, emoji128-gpu, toy"):
        SceneRecipe.load("huge")
