"""Scores by large networks, for real models: CLIP, DINOv2 and LPIPS, if their weights are on this machine.

CLIP and DINOv2 run through `transformers`, with safetensors weights from a folder or from the Hub's cache on this
machine. Nothing is downloaded unless `download=True`. LPIPS runs through torchmetrics, and needs torchvision and its
AlexNet in torch's cache. `at_hand` says what there is.

A score takes pictures (N, 3, H, W) in [-1, 1], their prompts and their clean samples, and gives (N,), as
`experiments.detail(scores=...)` needs. A *margin* is above 0 if the picture is nearer to its own prompt, or its own
clean sample, than to any other's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from PIL import Image

from dg_tools.kinds import counted

CLIP = "openai/clip-vit-large-patch14"
DINO = "facebook/dinov2-base"
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's file, in torch's cache
BATCH = 16  # pictures at once


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
    """Raise ValueError where the prompts are not one per picture."""
    if len(pictures) != len(prompts):
        raise ValueError(
            f"{counted(len(prompts), 'prompt')} for {counted(len(pictures), 'picture')}: one for each is needed"
        )


def check_clean(pictures: torch.Tensor, clean: torch.Tensor) -> None:
    """Raise ValueError where pictures and clean samples are not of one shape."""
    if pictures.shape != clean.shape:
        raise ValueError(
            f"pictures of shape {tuple(pictures.shape)} against {tuple(clean.shape)}; equal shapes are needed"
        )


def loaded(cls: Any, name: str | Path, download: bool, **settings: Any) -> Any:
    """A model or processor from a folder or the Hub's cache.

    The folder in the cache is looked up first: with an id, transformers asks the Hub for an adapter's configuration,
    with `local_files_only` too.

    Raises:
        FileNotFoundError: the model is not on this machine, and `download` is False.
    """
    try:
        place = str(name) if download or Path(name).is_dir() else snapshot_download(str(name), local_files_only=True)
        return cls.from_pretrained(place, local_files_only=not download, **settings)
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{name} is neither a folder with this model nor in the Hub's cache on this machine ({error}): pass a "
            "folder that holds it, with safetensors weights, or download=True"
        ) from None


class ClipScore:
    """Cosine of picture and prompt in CLIP, times 100 (Hessel et al. 2021, arXiv 2104.08718, without their factor 2.5).

    Args:
        name: a folder, or the id of a model in the Hub's cache.
        download: whether it may be downloaded.
        model, processor: loaded ones instead.

    Raises:
        FileNotFoundError: it is not at hand.
    """

    def __init__(
        self, name: str | Path = CLIP, *, download: bool = False, model: Any = None, processor: Any = None
    ) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.name = str(name)
        self.model = loaded(CLIPModel, name, download, use_safetensors=True) if model is None else model
        self.processor = loaded(CLIPProcessor, name, download) if processor is None else processor
        self.model.eval()

    @torch.no_grad()
    def table(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Points from -100 to 100 of every picture with every prompt, (N, M)."""
        parts = []
        for part in pictures.split(BATCH):
            inputs = self.processor(
                text=list(prompts), images=as_images(part), return_tensors="pt", padding=True, truncation=True
            )
            outputs = self.model(**inputs)
            parts.append(100 * F.normalize(outputs.image_embeds) @ F.normalize(outputs.text_embeds).T)
        return torch.cat(parts)

    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str], clean: Any = None) -> torch.Tensor:
        """Points from -100 to 100, (N,); `clean` is not used."""
        check_prompts(pictures, prompts)
        names = list(dict.fromkeys(prompts))
        own = torch.tensor([[names.index(p)] for p in prompts])
        return self.table(pictures, names).gather(1, own)[:, 0]

    def margin(self, pictures: torch.Tensor, prompts: Sequence[str], clean: Any = None) -> torch.Tensor:
        """The score with the picture's own prompt minus the highest with another of `prompts`, in points, (N,)."""
        check_prompts(pictures, prompts)
        names = list(dict.fromkeys(prompts))
        return own_minus_nearest(self.table(pictures, names), torch.tensor([names.index(p) for p in prompts]))


class DinoSimilarity:
    """Cosine of two pictures in DINOv2's class token (Oquab et al. 2023, arXiv 2304.07193): similarity of content.

    Args:
        name: a folder, or the id of a model in the Hub's cache.
        download: whether it may be downloaded.
        model, processor: loaded ones instead.

    Raises:
        FileNotFoundError: it is not at hand.
    """

    def __init__(
        self, name: str | Path = DINO, *, download: bool = False, model: Any = None, processor: Any = None
    ) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.name = str(name)
        self.model = loaded(AutoModel, name, download, use_safetensors=True) if model is None else model
        self.processor = loaded(AutoImageProcessor, name, download) if processor is None else processor
        self.model.eval()

    @torch.no_grad()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Class tokens of length 1, (N, D)."""
        parts = []
        for part in pictures.split(BATCH):
            outputs = self.model(**self.processor(images=as_images(part), return_tensors="pt"))
            parts.append(F.normalize(outputs.last_hidden_state[:, 0]))
        return torch.cat(parts)

    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str], clean: torch.Tensor) -> torch.Tensor:
        """Similarity of each picture and its clean sample, -1..1, (N,); `prompts` are not used."""
        check_clean(pictures, clean)
        return (self.features(pictures) * self.features(clean)).sum(1)

    def margin(self, pictures: torch.Tensor, prompts: Sequence[str], clean: torch.Tensor) -> torch.Tensor:
        """Similarity with the own clean sample minus that with the nearest clean sample of another prompt, (N,)."""
        check_prompts(pictures, prompts)
        check_clean(pictures, clean)
        similar = self.features(pictures) @ self.features(clean).T
        names = list(dict.fromkeys(prompts))
        place = torch.tensor([names.index(p) for p in prompts])
        same = place[:, None] == place[None]
        own = similar.diagonal()
        return (
            own - similar.masked_fill(same, -torch.inf).amax(1) if len(names) > 1 else torch.full_like(own, torch.nan)
        )


def own_minus_nearest(table: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Each row's value at `own` minus its largest other value, (N,); NaN where there is no other."""
    if table.shape[1] < 2:
        return torch.full_like(table[:, 0], torch.nan)
    others = table.scatter(1, own[:, None], -torch.inf).amax(1)
    return table.gather(1, own[:, None])[:, 0] - others


class PerceptualDistance:
    """LPIPS with AlexNet (Zhang et al. 2018, arXiv 1801.03924): how different two pictures look, 0 for a copy.

    torchmetrics ships the linear weights; AlexNet's must be in torch's cache, where torchvision puts them. Both are
    read as tensors only (`weights_only`).

    Raises:
        FileNotFoundError: torchvision is not installed, or its AlexNet is not in the cache.
    """

    def __init__(self) -> None:
        file = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
        if importlib.util.find_spec("torchvision") is None or not file.is_file():
            raise FileNotFoundError(
                f"LPIPS needs torchvision and its AlexNet, {file}: it is written there by "
                'torchvision.models.alexnet(weights="DEFAULT")'
            )
        from torchmetrics.functional.image.lpips import _LPIPS

        self.name = "LPIPS (AlexNet)"
        self.model = _LPIPS(net="alex").eval()

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str], clean: torch.Tensor) -> torch.Tensor:
        """Distance of each picture from its clean sample, from 0 up, (N,); `prompts` are not used."""
        check_clean(pictures, clean)
        pairs = zip(pictures.float().split(BATCH), clean.float().split(BATCH), strict=True)
        return torch.cat([self.model(ours, theirs).flatten() for ours, theirs in pairs])


def at_hand(clip: str | Path = CLIP, dino: str | Path = DINO) -> dict[str, Any]:
    """The scores whose weights are on this machine, by name: `clip`, `dino`, `lpips`. Nothing is downloaded.

    Args:
        clip, dino: a folder, or the id of a model in the Hub's cache.

    Raises:
        FileNotFoundError: a path of a folder that does not hold the model.
    """
    found: dict[str, Any] = {}
    for name, make, default in (("clip", lambda: ClipScore(clip), CLIP), ("dino", lambda: DinoSimilarity(dino), DINO)):
        try:
            found[name] = make()
        except FileNotFoundError:
            if {"clip": clip, "dino": dino}[name] != default:
                raise
    try:
        found["lpips"] = PerceptualDistance()
    except FileNotFoundError:
        pass
    return found
