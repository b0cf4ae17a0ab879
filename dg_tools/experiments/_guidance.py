"""What does Detail Guidance buy: the right amount of detail, or the right detail? And is it more than hidden CFG?

Every guidance runs in one loop from the same noise (`plan`): cond, CFG, DG and DG+CFG; CFG with more steps for the same
block calls; DG's own formula with another worse twin (blurred prediction, a noised copy, matched channels), at the same
w and at the same norm per step; and DG split into its part along CFG's direction and the rest. Each is placed in the
perception-distortion plane (`plane`): near the references as a set, and near its own prompt's reference. Two numbers
are always told side by side, because one can rise while the other falls: the *amount* of detail (high-band power
against the own reference's) and its *rightness* (high-band correlation with it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from dg_tools.datasets.examples import prompt_of
from dg_tools.datasets.references import References, references
from dg_tools.experiments import searched_baselines as rivals
from dg_tools.experiments.direction_log import Pushes
from dg_tools.experiments.directions import ALWAYS, BLUR, Guidance, Window, noised_twin
from dg_tools.experiments.guidance_outcomes import MARGINS, buys, outcomes, told
from dg_tools.experiments.guidance_plan import Run, runs
from dg_tools.experiments.noised_pictures import as_pictures as references_of
from dg_tools.experiments.noised_pictures import check_truth
from dg_tools.experiments.perception_distortion import Truth, distortion, perception
from dg_tools.experiments.result import CONTROLS, Result
from dg_tools.experiments.sampling_loop import Source, sample
from dg_tools.experiments.subject import choose
from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures as decoded
from dg_tools.progress import progress_bar

QUESTION = "What does Detail Guidance buy: the right amount of detail, or the right detail? Is it hidden CFG?"


def guidance(
    dit: DiT,
    prompts: Sequence[Any],
    seeds: Sequence[int] = (0,),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    scale: float = 3.0,
    weight: float = 0.5,
    steps: int = 20,
    window: Window = (0.2, 0.8),
    scales: Sequence[float] = (0.25, 1.0),
    blocks: Sequence[int] | None = None,
    windows: Sequence[Window] = ((0.0, 0.5), (0.5, 1.0)),
    blur_sigma: float = 1.0,
    twin: torch.nn.Module | None = None,
    twin_noise: float = 0.1,
    baselines: Sequence[str] = (),
    controls: int = CONTROLS,
    like: Any = None,
    batch: int = 32,
    folder: References | None = None,
    negative_prompt: str = "",
    detect: float = 0.25,
    split_seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Every guidance from the same noise, by amount and rightness of detail, at equal compute.

    The primary outcome: does DG+CFG raise the high-band correlation with the own reference against CFG with the same
    number of block calls? Its null: the same with matched controls disrupted instead, at the norm of DG in every step.
    The defaults of s and w are ours (the paper's are not published) and not tuned; the sweep is exploratory.

    Args:
        dit: any DiT.
        prompts: `Reference`s or (prompt, picture) pairs, pictures (3, H, W) in [-1, 1] of one size; a truth is needed.
        seeds: noise seeds; every prompt with every seed.
        channels, block, detect, split_seed: as in `subject.choose`.
        scale: CFG's s, more than 1; weight: DG's w, more than 0.
        steps: of every run but those of equal compute.
        window: of the comparison in which CFG and DG act in one window only, as fractions of the steps.
        scales, blocks, windows: what the sweep varies, one at a time, under DG+CFG; blocks None: the middle one.
        blur_sigma: of the blurred prediction, in latent pixels.
        twin: auto-guidance's worse model, a transformer of the same class such as an early checkpoint; None: a copy
            with noise of `twin_noise` times the weights' standard deviation.
        baselines: rivals by name, `"PAG"`, `"SLG"`, `"SEG"`, `"blur"`, `"noised twin"`, each searched as hard as DG (in
            `rivals`); none by default, since each takes as many runs as DG's sweep and one more.
        controls: control draws of the primary outcome, at least 1; a verdict takes 19 or more.
        like: the `Massive` of `find_massive`, for a control matched in variance over tokens; None: the detection's.
        batch: pictures a forward.
        folder: where `Reference`s have their pictures (default: the embedded ones).
        negative_prompt: what the unconditional prediction is conditional on.
        **kwargs: passed to the pipeline's call.

    Returns:
        A `Result`; `table` has one row a run and picture, `tables` are `runs` (the plan with costs), `plane`, `bought`,
        `pushes` (cosines and norms by step), `spectra`, `maps`, and with baselines `search`; pictures are not kept.

    Raises:
        ValueError: prompts without pictures, empty lists, fewer than two test prompts, scales out of range.
        IndexError: channels or blocks that this model does not have.
    """
    check(prompts, seeds, scale, steps, controls, twin_noise)
    check_sweep(dit, weight, window, blur_sigma, scales, blocks or (), windows, twin)
    rivals.check(dit, baselines)
    check_truth(dit, prompts, folder)
    size = dict(zip(("height", "width"), dit.size(*picture_size(prompts, dit, folder)), strict=True))
    more = {**size, **kwargs}
    subject = choose(
        dit, prompts, seeds, channels=channels, block=block, steps=steps, detect=detect, split_seed=split_seed,
        progress=progress, **more,
    )  # fmt: skip
    off = Disrupt(subject.channels, subject.block)
    others = [len(dit.blocks) // 2] if blocks is None else list(blocks)
    others = [b for b in others if b != subject.block or blocks is not None]
    like = subject.found if like is None else like
    sources = sources_of(dit, off, others, controls, like, twin, twin_noise)
    sources |= rivals.sources_of(baselines, [*others, subject.block])
    plan = runs(
        sources, len(dit.blocks), steps=steps, scale=scale, weight=weight, window=window, blur_sigma=blur_sigma,
        controls=controls, scales=scales, others=[(f"block {b}", b) for b in others], windows=windows,
    )  # fmt: skip
    whole = next(r.guidance for r in plan if r.role == "DG" and r.guidance.scale > 1)
    plan += rivals.runs_of(baselines, subject.block, others, whole, steps, scales, windows)

    words, truth, _ = references_of(dit, list(subject.test), folder, len(subject.test), 0)
    pairs = [(w, s, i) for i, w in enumerate(words) for s in seeds]
    texts, noise = [p[0] for p in pairs], [p[1] for p in pairs]
    truths = Truth.of(dit, truth[[p[2] for p in pairs]], batch)
    call = {"negative_prompt": negative_prompt, "batch": batch, **more}
    made = measured(dit, plan, sources, texts, noise, truths, call, progress)
    gained = buys(made.table, plan)
    settings = subject.settings(
        steps=steps, scale=scale, weight=weight, window=list(window), seeds=list(seeds),
        blur_sigma=blur_sigma, baselines=list(baselines),
        twin=f"noise of {twin_noise:g} x std on every weight matrix" if twin is None else "given",
        controls=controls, margins=MARGINS, negative_prompt=negative_prompt, batch=batch, **more,
    )  # fmt: skip
    tables = {"runs": made.runs, "plane": made.plane, "bought": gained, "pushes": made.pushes}
    tables |= {"spectra": made.spectra, "maps": made.maps}
    notes = told(gained, str(subject.model["model"]))
    if baselines:
        tables["search"] = rivals.searched(made.table, made.runs, plan, whole)
        notes += rivals.told(tables["search"])
    notes.append("w, s, block and windows were fixed beforehand; the sweep is exploratory and has no verdict")
    if like is None:
        notes.append("no control matched in variance over tokens: it takes a detection, or like=")
    found = outcomes(made.table, made.pushes, plan)
    return Result("guidance", QUESTION, made.table, found, settings, tables, notes)


def check(
    prompts: Sequence[Any], seeds: Sequence[int], scale: float, steps: int, controls: int, twin_noise: float
) -> None:
    """Raise before any forward for pictures and settings that cannot be measured."""
    if not len(prompts):
        raise ValueError("an empty list of prompts: pass References or (prompt, picture) pairs, at least three")
    words = [prompt_of(p) for p in prompts]
    twice = sorted({w for w in words if words.count(w) > 1})
    if twice:
        raise ValueError(f"prompts given twice: {twice[:3]}; pass each once, with several seeds")
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)}: at least one, none twice")
    if scale <= 1:
        raise ValueError(f"scale={scale}; the usual CFG scale s must be more than 1 (1 = off), or there is no CFG")
    if steps < 2 or controls < 1:
        raise ValueError(f"steps={steps}, controls={controls}; at least 2 steps and 1 control draw")
    if twin_noise <= 0:
        raise ValueError(f"twin_noise={twin_noise}: relative to the weights' standard deviation, more than 0")


def check_sweep(
    dit: DiT,
    weight: float,
    window: Window,
    blur_sigma: float,
    scales: Sequence[float],
    blocks: Sequence[int],
    windows: Sequence[Window],
    twin: torch.nn.Module | None,
) -> None:
    """Raise for scales, windows or blocks out of range or repeated, and for a twin of another class."""
    weights = [weight, *scales]
    if min(weights) <= 0:
        raise ValueError(f"weight={weight}, scales={list(scales)}; the paper's w must be more than 0 (0 = off)")
    for what, values in (("weight and scales", weights), ("blocks", list(blocks)), ("windows", list(windows))):
        if len(set(values)) < len(values):
            raise ValueError(f"{what} {values}: one is there twice")
    for span in (window, *windows):
        Guidance("guidance", window=span, blur_sigma=blur_sigma)
    for block in blocks:
        dit.block(block)
    if twin is not None and type(twin) is not type(dit.transformer):
        raise ValueError(f"twin is a {type(twin).__name__}; another {type(dit.transformer).__name__} is needed")


def picture_size(prompts: Sequence[Any], dit: DiT, folder: References | None) -> tuple[int, int]:
    """Height and width of the references, which are all of one size."""
    if isinstance(prompts[0], tuple):
        return tuple(prompts[0][1].shape[-2:])
    side = (folder or references(dit)).size
    return side, side


def sources_of(
    dit: DiT, off: Disrupt, others: Sequence[int], controls: int, like: Any, twin: Any, noise: float
) -> dict[str, Source]:
    """The worse twins by name."""
    made: dict[str, Source] = {"d": off}
    made |= {f"control {i}": control for i, control in enumerate(off.controls(controls))}
    if like is not None:
        made["variance"] = off.controls(1, "variance", like=like)[0]
    made |= {f"block {b}": replace(off, block=b) for b in others}
    for source in made.values():
        if isinstance(source, Disrupt):
            source.check(dit)
    return {**made, "twin": noised_twin(dit.transformer, noise) if twin is None else twin}


@dataclass
class Measured:
    """Everything that the plan's runs gave, as tidy tables."""

    table: pd.DataFrame
    runs: pd.DataFrame
    plane: pd.DataFrame
    pushes: pd.DataFrame
    spectra: pd.DataFrame
    maps: pd.DataFrame


def measured(
    dit: DiT,
    plan: Sequence[Run],
    sources: Mapping[str, Source],
    prompts: list[str],
    seeds: list[int],
    truth: Truth,
    call: dict[str, Any],
    progress: bool,
) -> Measured:
    """Run the plan."""
    tables, costs, plane, pushes, spectra, maps = [], [], [], [], [], []
    watched = ["u", "d", BLUR, "twin", "control 0"]
    crossed = [("d", "u"), ("d", BLUR), ("d", "twin"), ("d", "control 0"), (BLUR, "u"), ("control 0", "u")]
    for run in progress_bar(progress, iterable=plan, desc="guidance", unit="run"):
        rule = run.guidance
        watch = None
        if run.role == "base" and rule.cfg_window == ALWAYS:
            watch = Pushes(watched, crossed, rule.blur_sigma)
        elif run.draw >= 0 or (run.role == "DG" and rule.scale > 1 and rule.window == ALWAYS):
            watch = Pushes(["u", rule.worse], [(rule.worse, "u")], fields=False)
        made = sample(dit, prompts, seeds, rule, sources=sources, steps=run.steps, observe=watch, **call)
        pictures = decoded(dit, made.latents, batch=call["batch"])
        about = {"rule": run.name, "role": run.role, "base": run.base, "draw": run.draw, "varied": run.varied}
        tables.append(pd.DataFrame({**about, "prompt": prompts, "seed": seeds, **distortion(pictures, truth)}))
        each = made.cost.block_calls / len(prompts)
        costs.append({**about, "steps": run.steps, "block_calls": each, "forwards": made.cost.forwards / len(prompts)})
        plane.append({**about, **perception(dit, pictures, truth, call["batch"])})
        if watch is not None:
            pushes.append(watch.table(prompts, seeds).assign(rule=run.name))
        if watch is not None and watch.fields:
            spectra.append(watch.spectra().assign(rule=run.name))
            maps.append(watch.maps().assign(rule=run.name))
    joint = pd.concat
    return Measured(
        joint(tables, ignore_index=True),
        pd.DataFrame(costs),
        pd.DataFrame(plane),
        joint(pushes, ignore_index=True),
        joint(spectra, ignore_index=True),
        joint(maps, ignore_index=True),
    )
