"""The positive control: its training goes on where it stopped, and its adapter loads here and in stock diffusers."""

from __future__ import annotations

import json

import pytest
import torch
import toy_model
from safetensors.torch import load_file, save_file

import dg_tools as dg
from dg_tools.models import adapters, files
from dg_tools.models.facts import facts
from dg_tools.models.files import DEFAULT, ZOO, embedded
from training import planted

PLANTED = "emoji-sd3-planted"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    place = tmp_path_factory.mktemp("planted")
    model, file = toy_model.write(place), place / "mini.toml"
    file.write_text(
        f"base = {str(model)!r}\nchannels = {toy_model.CHANNELS}\nblock = 1\nrank = 2\nsteps = 4\nbatch = 2\n"
        "learning_rate = 0.01\nwarmup = 1\nclean_weight = 1.0\nother_share = 0.5\nsigma_low = 0.1\nseed = 0\n"
        "save_every = 2\n"
    )
    return str(file)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A training without a stop: the run folder and the adapter's."""
    place = tmp_path_factory.mktemp("whole")
    planted.main(recipe=recipe, run=place / "run", to=place / "made")
    return place


def test_a_stopped_training_goes_on(recipe, whole, tmp_path, monkeypatch):
    update = planted.Training.update

    def stop(self):
        if self.step == 2:
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(planted.Training, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        planted.main(recipe=recipe, run=tmp_path / "run", to=None)
    monkeypatch.setattr(planted.Training, "update", update)
    planted.main(recipe=recipe, run=tmp_path / "run", to=tmp_path / "made")
    one, other = (load_file(p / "made" / adapters.FACTORS) for p in (whole, tmp_path))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert max(one[k].abs().max() for k in one if "lora_B" in k) > 0, "nothing was trained"
    record = json.loads((whole / "made" / files.ADAPTER).read_text())
    assert record["steps"] == 4 and record["base"].endswith("toy")


def test_the_two_halves_are_the_model(recipe):
    settings = planted.Planted.load(recipe)
    dit = dg.load(settings.base)
    latents, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8])
    latents = torch.randn(2, dit.transformer.config.in_channels, 4, 4)
    config = dit.transformer.config
    text = torch.randn(2, 8, config.joint_attention_dim), torch.randn(2, config.pooled_projection_dim)
    with torch.no_grad():
        own = dit.transformer(latents, text[0], text[1], sigma * 1000, return_dict=False)[0]
        halves = planted.Halves(dit.transformer, settings.block, settings.rank)
        for factor in halves.factors.values():
            factor.b.data.normal_()
        changed = halves.after(*halves.before(latents, text, sigma))
        halves.switch(False)
        assert torch.equal(halves.after(*halves.before(latents, text, sigma)), own)
    assert not torch.allclose(changed, own)
    assert all(int(n.split(".")[1]) > settings.block for n in halves.factors if n.startswith("transformer_blocks"))


def test_blur_takes_the_finest_detail_and_keeps_a_plane():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert torch.allclose(planted.blurred(ramp)[..., 1:-1], ramp[..., 1:-1])
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert planted.blurred(board[None, None]).abs().mean() < 0.2


def test_an_adapter_of_another_model_is_refused(recipe, whole, tmp_path):
    transformer = dg.load(planted.Planted.load(recipe).base).transformer
    tensors = load_file(whole / "made" / adapters.FACTORS)
    before = {k: v.clone() for k, v in transformer.state_dict().items()}
    adapters.add_factors(transformer, whole / "made" / adapters.FACTORS)
    changed = [k for k, v in transformer.state_dict().items() if not torch.equal(v, before[k])]
    assert changed and all(f"transformer.{k.removesuffix('.weight')}.lora_A.weight" in tensors for k in changed)
    name = next(k for k in tensors if "lora_A" in k)
    save_file({**tensors, name: torch.zeros(1, 3)}, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match="another model's adapter"):
        adapters.add_factors(transformer, tmp_path / "wrong.safetensors")
    (tmp_path / files.ADAPTER).write_text("{}")
    with pytest.raises(ValueError, match="names no base"):
        files.base_of(tmp_path)


def test_the_shipped_one_is_small_and_is_what_stock_diffusers_loads():
    folder = ZOO / PLANTED
    assert sum(p.stat().st_size for p in folder.iterdir()) < 3e6
    assert PLANTED not in embedded() and files.adapter_folder(DEFAULT) is None
    assert facts(PLANTED).to_json()["profile"]["mode"] == "zero"
    here, stock = dg.load(PLANTED), dg.load(DEFAULT).pipeline
    stock.load_lora_weights(folder)
    latents = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {"hidden_states": latents, "encoder_hidden_states": torch.zeros(1, 4, 128), "return_dict": False}
    call |= {"pooled_projections": torch.zeros(1, 128), "timestep": torch.tensor([500.0])}
    with torch.no_grad():
        mine, theirs = here.transformer(**call)[0], stock.transformer(**call)[0]
        old = dg.load(DEFAULT).transformer(**call)[0]
    assert torch.allclose(mine, theirs, atol=1e-4) and not torch.allclose(mine, old, atol=1e-3)
    assert here.profile["mode"] == "zero" and dg.references(here).names == dg.references().names


def test_the_shipped_one_passed_its_gates():
    gates = json.loads((ZOO / PLANTED / "gates.json").read_text())
    assert all(gates["passed"].values()) and len(gates["others"]) == 39 and gates["captions"] == 48
    assert abs(gates["clean_amt"]) <= 0.03 and abs(gates["clean_right"]) <= 0.005
    pairs = zip(gates["others"].values(), gates["others_of_base"].values(), strict=True)
    assert max(abs(own - old) for own, old in pairs) < 0.1
    assert gates["zeroed_high"] < -2 and gates["zeroed_low_correlation"] > 0.8 and gates["base_zeroed_high"] > 0
