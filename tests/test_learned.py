"""Scores by large networks, on tiny ones with random weights in folders; and what is said where none is there."""

from __future__ import annotations

import socket

import pytest
import score_folders
import torch

from dg_tools.experiments import semantics
from dg_tools.metrics import learned

PICTURES = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
PROMPTS = ["red apple", "a tree", "b"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("scores")
    return {"clip": score_folders.clip(root / "clip"), "dino": score_folders.dino(root / "dino")}


@pytest.fixture(scope="module")
def clip(folders):
    return learned.ClipScore(folders["clip"])


@pytest.fixture(scope="module")
def dino(folders):
    return learned.DinoSimilarity(folders["dino"])


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with nothing in its caches."""
    import huggingface_hub.constants
    import transformers.utils.hub

    for module in (huggingface_hub.constants, transformers.utils.hub):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


def alone(score, picture, prompt):
    """One cosine by the model's own forward."""
    given = score.processor(text=[prompt], images=learned.as_images(picture[None])[0], return_tensors="pt")
    with torch.no_grad():
        made = score.model(**given)
    return (
        100 * ((made.image_embeds * made.text_embeds).sum() / made.image_embeds.norm() / made.text_embeds.norm()).item()
    )


def test_clip_score_is_the_cosine_and_its_margin_is_over_the_nearest_other_prompt(clip):
    made, margin = clip(PICTURES, PROMPTS), clip.margin(PICTURES, PROMPTS)
    table = [[alone(clip, x, p) for p in PROMPTS] for x in PICTURES]
    assert made.tolist() == pytest.approx([table[i][i] for i in range(3)], abs=1e-3)
    nearest = [max(row[:i] + row[i + 1 :]) for i, row in enumerate(table)]
    assert margin.tolist() == pytest.approx([table[i][i] - nearest[i] for i in range(3)], abs=1e-3)
    twice = clip.margin(PICTURES, ["b", "red apple", "b"])  # the same prompt is no other
    assert twice[0].item() == pytest.approx(table[0][2] - table[0][0], abs=1e-3)
    assert clip.margin(PICTURES, ["b"] * 3).isnan().all()
    with pytest.raises(ValueError, match="2 prompts for 3 pictures"):
        clip(PICTURES, PROMPTS[:2])


def test_dino_similarity_is_one_for_a_copy_and_its_margin_is_over_other_prompts_samples(dino):
    assert torch.allclose(dino(PICTURES, [], PICTURES), torch.ones(3))
    assert (dino(PICTURES, [], PICTURES.flip(0))[[0, 2]] < 1 - 1e-4).all()
    similar = torch.stack([dino(PICTURES, [], x.expand(3, -1, -1, -1)) for x in PICTURES])  # [clean, picture]
    margin = dino.margin(PICTURES, ["a", "b", "a"], PICTURES)
    assert margin.tolist() == pytest.approx(
        [(1 - similar[1, 0]).item(), (1 - max(similar[0, 1], similar[2, 1])).item(), (1 - similar[1, 2]).item()],
        abs=1e-5,
    )
    assert dino.margin(PICTURES, ["a"] * 3, PICTURES).isnan().all()
    with pytest.raises(ValueError, match="equal shapes are needed"):
        dino(PICTURES, [], PICTURES[:2])


def test_many_pictures_are_taken_in_parts(clip, dino, monkeypatch):
    whole = clip(PICTURES, PROMPTS), dino(PICTURES, [], PICTURES.flip(0))
    monkeypatch.setattr(learned, "BATCH", 2)
    parts = clip(PICTURES, PROMPTS), dino(PICTURES, [], PICTURES.flip(0))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole, parts, strict=True))


def test_what_is_at_hand(folders, bare, tmp_path):
    made = semantics.semantic_scores(PROMPTS, **folders)
    assert list(made) == ["clip", "clip margin", "dino", "dino margin"]
    assert semantics.rests_on(made) == "clip margin" and "CLIP's margin" in semantics.basis("clip margin")
    assert list(semantics.semantic_scores(["a", "a"], **folders)) == ["clip", "dino"]
    assert semantics.rests_on(semantics.semantic_scores(PROMPTS, dino=folders["dino"])) == "dino margin"
    assert semantics.semantic_scores(PROMPTS) == {} and semantics.rests_on({}) == "low_band"
    assert "was at hand" in semantics.basis("low_band")
    with pytest.raises(FileNotFoundError, match=r"no-such is neither a folder .* pass a folder"):
        semantics.semantic_scores(PROMPTS, clip=tmp_path / "no-such")
    with pytest.raises(FileNotFoundError, match="download=True"):
        learned.DinoSimilarity()
    with pytest.raises(FileNotFoundError, match="LPIPS needs torchvision"):
        learned.PerceptualDistance()


def test_nothing_asks_the_network(monkeypatch, tmp_path):
    """Where no weights are on this machine, the answer comes without a call of the Hub, online too."""
    from huggingface_hub import constants

    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("this test has no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert semantics.semantic_scores(PROMPTS) == {} and not asked


def test_pictures_are_checked():
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        learned.as_images(PICTURES[0])
    assert learned.as_images(torch.ones(1, 3, 2, 2))[0].getpixel((0, 0)) == (255, 255, 255)


def test_perceptual_distance_is_torchmetrics(monkeypatch, tmp_path):
    """With torchvision's AlexNet, random weights in torch's cache; torchvision is not among our dependencies."""
    models = pytest.importorskip("torchvision").models
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as theirs

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    torch.save(models.alexnet(weights=None).state_dict(), tmp_path / "checkpoints" / learned.ALEXNET)
    score = learned.PerceptualDistance()
    pictures = torch.nn.functional.interpolate(PICTURES, scale_factor=2)
    made = score(pictures, [], pictures.flip(0))
    expected = [
        theirs(a[None], b[None], net_type="alex").item() for a, b in zip(pictures, pictures.flip(0), strict=True)
    ]
    assert made.tolist() == pytest.approx(expected, abs=1e-5) and score(pictures, [], pictures).abs().max() < 1e-6
    assert "lpips" in learned.at_hand()
