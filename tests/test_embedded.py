"""The embedded models as a user meets them: stock folders, in stock diffusers, that draw what they are asked for."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import dg_tools as dg
from dg_tools.metrics import band_correlation, retrieval_rank
from dg_tools.models.files import ZOO, embedded
from dg_tools.models.pictures import decode, encode
from dg_tools.models.provenance import weights_hash

CALLS = {
    "emoji-flux": {"height": 64, "width": 64, "max_sequence_length": 12},
    "emoji-sd3": {"max_sequence_length": 4},
}
PARTS = {
    "emoji-flux": {"FluxTransformer2DModel", "AutoencoderKL", "CLIPTextModel", "T5EncoderModel"},
    "emoji-sd3": {"SD3Transformer2DModel", "AutoencoderKL", "CLIPTextModelWithProjection", "T5EncoderModel"},
}


@pytest.fixture(scope="module", params=sorted(CALLS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name):
    return ZOO / name


@pytest.fixture(scope="module")
def dit(name):
    return dg.load(name)


def test_the_default_is_sd3():
    assert embedded() == sorted(CALLS) and dg.load().family.name == "sd3"


def test_the_folder_is_small_and_safe(folder):
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 24 * 2**20
    assert max(p.stat().st_size for p in files) <= 15 * 2**20
    weights = [p for p in files if p.stat().st_size > 2**20]
    assert weights and {p.suffix for p in weights} == {".safetensors"}
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".jsonl", ".csv", ".md", ".png"}


STOCK = """
import json, sys
import torch
from diffusers import DiffusionPipeline
assert "dg_tools" not in sys.modules
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
call = json.loads(sys.argv[2])
pipe.set_progress_bar_config(disable=True)
modules = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
dtypes = {str(p.dtype) for m in modules for p in m.parameters()}
for prompt in sys.argv[3:]:
    image = pipe(prompt, **call, num_inference_steps=3).images[0]
    assert image.size == (64, 64) and len(set(image.getdata())) > 10
print(json.dumps({"classes": [type(m).__name__ for m in modules], "dtypes": sorted(dtypes)}))
"""


def test_plain_diffusers_loads_and_samples_it(name, folder):
    """No argument but those that the card names; prompts of the held-out list too; every part in one dtype."""
    prompts = ["red apple", *(r.prompt for r in dg.references().sample(2, seed=0, held_out=True))]
    arguments = [str(folder), json.dumps(CALLS[name]), *prompts]
    made = subprocess.run([sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    found = json.loads(made.stdout.splitlines()[-1])
    assert found["dtypes"] == ["torch.float32"]
    assert set(found["classes"]) == PARTS[name]


def test_the_cards_own_lines_run(folder, monkeypatch):
    """The card's Python, beside the folder, as a reader would paste it; fewer steps."""
    lines = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(folder.parent)
    *first, last = ast.parse(lines.replace("num_inference_steps=20", "num_inference_steps=2")).body
    scope: dict[str, object] = {}
    exec(compile(ast.Module(first, []), "card", "exec"), scope)
    assert eval(compile(ast.Expression(last.value), "card", "eval"), scope).size == (64, 64)


def test_ours_is_the_stock_call(dit, name):
    made = dg.generate(dit, "red apple on blue", seed=3, steps=4, guidance=dg.CFG(3.0), progress=False)
    scale = "true_cfg_scale" if name == "emoji-flux" else "guidance_scale"  # FLUX's guidance_scale is the distilled one
    stock = dit.pipeline(
        "red apple on blue",
        num_inference_steps=4,
        negative_prompt="",
        generator=torch.Generator().manual_seed(3),
        **{scale: 3.0},
        **CALLS[name],
    )
    assert np.array_equal(np.asarray(made.images[0]), np.asarray(stock.images[0]))


def test_it_draws_what_it_is_asked_for(dit):
    """Twelve trained pairs with CFG: the right name is among the five nearest of all names for most of them."""
    source = dg.references(dit)
    wanted = source.sample(12, seed=77, held_out=False)
    wanted = [source.reference(r.name, r.style, "white") for r in wanted]
    made = dg.generate(dit, [r.prompt for r in wanted], steps=10, guidance=dg.CFG(3.0), progress=False)
    pictures = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in made.images]).float() / 127.5 - 1
    ranks = []
    pools = {s: source.pictures([source.reference(n, s) for n in source.names]) for s in {r.style for r in wanted}}
    for picture, reference in zip(pictures, wanted, strict=True):
        place = torch.tensor([source.names.index(reference.name)])
        ranks += retrieval_rank(picture[None], pools[reference.style], place).tolist()
    assert sum(r < 5 for r in ranks) >= 9, ranks


def test_the_vae_keeps_fine_detail(dit):
    source = dg.references(dit)
    truth = source.pictures(source.sample(48, seed=5))
    again = decode(dit, encode(dit, truth), output_type="pt") * 2 - 1
    assert band_correlation(again, truth)["high"].mean() > 0.94


def test_latents_are_normalised(dit):
    source = dg.references(dit)
    latents = encode(dit, source.pictures(source.sample(128, seed=6)))
    assert latents.mean((0, 2, 3)).abs().max() < 0.2 and (latents.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_references_and_split():
    source = dg.references()
    assert len(source.names) >= 500 and len(source.pairs()) == 2 * len(source.names)
    assert len(source.held_out) == len(source.names) // 5
    assert "MIT License" in (source.folder / "LICENSE").read_text(encoding="utf-8")
    apple = source.reference("red apple", "shaded", "blue")
    assert apple.prompt == "red apple, shaded on blue" and apple.other_style.style == "flat"
    pair = source.pictures([apple, apple.other_style])
    assert pair.shape == (2, 3, 64, 64) and (pair[0] != pair[1]).any()
    corner = torch.tensor(source.backgrounds["blue"]) / 127.5 - 1
    assert torch.allclose(pair[:, :, 0, 0], corner.expand(2, 3))


def test_the_card_holds_the_gates_and_the_profile(dit, folder):
    record = json.loads((folder / "training.json").read_text())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert sum(r["seconds"] for r in record["runs"]) >= 2.5 * 3600
    assert evaluation["vae"]["all"]["high"]["mean"] >= 0.95
    assert evaluation["retrieval"]["trained"]["pairs"] == 200
    assert evaluation["retrieval"]["trained"]["top_5"]["mean"] >= 0.9
    assert evaluation["controls"] >= 20 and evaluation["pictures"] >= 64
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "NOT met" not in card and "memorises" in card
    assert dit.profile["weights"] == weights_hash(dit) and "objective" in dit.profile
    dg.Disrupt.from_profile(dit.profile).check(dit)
