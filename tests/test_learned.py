"""Scores by large networks, on tiny ones with random weights; and what is said where a package is missing."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, Dinov2Config, Dinov2Model

from dg_tools.metrics import learned

PICTURES = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def images() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def test_clip_score_is_the_cosine():
    tokenizer = tiny.clip_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    text = {**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 16, **ids}
    config = CLIPConfig(text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 8}, projection_dim=8)
    torch.manual_seed(0)
    model = CLIPModel(config)
    score = learned.ClipScore(model=model, processor=CLIPProcessor(images(), tokenizer))
    prompts = ["red apple", "a tree", "b"]
    made = score(PICTURES, prompts)
    assert made.shape == (3,)
    given = score.processor(text=[prompts[1]], images=learned.as_images(PICTURES)[1], return_tensors="pt")
    with torch.no_grad():
        alone = model(**given)
    cosine = (alone.image_embeds * alone.text_embeds).sum() / alone.image_embeds.norm() / alone.text_embeds.norm()
    assert made[1].item() == pytest.approx(100 * cosine.item(), abs=1e-3)
    with pytest.raises(ValueError, match="2 prompts for 3 pictures"):
        score(PICTURES, prompts[:2])


def test_dino_similarity_is_one_for_a_copy():
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8)
    score = learned.DinoSimilarity(model=Dinov2Model(config), processor=images())
    assert torch.allclose(score(PICTURES, [], PICTURES), torch.ones(3))
    assert (score(PICTURES, [], PICTURES.flip(0))[[0, 2]] < 1 - 1e-4).all()
    with pytest.raises(ValueError, match="equal needed"):
        score(PICTURES, [], PICTURES[:2])


@pytest.mark.parametrize(
    ("score", "package"),
    [(learned.hpsv2, "hpsv2"), (learned.image_reward, "image-reward"), (learned.aesthetic, "simple-aesthetics")],
)
def test_missing_packages_say_how_to_install_them(score, package):
    with pytest.raises(ImportError, match=f"pip install {package}"):
        score(PICTURES, ["a", "b", "c"])


def test_pictures_are_checked():
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        learned.as_images(PICTURES[0])
    assert learned.as_images(torch.ones(1, 3, 2, 2))[0].getpixel((0, 0)) == (255, 255, 255)
