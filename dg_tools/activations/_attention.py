"""The attention that each token receives, read per head during sampling runs, without keeping whole maps.

In a DiT with joint attention (SD3, FLUX.1), text and image tokens share one softmax, so a text token's map over the
picture is a column of the attention weights. Each product's query, key and value are read where they enter torch's
attention, and the weights are computed a second time, a few queries at a time. The mass of a key token is its mean
weight over the queries. DAAM (arXiv 2210.04885) makes maps of words in this way from cross-attention; "Attention Sinks
in Diffusion Transformers" (arXiv 2605.09313) finds sinks by this mass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from diffusers.guiders import BaseGuidance

from dg_tools._as_list import as_list
from dg_tools.activations._capture import check_request, picture_variable, prompt_list, recorded_run
from dg_tools.activations.attention_recorder import AttentionPlan, AttentionRecorder, reading_attention
from dg_tools.activations.attention_result import Attention
from dg_tools.activations.runs import combined, settings
from dg_tools.forward.attention_sites import AttentionSite, attention_sites
from dg_tools.forward.refusals import check_cache
from dg_tools.generation.sampling import check_call, guidance_scale
from dg_tools.interventions import Edit
from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded
from dg_tools.models.pictures import decode, spatial
from dg_tools.models.text_tokens import text_tokens, tokens_of_word
from dg_tools.onestep import first_call
from dg_tools.progress import progress_bar


def attention(
    dit: DiT,
    prompts: Any,
    *,
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    guidance: BaseGuidance | None = None,
    edits: Edit | Sequence[Edit] | None = None,
    rows: Literal["cond", "all"] = "cond",
    blocks: Sequence[int] | None = None,
    words: str | Sequence[str] = (),
    maps: Sequence[int] = (),
    map_steps: Sequence[int] | None = None,
    cap: int = 2**30,
    progress: bool = True,
    **kwargs: Any,
) -> Attention:
    """The attention that each token receives, by block, head and step, in one sampling run per prompt and seed.

    Args:
        dit: from `load`; a family whose record names its attention products (SD3, FLUX.1, PixArt, DiT).
        prompts, seeds, steps, height, width, guidance, rows: as in `capture`.
        edits: applied during the run.
        blocks: whose attention is read; None: of all blocks.
        words: words whose map over the picture is kept; every prompt must contain them.
        maps: blocks whose whole maps are kept, (tokens x tokens) for each head.
        map_steps: at which steps; None: all.
        cap: most bytes of everything that is kept.
        progress: show a bar.
        **kwargs: passed to the pipeline's call.

    Raises:
        MemoryError: over the cap, before the run, with the size.
        ValueError, IndexError: settings that this model cannot take, a word that a prompt does not have, a family whose
            attention is not known, before the run.
        RuntimeError: an attention backend other than torch's own, or a run that ended early.

    Example:
        >>> found = attention(dit, "red apple", steps=2, words="apple")
        >>> found.data["mass"].dims
        ('prompt', 'seed', 'branch', 'step', 'site', 'head', 'query', 'key')
        >>> found.word_map("apple").shape
        (8, 8)
    """
    check_loaded(dit, "attention")
    prompts, seeds = prompt_list(prompts), as_list(seeds)
    disruptions = [e for e in as_list(edits) if e is not None]
    check_request(prompts, seeds, guidance, rows, ())
    check_call(dit, prompts, kwargs, "attention", attention)
    check_cache(dit.transformer)
    if "num_frames" in dit.takes:
        raise ValueError("attention can be read for pictures only; this pipeline makes videos")
    scale = guidance_scale(guidance)
    height, width = dit.size(height, width)
    steps = dit.default_steps if steps is None else steps
    for disruption in disruptions:
        disruption.check(dit, steps, height, width)
    for block in blocks or ():
        dit.block(block)
    sites = attention_sites(dit.family, dit.transformer, blocks)
    words = as_list(words)
    branches = ("cond", "uncond") if rows == "all" and scale > 1 else ("cond",)
    free = {k: v for k, v in kwargs.items() if not k.startswith("callback")}
    inputs = first_call(dit, [prompts[0]], seed=0, steps=1, height=height, width=width, **free)
    image = dit.family.image_tokens(dit.transformer, inputs["hidden_states"])
    text = inputs["encoder_hidden_states"].shape[1] if "encoder_hidden_states" in inputs else 0
    tables = token_tables(dit, prompts, text, words)
    kept = whole(dit, sites, maps, map_steps, steps)
    plan = AttentionPlan(
        tuple(sites),
        branches,
        steps,
        int(sites[0].module.heads),  # type: ignore[arg-type]
        image,
        text,
        dit.grid(height, width),
        dict.fromkeys(words, ()),
        *kept,
    )
    check_cap(
        plan, f"{counted(len(prompts), 'prompt')} x {counted(len(seeds), 'seed')}", len(prompts) * len(seeds), cap
    )
    arguments = {"steps": steps, "height": height, "width": width, "guidance_scale": scale, **kwargs}
    runs = []
    jobs = list(itertools.product(range(len(prompts)), seeds))
    for p, seed in progress_bar(progress, jobs, desc="runs"):
        recorder = AttentionRecorder(dit, with_words(dit, plan, tables[p], words))

        def reads(call: Any, recorder: AttentionRecorder = recorder) -> AbstractContextManager[None]:
            return reading_attention(dit, recorder, call)

        latents = recorded_run(dit, prompts[p], disruptions, reads, {"seed": seed, **arguments})
        recorder.finish()
        pictures = decode(dit, spatial(dit, latents, height, width), output_type="np")
        runs.append(recorder.dataset().assign(picture=picture_variable(pictures)))
    data = combined(runs, prompts, seeds)
    data.attrs = settings(dit, height, width, disruptions) | {"steps": steps, "guidance_scale": scale}
    if tables[0] is not None:
        blank: dict[str, list[Any]] = {"piece": [""] * image, "pad": [False] * image}
        for name, first in blank.items():
            data[name] = (("prompt", "key"), np.array([[*first, *t[name].tolist()] for t in tables if t is not None]))
    return Attention(data)


def token_tables(dit: DiT, prompts: Sequence[Any], text: int, words: Sequence[str]) -> list[pd.DataFrame | None]:
    """The text tokens of each prompt; None where the family's record does not know them and no word is requested.

    Raises:
        ValueError: words that cannot be found: in a prompt, or in this family at all.
    """
    if not words and (not dit.family.tokenizers or not text):
        return [None] * len(prompts)
    tables = [text_tokens(dit, prompt, text) for prompt in prompts]
    for table in tables:
        for word in words:
            tokens_of_word(dit, table, word)
    return list(tables)


def with_words(dit: DiT, plan: AttentionPlan, table: pd.DataFrame | None, words: Sequence[str]) -> AttentionPlan:
    """The plan with the text tokens of each word in one prompt."""
    if table is None or not words:
        return plan
    return replace(plan, words={word: tokens_of_word(dit, table, word) for word in words})


def whole(
    dit: DiT, sites: Sequence[AttentionSite], maps: Sequence[int], at: Sequence[int] | None, steps: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The products whose maps are kept whole, as indices into the sites, and the steps.

    Raises:
        IndexError: a block or a step out of range. ValueError: a block whose attention is not read, or steps alone.
    """
    if not maps:
        if at is not None:
            raise ValueError("map_steps given without maps=: name the blocks whose maps are kept, maps=[...]")
        return (), ()
    for block in maps:
        dit.block(block)
    places = tuple(i for i, site in enumerate(sites) if site.block in set(maps))
    missing = set(maps) - {sites[i].block for i in places}
    if missing:
        raise ValueError(
            f"maps of blocks {sorted(missing)} requested, whose attention is not read: add them to blocks="
        )
    chosen = tuple(range(steps)) if at is None else tuple(sorted(set(at)))
    if not chosen or not all(0 <= step < steps for step in chosen):
        raise IndexError(f"map_steps={at} requested; there are 0 to {steps - 1}")
    return places, chosen


def check_cap(plan: AttentionPlan, runs: str, count: int, cap: int) -> None:
    """Raise MemoryError, with the sizes, where `count` runs take more than `cap` bytes."""
    sizes = {name: 4 * count * int(np.prod(shape)) for name, shape in plan.shapes.items()}
    if sum(sizes.values()) > cap:
        parts = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.items())
        raise MemoryError(
            f"attention would take {sum(sizes.values()) / 2**20:,.0f} MiB ({parts}; {runs}, "
            f"{counted(plan.steps, 'step')}, {counted(len(plan.sites), 'product')}, {counted(plan.heads, 'head')}, "
            f"{plan.image} image and {plan.text} text tokens); the cap is {cap / 2**20:,.0f} MiB: ask for fewer, "
            "with blocks= or map_steps=, or raise cap="
        )
