"""Pictures from a prompt, with and without edits and guidance, from the same noise."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.guiders import BaseGuidance

from dg_tools._as_list import as_list
from dg_tools.cards import SMALL, card, picture_table, thumbnail
from dg_tools.datasets.pictures import as_pictures
from dg_tools.generation.heads import heads
from dg_tools.generation.sampling import check, check_call, guidance_scale, run
from dg_tools.guidance.base import Guidance
from dg_tools.guidance.report import Report
from dg_tools.interventions import Edit
from dg_tools.interventions.report import Edited
from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded
from dg_tools.models.pictures import decode, decode_frames, spatial
from dg_tools.progress import progress_bar

SHOWN = 24  # pictures on a card


@dataclass
class Generation:
    """The pictures of `generate`, and what each cost.

    Attributes:
        images: PIL pictures, ordered by prompt, then seed, edit, guidance; for a video its first frame.
        frames: one list of PIL pictures per result: all frames of a video, or the one picture.
        latents: (N, C, H, W), in the order of the pictures; for videos (N, C, frames, H, W), with latent frames.
        settings: one dict per picture: prompt, seed, edit, guidance (in words), steps, height, width.
        forwards: rows through the transformer (two per step with CFG); `block_calls`: rows through its blocks;
            `seconds`: each has one number per picture.
        guided: for each picture a `Report` on its guidance: steps guided of steps planned, and by how much; None
            without guidance, and for CFG alone, which the pipeline does itself.
        edited: for each picture an `Edited` on what its edits did; None without edits.
        columns: pictures per row of `grid`.

    Example:
        >>> from dg_tools.guidance.report import Report
        >>> print(Generation(guided=[Report(2, (0, 1), (0, 1), (0.12, 0.12), (0.24, 0.24))]))
        Generation(0 pictures, 0 forwards, 0.0 s, guided 2 of 2 steps)
    """

    images: list[Any] = field(default_factory=list)
    latents: torch.Tensor | None = None
    settings: list[dict[str, Any]] = field(default_factory=list)
    forwards: list[int] = field(default_factory=list)
    block_calls: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    guided: list[Report | None] = field(default_factory=list)
    edited: list[Edited | None] = field(default_factory=list)
    columns: int = 1
    frames: list[list[Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        longest = max((len(frames) for frames in self.frames), default=1)
        videos = f"{counted(len(self.images), 'video')} of {longest} frames (.images: the first of each)"
        words = [videos if longest > 1 else counted(len(self.images), "picture")]
        words += [counted(sum(self.forwards), "forward"), f"{sum(self.seconds):.1f} s"]
        if reports := [report for report in self.guided if report is not None]:
            done, planned = (sum(len(getattr(r, name)) for r in reports) for name in ("guided", "planned"))
            words.append(f"guided {done} of {planned} steps")
        return f"Generation({', '.join(words)})"

    @property
    def pictures(self) -> torch.Tensor:
        """The pixels of `images`, (N, 3, H, W) in [-1, 1]: what `metrics` measure."""
        return as_pictures(self.images)

    def _repr_html_(self) -> str:
        shown = self.images[: SHOWN - SHOWN % self.columns or self.columns]
        named = heads(self.settings[: len(shown)], self.columns)
        costs = zip(shown, self.forwards, self.seconds, strict=False)
        cells = [f'{thumbnail(x)}<div style="{SMALL}">{counted(n, "forward")}, {s:.1f} s</div>' for x, n, s in costs]
        lines = [cells[i : i + self.columns] for i in range(0, len(cells), self.columns)]
        left = len(self.images) - len(shown)
        facts = {"of": named.title, "not shown": counted(left, "more picture") if left else ""}
        return card(repr(self), facts, picture_table(lines, named.rows, named.columns) if lines else "")

    def grid(self, **kwargs: Any) -> Any:
        """The pictures as a matplotlib figure: the variants of one prompt and seed share a row.

        Heads of rows and columns say what differs; the title says what all pictures share.

        Args:
            **kwargs: passed to `plots.image_grid`, such as `size` (inches per picture) or `columns`.
        """
        from dg_tools.plots import image_grid

        columns = kwargs.pop("columns", self.columns)
        named = heads(self.settings, columns)
        words: dict[str, Any] = {"rows": named.rows, "heads": named.columns, "title": named.title}
        words["captions"] = named.captions
        return image_grid(self.images, columns=columns, **{**words, **kwargs})


class Interrupted(KeyboardInterrupt):
    """A run stopped by the user; `kept` is the Generation of the pictures that were finished."""

    def __init__(self, kept: Generation, planned: int) -> None:
        super().__init__(f"interrupted: {len(kept.images)} of {planned} pictures are kept in this exception's .kept")
        self.kept = kept


def name_of(guidance: BaseGuidance | None) -> str:
    """A guidance in a few words: `cond`, `CFG 3`, `DG 0.5`, `CFG 3 + DG 0.5`."""
    scale = guidance_scale(guidance)
    plain = [f"CFG {scale:g}"] if scale > 1 else []
    parts = guidance.words(scale) if isinstance(guidance, Guidance) else plain
    return " + ".join(parts) or "cond"


def generate(
    dit: DiT,
    prompt: str | Sequence[str],
    *,
    seed: int | Sequence[int] = 0,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    guidance: BaseGuidance | Sequence[BaseGuidance | None] | None = None,
    edits: Edit | Sequence[Any] | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Generation:
    """Sample a picture for every combination of prompt, seed, edit and guidance.

    All variants of a prompt and seed start from the same noise.

    Args:
        dit: from `load`.
        prompt, seed: one or several.
        steps, height, width: the pipeline's defaults where None.
        guidance: None (no guidance, s = 1), `CFG(s)`, `DetailGuidance(s, w, disrupt=...)`, a `DetailKnob`, one of
            `dg.baselines`, or a list of these.
        edits: None, a `Disrupt`, or a list of variants: each None, a `Disrupt`, or a list of edits that act together.
        progress: show a bar.
        **kwargs: passed to the pipeline's call.

    Raises:
        TypeError, ValueError, IndexError: before the first forward, for settings that this model cannot take.
        RuntimeError: an edit that touched nothing.
        Interrupted: on Ctrl-C; the model is clean and the finished pictures are in `.kept`.

    Example:
        >>> off = dg.Disrupt([55], block=6)
        >>> made = dg.generate(dit, "red apple", seed=0, steps=2, edits=[None, off])
        >>> made.forwards, made.images[0].size
        ([2, 2], (64, 64))
        >>> [row["edit"] for row in made.settings]
        ['clean', 'zero channels 55 after block 6, image stream']
    """
    check_loaded(dit, "generate")
    prompts, seeds = as_list(prompt), as_list(seed)
    variants = [(group_of(e), g) for e, g in itertools.product(as_list(edits), as_list(guidance))]
    if not (prompts and seeds and variants):
        raise ValueError("an empty list of prompts, seeds, edits or guidances: nothing to generate")
    check_call(dit, prompts, kwargs, "generate", generate)
    for _, g in variants:
        guidance_scale(g)
    height, width = dit.size(height, width)
    steps = dit.default_steps if steps is None else steps
    for group, g in variants:
        check(dit, group, g, steps, height, width)
    call = {"steps": steps, "height": height, "width": width, **kwargs}
    variants = [(e, g.resolved(dit, **call) if isinstance(g, Guidance) else g) for e, g in variants]  # once
    jobs = [(p, s, e, g) for p in prompts for s in seeds for e, g in variants]
    pictures = Generation(columns=len(variants) if len(variants) > 1 else len(seeds))
    latents: list[torch.Tensor] = []
    bar = progress_bar(progress, total=len(jobs) * steps, desc=counted(len(jobs), "picture"), unit="step")

    def advance(step: int) -> None:
        bar.update()

    try:
        for p, s, group, g in jobs:
            began = time.perf_counter()
            raw, count = run(dit, p, edits=group, guidance=g, on_step=advance, seed=s, **call)
            latents.append(spatial(dit, raw, height, width))
            shown = (
                decode_frames(dit, latents[-1]) if latents[-1].ndim == 5 else [[x] for x in decode(dit, latents[-1])]
            )
            pictures.frames += shown
            pictures.images += [frames[0] for frames in shown]
            pictures.seconds.append(time.perf_counter() - began)
            pictures.forwards.append(count.forwards)
            pictures.block_calls.append(count.block_calls)
            pictures.guided.append(count.guided)
            pictures.edited.append(count.edited)
            edit = "clean" if not group else "; ".join(x.sentence() for x in group)
            settings = {"prompt": p, "seed": s, "edit": edit, "guidance": name_of(g), "steps": steps}
            pictures.settings.append({**settings, "height": height, "width": width})
    except KeyboardInterrupt:
        pictures.latents = torch.cat(latents) if latents else None
        raise Interrupted(pictures, len(jobs)) from None
    finally:
        bar.close()
    pictures.latents = torch.cat(latents)
    return pictures


def group_of(edits: Any) -> list[Edit]:
    """None, one edit, or several that act together, as a list."""
    return [edit for edit in as_list(edits) if edit is not None]
