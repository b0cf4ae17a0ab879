"""Render: shards of new scenes drawn by many processes, ahead of a training on a GPU that would else wait for them.

A shard is one safetensors file: pictures as 8 bits, and what may be said of each scene as token ids. It is a function
of the seed, the salt and its number, so a file that is there already is not drawn again.
"""

from __future__ import annotations

import json
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.recipe import write_safely
from training.scenes.recipe import SceneRecipe
from training.scenes.scene import Scene, Scenes
from training.text import clip_tokenizer, t5_tokenizer, token_ids

SAID = ((True, True), (False, True), (True, False), (False, False))  # style, background; a fifth says nothing


@dataclass(frozen=True)
class Job:
    """Which shard: `bare` is the share of pictures without an object, `salt` sets one series of shards apart."""

    run: Path
    recipe: SceneRecipe
    count: int
    bare: float
    salt: int
    number: int

    @property
    def file(self) -> Path:
        return self.run / "shards" / f"{self.salt}-{self.number}.safetensors"


@lru_cache(maxsize=1)
def _scenes(run: Path) -> Scenes:
    torch.set_num_threads(1)
    return Scenes(run / "references")


@lru_cache(maxsize=1)
def _words(run: Path) -> list[str]:
    return json.loads((run / "words.json").read_text(encoding="utf-8"))


def said(scenes: list[Scene], run: Path, recipe: SceneRecipe) -> dict[str, torch.Tensor]:
    """Token ids of every way to say a scene, (scenes, 5, length) int16, for CLIP and for T5."""
    captions = [c for s in scenes for c in [*(s.said(*parts) for parts in SAID), ""]]
    words, dit = _words(run), recipe.dit
    clip = token_ids(clip_tokenizer(words, dit.clip_length), captions, dit.clip_length)
    t5 = token_ids(t5_tokenizer(words), captions, dit.t5_length)
    return {k: v.view(len(scenes), len(SAID) + 1, -1).short() for k, v in (("clip", clip), ("t5", t5))}


def draw(job: Job) -> Path:
    """Draw one shard, unless it is there."""
    if not job.file.is_file():
        scenes = _scenes(job.run)
        settings = replace(job.recipe.scenes, bare=job.bare)
        subjects = scenes.drawn(job.count, settings, (job.recipe.seed, job.salt, job.number))
        pictures = torch.stack([((scenes.picture(s) + 1) * 127.5).round().byte() for s in subjects])
        tensors = {"pictures": pictures.permute(0, 2, 3, 1).contiguous(), **said(subjects, job.run, job.recipe)}
        write_safely(job.file, lambda p: save_file(tensors, p))
    return job.file


def processes(count: int) -> ProcessPoolExecutor:
    """Fresh ones: a process that shares a GPU's state cannot be forked."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


class Renderer:
    """A series of shards, drawn ahead in worker processes and handed out in order.

    Args:
        pool: of workers; several series may share it.
        first: the series' first shard; the others follow by number.
        ahead: shards that are drawn before they are taken.

    Example:
        renderer = Renderer(processes(14), job, ahead=40)
        shard = renderer.take()
    """

    def __init__(self, pool: Executor, first: Job, ahead: int) -> None:
        self.pool, self.first, self.next, self.ahead = pool, first, first.number, ahead
        self.waiting: list[Future[Path]] = []
        self._fill()

    def _fill(self) -> None:
        while len(self.waiting) < self.ahead:
            self.waiting.append(self.pool.submit(draw, replace(self.first, number=self.next)))
            self.next += 1

    def take(self, wait: bool = True) -> dict[str, torch.Tensor] | None:
        """The next shard: `pictures` (N, H, W, 3) uint8, `clip` and `t5` ids; None if it is not drawn yet."""
        if not wait and not self.waiting[0].done():
            return None
        file = self.waiting.pop(0).result()
        self._fill()
        return load_file(file)
