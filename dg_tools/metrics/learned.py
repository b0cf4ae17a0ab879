"""Scores by large networks: does the picture fit its prompt, is it like another one, would people like it?

Optional extras. CLIP and DINO run on `transformers`, which is installed anyway; their weights are downloaded when they
are asked for by name, never by an import. The others need a package of their own, and say which: each then loads its
authors' weights in their own format, some of them pickles, so that it is the reader's choice.

Every score takes pictures (N, 3, H, W) in [-1, 1] and gives (N,). Those with a second argument fit into
`experiments.detail(scores=...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

CLIP = "openai/clip-vit-large-patch14"
DINO = "facebook/dinov2-base"


def as_images(pictures: torch.Tensor) -> list[Image.Image]:
    """PIL pictures of (N, 3, H, W) in [-1, 1].

    Raises:
        ValueError: another shape.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures of shape {tuple(pictures.shape)}; (N, 3, H, W) in [-1, 1] is needed")
    bytes_ = ((pictures.clamp(-1, 1) / 2 + 0.5) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(x) for x in bytes_]


def check_prompts(pictures: torch.Tensor, prompts: Sequence[str]) -> None:
    """Raise ValueError where there is not one prompt a picture."""
    if len(pictures) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts for {len(pictures)} pictures: one for each is needed")


class ClipScore:
    """Cosine of picture and prompt in CLIP, times 100 (Hessel et al. 2021, arXiv 2104.08718, without their factor 2.5).

    Args:
        name: Hub id or folder; its weights are downloaded if they are not there yet.
        model, processor: loaded ones instead.
    """

    def __init__(self, name: str = CLIP, *, model: Any = None, processor: Any = None) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.model = model if model is not None else CLIPModel.from_pretrained(name, use_safetensors=True)
        self.processor = processor if processor is not None else CLIPProcessor.from_pretrained(name)
        self.model.eval()

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str], clean: Any = None) -> torch.Tensor:
        """Points from -100 to 100; `clean` is not used."""
        check_prompts(pictures, prompts)
        inputs = self.processor(
            text=list(prompts), images=as_images(pictures), return_tensors="pt", padding=True, truncation=True
        )
        outputs = self.model(**inputs)
        return 100 * F.cosine_similarity(outputs.image_embeds, outputs.text_embeds)


class DinoSimilarity:
    """Cosine of two pictures in DINOv2's class token (Oquab et al. 2023, arXiv 2304.07193): like content.

    Args:
        name: Hub id or folder; its weights are downloaded if they are not there yet.
        model, processor: loaded ones instead.
    """

    def __init__(self, name: str = DINO, *, model: Any = None, processor: Any = None) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.model = model if model is not None else AutoModel.from_pretrained(name, use_safetensors=True)
        self.processor = processor if processor is not None else AutoImageProcessor.from_pretrained(name)
        self.model.eval()

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str], clean: torch.Tensor) -> torch.Tensor:
        """Similarity of each picture and its clean sample, -1..1; `prompts` are not used."""
        if pictures.shape != clean.shape:
            raise ValueError(f"pictures of shape {tuple(pictures.shape)} against {tuple(clean.shape)}; equal needed")
        ours, theirs = (
            self.model(**self.processor(images=as_images(x), return_tensors="pt")).last_hidden_state[:, 0]
            for x in (pictures, clean)
        )
        return F.cosine_similarity(ours, theirs)


def optional(module: str, package: str, what: str) -> Any:
    """An optional package.

    Raises:
        ImportError: it is not installed, with the line that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs an optional package: pip install {package} ({error})") from error


def hpsv2(pictures: torch.Tensor, prompts: Sequence[str], clean: Any = None) -> torch.Tensor:
    """Human Preference Score v2.1 (Wu et al. 2023, arXiv 2306.09341), (N,).

    Raises:
        ImportError: `hpsv2` is not installed.
    """
    check_prompts(pictures, prompts)
    package = optional("hpsv2", "hpsv2", "HPSv2")
    pairs = zip(as_images(pictures), prompts, strict=True)
    return torch.tensor([float(package.score([image], prompt, hps_version="v2.1")[0]) for image, prompt in pairs])


def image_reward(pictures: torch.Tensor, prompts: Sequence[str], clean: Any = None) -> torch.Tensor:
    """ImageReward-v1.0 (Xu et al. 2023, arXiv 2304.05977), (N,), about standard normal over people's pictures.

    Raises:
        ImportError: `image-reward` is not installed.
    """
    check_prompts(pictures, prompts)
    model = optional("ImageReward", "image-reward", "ImageReward").load("ImageReward-v1.0")
    pairs = zip(as_images(pictures), prompts, strict=True)
    return torch.tensor([float(model.score(prompt, image)) for image, prompt in pairs])


def aesthetic(pictures: torch.Tensor, prompts: Sequence[str] = (), clean: Any = None) -> torch.Tensor:
    """LAION aesthetic predictor v2, linear on CLIP ViT-L/14 (Schuhmann 2022), (N,), about 1 to 10.

    Raises:
        ImportError: `simple-aesthetics-predictor` is not installed.
    """
    images = as_images(pictures)
    package = optional("aesthetics_predictor", "simple-aesthetics-predictor", "the aesthetic score")
    from transformers import CLIPProcessor

    name = "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE"
    model = package.AestheticsPredictorV2Linear.from_pretrained(name).eval()
    processor = CLIPProcessor.from_pretrained(name)
    with torch.no_grad():
        return model(**processor(images=images, return_tensors="pt")).logits.flatten()
