"""What does Detail Guidance buy: the right amount of detail, or the right detail? And is it more than hidden CFG?

Every guidance runs in one loop from the same noise (`guidance_plan`): cond, CFG, DG and DG+CFG; CFG with more steps for
the same block calls; a velocity gain and Detail Daemon, which cost no further pass; DG's own formula with another
degraded prediction (blurred, of a weak model, of matched channels), at the same w and at the same norm per step; and DG
split into its part along CFG's direction and the rest. Each is measured by perception (distance to the references as a
set) and distortion (distance to its own prompt's reference). Two numbers are always shown together, because one can
rise while the other falls: the *amount* of detail (high-band power against the reference's) and its *rightness*
(high-band correlation with the reference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dg_tools.datasets.examples import examples, pictures_of, prompts_of
from dg_tools.datasets.references import References
from dg_tools.experiments import guidance_alone, prompts_alone, searched_baselines
from dg_tools.experiments.directions import WEAK, GuidanceRule, Window, noised_copy
from dg_tools.experiments.guidance_alone import AgainstPlain
from dg_tools.experiments.guidance_outcomes import MARGINS, compare, outcomes, sentences
from dg_tools.experiments.guidance_plan import runs
from dg_tools.experiments.guidance_runs import measure
from dg_tools.experiments.perception_distortion import Truth
from dg_tools.experiments.result import CONTROLS, Result
from dg_tools.experiments.sampling_step import Source
from dg_tools.experiments.semantics import Score, semantic_scores
from dg_tools.experiments.subject import choose
from dg_tools.guidance.auto import default_profile
from dg_tools.guidance.baselines.registry import beside
from dg_tools.interventions import Disrupt
from dg_tools.kinds import kind_of
from dg_tools.massive import Massive
from dg_tools.metrics.cell_bands import bands_note, check_size
from dg_tools.models.dit import DiT

WEIGHT = 0.5  # w where neither the caller nor a profile says it
QUESTION = "What does Detail Guidance buy: the right amount of detail, or the right detail? Is it hidden CFG?"


def guidance(
    dit: DiT,
    prompts: Sequence[Any],
    seeds: Sequence[int] = (0,),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    scale: float = 3.0,
    weight: float | None = None,
    steps: int = 20,
    window: Window = (0.2, 0.8),
    scales: Sequence[float] | None = None,
    blocks: Sequence[int] | None = None,
    windows: Sequence[Window] = ((0.0, 0.5), (0.5, 1.0)),
    blur_sigma: float = 1.0,
    weak_model: torch.nn.Module | None = None,
    noise: float = 0.1,
    baselines: Sequence[str] = (),
    controls: int = CONTROLS,
    like: Massive | None = None,
    batch: int = 32,
    folder: References | None = None,
    scores: Mapping[str, Score] | None = None,
    negative_prompt: str = "",
    detect: float = 0.25,
    split_seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Compare guidances from the same noise, by amount and rightness of detail, at equal compute.

    The primary outcome: does DG+CFG raise the high-band correlation with the reference, against CFG with the same
    number of block calls? Its null distribution disrupts matched controls, at the norm of DG in every step. If prompts
    have no pictures, the outcome is the change of detail at equal contrast. DG steers away from the weak model of the
    profile, at the profile's w. If channels or a block are given, or there is no profile, the channels are zeroed, as
    in the paper, and w is 0.5. The default of s is ours (the paper's is not published) and not tuned; the sweep is
    exploratory.

    Args:
        dit: any DiT.
        prompts: `Reference`s, (prompt, picture) pairs or `Example`s; or strings: then each run is compared with the
            plain sample from the same noise, in amount of detail and in meaning (`guidance_alone`).
        seeds: noise seeds; every prompt with every seed.
        channels, block, detect, split_seed: as in `subject.choose`.
        scale: CFG's s, more than 1; weight: DG's w, more than 0; None: the profile's, or 0.5.
        steps: of every run but those of equal compute.
        window: of the comparison in which CFG and DG act in one window only, as fractions of the steps.
        scales, blocks, windows: what the sweep varies, one at a time, under DG+CFG; scales None: half and
            twice `weight`; blocks None: the middle one.
        blur_sigma: of the blurred prediction, in latent pixels.
        weak_model: auto-guidance's weak model, a transformer of the same class such as an early checkpoint; None: a
            copy of this one with noise on its weights.
        noise: of that copy, as a share of each weight matrix's standard deviation.
        baselines: `"PAG"`, `"SLG"`, `"SEG"`, `"blur"`, `"noised twin"` (the weak model), each searched as hard as DG
            (`searched_baselines`); none by default: each takes as many runs as DG's sweep, plus one. `Gain` and
            `DetailDaemon` are always run beside DG, at the same w.
        controls: control draws of the primary outcome, at least 1; a verdict takes 19 or more.
        like: the `Massive` from `find_massive`, for a control matched in variance over tokens; None: from the
            detection.
        batch: pictures in one forward.
        folder: where `Reference`s have their pictures (default: the embedded ones).
        scores: for strings, further scores by name, none of which may fall by more than its margin; None:
            `semantics.semantic_scores`, CLIP and DINO if their weights are on this machine.
        negative_prompt: what the unconditional prediction is conditional on.
        **kwargs: passed to the pipeline's call.

    Returns:
        A `Result`; `table` has one row per run and picture. `tables` are `runs` (the plan with costs), `plane`
        (perception), `bought` (amount and rightness), `pushes` (cosines and norms by step), `spectra`, `maps`, and with
        baselines `search`; pictures are not kept.

    Raises:
        ValueError: pictures for some prompts only, baselines without pictures, empty lists, fewer than two test
            prompts, scales out of range.
        IndexError: channels or blocks that this model does not have.
    """
    check(prompts_of(prompts), seeds, scale, steps, controls, noise)
    own = default_profile(dit) if channels is None and block is None else None
    weight = float((own or {}).get("detail_guidance_scale", WEIGHT)) if weight is None else weight
    scales = (weight / 2, weight * 2) if scales is None else scales
    check_sweep(dit, weight, window, blur_sigma, scales, blocks or (), windows, weak_model)
    searched_baselines.check(dit, baselines)
    items = examples(dit, prompts, folder)
    alone = items[0].picture is None
    if alone and baselines:
        raise ValueError(
            f"baselines={list(baselines)} are searched by the rightness of detail, which needs pictures: pass "
            "(prompt, picture) pairs, or leave baselines out"
        )
    size = (kwargs.get("height"), kwargs.get("width")) if alone else pictures_of(items).shape[-2:]
    height, width = dit.size(*size)
    check_size(height, width, dit.vae_scale_factor)
    more = {"height": height, "width": width, **kwargs}
    subject = choose(
        dit,
        items,
        seeds,
        channels=channels,
        block=block,
        steps=steps,
        detect=detect,
        split_seed=split_seed,
        progress=progress,
        **more,
    )
    off = subject.disruption
    others = [len(dit.blocks) // 2] if blocks is None else list(blocks)
    others = [b for b in others if b != subject.block or blocks is not None]
    like = subject.massive if like is None else like
    sources = sources_of(dit, off, others, controls, like, weak_model, noise)
    sources |= searched_baselines.sources_of(baselines, [*others, subject.block])
    one_pass, left_out = beside(dit, scale, weight, steps)
    plan = runs(
        sources,
        len(dit.blocks),
        steps=steps,
        scale=scale,
        weight=weight,
        window=window,
        blur_sigma=blur_sigma,
        controls=controls,
        scales=scales,
        others=[(f"block {b}", b) for b in others],
        windows=windows,
        one_pass=one_pass,
    )
    whole = next(r.guidance for r in plan if r.role == "DG" and r.guidance.scale > 1)
    plan += searched_baselines.runs_of(baselines, subject.block, others, whole, steps, scales, windows)

    jobs = [(example, seed) for example in subject.test for seed in seeds]
    words, noise_seeds = [example.prompt for example, _ in jobs], [seed for _, seed in jobs]
    truth: Truth | AgainstPlain
    if alone:
        scores = semantic_scores(words) if scores is None else scores
        truth = AgainstPlain(dit.vae_scale_factor, words, scores)
    else:
        truth = Truth.of(dit, pictures_of([example for example, _ in jobs]), batch)
    call = {"negative_prompt": negative_prompt, "batch": batch, **more}
    data = measure(dit, plan, sources, words, noise_seeds, truth, call, progress)
    settings = subject.settings(
        disruption=off.to_json(),
        steps=steps,
        scale=scale,
        weight=weight,
        window=list(window),
        seeds=list(seeds),
        blur_sigma=blur_sigma,
        baselines=list(baselines),
        twin=f"noise of {noise:g} x std on every weight matrix" if weak_model is None else "given",
        controls=controls,
        margins={name: score.margin for name, score in (scores or {}).items()} if alone else MARGINS,
        negative_prompt=negative_prompt,
        batch=batch,
        **more,
    )
    tables = {"runs": data.runs, "pushes": data.directions, "spectra": data.spectra, "maps": data.maps}
    model, cell = str(subject.model["model"]), dit.vae_scale_factor
    if alone:
        tables["bought"] = guidance_alone.compare(data.table, plan)
        notes = [prompts_alone.note(cell), *guidance_alone.sentences(tables["bought"], model)]
        effects = guidance_alone.outcomes(data.table, data.directions, plan, settings["margins"])
    else:
        tables |= {"plane": data.perception, "bought": compare(data.table, plan)}
        notes = sentences(tables["bought"], model)
        effects = outcomes(data.table, data.directions, plan)
    if baselines:
        tables["search"] = searched_baselines.search_table(data.table, data.runs, plan, whole)
        notes += searched_baselines.sentences(tables["search"])
    notes += left_out if alone else [*left_out, bands_note(cell)]
    notes.append("w, s, block and windows were fixed beforehand; the sweep is exploratory and has no verdict")
    if like is None:
        notes.append("no control matched in variance over tokens: it takes a detection, or like=")
    said = prompts_alone.verdict(effects, "plain") if alone else ""
    question = guidance_alone.QUESTION if alone else QUESTION
    return Result("guidance", question, data.table, effects, settings, tables, notes, said)


def check(prompts: Sequence[str], seeds: Sequence[int], scale: float, steps: int, controls: int, noise: float) -> None:
    """Raise before any forward for pictures and settings that cannot be measured."""
    if not len(prompts):
        raise ValueError(
            "an empty list of prompts: pass strings, References or (prompt, picture) pairs, at least three"
        )
    twice = sorted({p for p in prompts if prompts.count(p) > 1})
    if twice:
        raise ValueError(f"prompts given twice: {twice[:3]}; pass each once, with several seeds")
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)}; pass at least one, and each once")
    if scale <= 1:
        raise ValueError(f"scale={scale}; the usual CFG scale s must be more than 1 (1 = off), or there is no CFG")
    if steps < 2 or controls < 1:
        raise ValueError(f"steps={steps}, controls={controls}; at least 2 steps and 1 control draw")
    if noise <= 0:
        raise ValueError(f"noise={noise}; it is relative to the weights' standard deviation, and must be more than 0")


def check_sweep(
    dit: DiT,
    weight: float,
    window: Window,
    blur_sigma: float,
    scales: Sequence[float],
    blocks: Sequence[int],
    windows: Sequence[Window],
    weak_model: torch.nn.Module | None,
) -> None:
    """Raise for scales, windows or blocks out of range or repeated, and for a weak model of another class."""
    weights = [weight, *scales]
    if min(weights) <= 0:
        raise ValueError(f"weight={weight}, scales={list(scales)}; the paper's w must be more than 0 (0 = off)")
    for what, values in (("weight and scales", weights), ("blocks", list(blocks)), ("windows", list(windows))):
        if len(set(values)) < len(values):
            raise ValueError(f"{what} {values}: pass each once")
    for span in (window, *windows):
        GuidanceRule("guidance", window=span, blur_sigma=blur_sigma)
    for block in blocks:
        dit.block(block)
    if weak_model is not None and type(weak_model) is not type(dit.transformer):
        raise ValueError(f"weak_model is {kind_of(weak_model)}; another {type(dit.transformer).__name__} is needed")


def sources_of(
    dit: DiT,
    off: Disrupt,
    others: Sequence[int],
    controls: int,
    like: Massive | None,
    weak_model: torch.nn.Module | None,
    noise: float,
) -> dict[str, Source]:
    """The degraded predictions by name."""
    disrupted = {"d": off}
    disrupted |= {f"control {i}": control for i, control in enumerate(off.controls(controls))}
    if like is not None:
        disrupted["variance"] = off.controls(1, "variance", like=like)[0]
    disrupted |= {f"block {b}": replace(off, block=b) for b in others}
    for edit in disrupted.values():
        edit.check(dit)
    return {**disrupted, WEAK: noised_copy(dit.transformer, noise) if weak_model is None else weak_model}
