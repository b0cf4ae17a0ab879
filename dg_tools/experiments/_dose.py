"""How much detail at which dose of the massive channels? The channels multiplied by rho, one step and whole samples.

rho = 1 is the model as it is and 0 the paper's disruption; above 1 the channels are amplified. Detail is measured at
equal contrast (`metrics.amount_change`), in bands per latent cell, without the mean. At one block it is compared with:
each channel alone; the same dose with the LayerNorm statistics of the clean pass; the clean velocity multiplied by the
edit's gain; and the largest and random other channels, scaled until they move the velocity as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch

from dg_tools.activations import capture
from dg_tools.datasets.examples import Example, Items, examples, with_pictures
from dg_tools.datasets.references import References
from dg_tools.experiments._detail import thumbnails
from dg_tools.experiments.channel_sets import check_controls
from dg_tools.experiments.dose_outcomes import assemble, strongest
from dg_tools.experiments.dose_parts import Parts, journal_of
from dg_tools.experiments.dose_runs import Doses, at_block, by_block, one_step_pictures, others_at, sample_rows
from dg_tools.experiments.dose_step import channel_table
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.result import Result
from dg_tools.experiments.samples import Samples
from dg_tools.experiments.semantics import Score, semantic_scores
from dg_tools.experiments.subject import check_channels
from dg_tools.generation.sampling import check_names
from dg_tools.guidance.auto import default_profile
from dg_tools.kinds import counted
from dg_tools.massive import find_massive
from dg_tools.metrics.cell_bands import check_size
from dg_tools.models.dit import DiT
from dg_tools.models.journal import Journal
from dg_tools.models.loaded import check_loaded
from dg_tools.models.provenance import provenance
from dg_tools.numbers import integer, integers, is_several, number
from dg_tools.onestep import check_velocity
from dg_tools.progress import progress_bar
from dg_tools.threads import one_thread_if_small

RHOS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
SIGMAS = (0.3, 0.5, 0.7)
DRAWS = 39  # of random channels: one odd draw may then be more extreme
MOST_BLOCKS = 6  # measured by default; of a deeper model, as many spread evenly
SEEDS = 4  # of one prompt, by default


def dose(
    dit: DiT,
    prompts: Items,
    seeds: Sequence[int] | None = None,
    *,
    channels: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    rhos: Sequence[float] = RHOS,
    sigmas: Sequence[float] = SIGMAS,
    block: int | None = None,
    controls: int = DRAWS,
    scales: Sequence[float] | None = None,
    sampled: Sequence[int] | None = None,
    steps: int = 10,
    batch: int = 16,
    folder: References | None = None,
    scores: Mapping[str, Score] | None = None,
    cache: bool = True,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Multiply the massive channels by rho: how much detail is there at each dose, and does the picture stay?

    First, one denoising step on pictures under noise: every rho at every block and noise level, and at one block the
    controls. Then samples at every rho, without and with CFG. The primary outcome is detail at a rho above 1 minus
    detail at the smallest rho.

    Args:
        dit: any DiT that predicts a velocity.
        prompts: one or several: strings (then the model's own clean samples are noised, and are the reference), or
            `Reference`s, (prompt, picture) pairs or `Example`s.
        seeds: of the noise; None: four for one prompt, one for several.
        channels: massive channels; None: the profile's, else those detected on these prompts.
        blocks: measured in one step; None: all, or 6 spread evenly.
        rhos: doses, 1 (the model as it is) and at least one on each side of it.
        sigmas: noise levels, between 0 and 1.
        block: of the controls; None: the strongest, see `dose_outcomes.strongest`.
        controls: draws of random channels, at the smallest rho and at the one above 1 that is nearest to 1.5.
        scales: CFG scales of the samples (1: off); None: 1 and 3 where the pipeline has CFG; () for no samples.
        sampled: blocks of the samples; None: the block of the controls.
        steps: of a sample.
        batch: pictures in one forward.
        folder: where `Reference`s have their pictures (default: the embedded model's).
        scores: for strings, scores by name that show whether samples keep their meaning; None:
            `semantics.semantic_scores`, CLIP and DINO if their weights are on this machine, else the low band.
        cache: keep finished parts in the user's cache folder until all is done, so that after an interruption the same
            call goes on from there.
        **kwargs: passed to the pipeline's call.

    Returns:
        `table`: one row per picture and run: kind (step, sample), who (massive, `55 alone`, norms kept, gain alone,
        largest others, control 0 ...), block, rho, sigma or scale, prompt, seed; amount (amt_c, doublings), low
        correlation (with the clean picture), contrast, power, coherence and error by band (named in cycles per latent
        cell), gain of v, change (||v - v_d|| / ||v||), margin of retrieval (samples with pictures). `tables`: channels
        (massive where, share of the energy), matching (how controls were scaled), pictures. `words`: the verdict.

    Raises:
        TypeError: a wrong type for the DiT, the prompts or a number.
        ValueError: no prompts, blocks or seeds, a seed twice, one picture, doses without 1 or on one side of it, a
            sigma outside 0..1, fewer than 2 controls, scales below 1.
        IndexError: channels or a block that this model does not have.

    Example:
        One step only, at one block, with two controls (a verdict needs more):

        >>> two = dg.references(dit).sample(2)
        >>> small = {"channels": [55], "blocks": [6], "rhos": (0.0, 1.0, 1.5), "sigmas": (0.5,), "controls": 2}
        >>> result = dg.dose(dit, two, scales=(), cache=False, **small)
        >>> result.table["rho"].unique().tolist()
        [0.0, 1.0, 1.5]
    """
    check_loaded(dit, "dose")
    check_names(dit, kwargs, "dose", dose)
    doses = check(rhos, sigmas, controls, scales)
    check_velocity(dit)
    items = examples(dit, prompts, folder)
    seeds = list(range(SEEDS if len(items) == 1 else 1)) if seeds is None else list(integers(seeds, "seeds"))
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={seeds}; distinct seeds are needed: a picture that is there twice adds nothing")
    if integer(batch, "batch") < 1:
        raise ValueError(f"batch={batch}; at least one picture in a forward is needed")
    if len(items) * len(seeds) < 2:
        raise ValueError(f"{len(items)} prompt(s) and {len(seeds)} seed(s): an interval needs at least two pictures")
    blocks = spread(len(dit.blocks), MOST_BLOCKS) if blocks is None else list(integers(blocks, "blocks"))
    if not blocks:
        raise ValueError("blocks is empty: name at least one, or pass None for all of them")
    sampled = None if sampled is None else list(integers(sampled, "sampled"))
    for index in (*blocks, *(sampled or ()), *([block] if block is not None else [])):
        dit.block(index)
    if block is not None and block not in blocks:
        raise ValueError(f"block={block} is not among blocks={list(blocks)}, which are measured")
    if scales is None:
        scales = (1.0, 3.0) if dit.has_cfg else (1.0,)
    if channels is not None:
        channels = integers(channels, "channels")
        check_channels(dit, channels)
    known = [int(c) for c in ((default_profile(dit) or {}).get("channels") or () if channels is None else channels)]
    if known:
        check_controls(dit, known, controls)
    samples = Samples(dit, items, seeds, steps=steps, batch=batch, scores=scores, **kwargs)
    if samples.truth is None:
        check_size(samples.height, samples.width, dit.vae_scale_factor)
        if scores is None:
            samples.scores = semantic_scores(samples.prompts)
    settings: dict[str, Any] = {
        "channels": known, "blocks": [int(b) for b in blocks], "block": block, "rhos": list(doses.rhos),
        "below": doses.below, "above": doses.above, "sigmas": [float(s) for s in sigmas],
        "scales": [float(s) for s in scales], "sampled": [int(b) for b in sampled or ()],
        "controls": controls, "provenance": provenance(dit),
    }  # fmt: skip
    if samples.scores:
        settings["margins"] = {name: score.margin for name, score in samples.scores.items()}
    journal = journal_of(samples, settings, cache)
    how = "given" if channels is not None else "the profile's"
    try:
        if not known:
            if "channels" not in journal:
                journal["channels"] = detected(samples, progress)
            known, how = journal["channels"]
            check_controls(dit, known, controls)
        with one_thread_if_small(dit.transformer):
            found = measured(samples, items, seeds, known, settings, doses, journal, progress, **kwargs)
    except KeyboardInterrupt:
        journal.interrupted()
        raise
    journal.close()
    at = found.block
    settings |= {
        "channels": known, "how": how, "block": at, "sampled": list(sampled or [at]), "steps": steps,
        "seeds": seeds, "test": [x.prompt for x in items], "truth": samples.truth is not None,
        "cell": dit.vae_scale_factor,
    }  # fmt: skip
    return assemble(found.table, found.where, found.matching, thumbnails(found.shown), settings)


class Measured(NamedTuple):
    """What was measured: all rows, the channels' shares, how controls were scaled, pictures, the controls' block."""

    table: pd.DataFrame
    where: pd.DataFrame
    matching: pd.DataFrame
    shown: dict[str, torch.Tensor]
    block: int


def measured(
    samples: Samples, items: list[Example], seeds: list[int], channels: list[int], settings: dict[str, Any],
    doses: Doses, journal: Journal, progress: bool, **kwargs: Any,
) -> Measured:  # fmt: skip
    """Everything of the curve that the journal does not have."""
    dit, batch, scales, sigmas = samples.dit, samples.batch, settings["scales"], settings["sigmas"]
    blocks, sampled, controls = settings["blocks"], settings["sampled"], settings["controls"]
    noised_pictures = -(-len(samples) // batch)
    runs = len(sigmas) * noised_pictures * ((len(blocks) + len(channels) + 3) * (len(doses.rhos) - 1) + 2 * controls)
    runs += len(scales) * (len(sampled or [0]) * len(doses.rhos) + len(doses.rhos) - 1)
    bar = progress_bar(progress, total=runs, desc="dose")
    parts = Parts(journal, bar.update)
    try:
        clean = None
        if samples.truth is None or 1.0 in scales:
            clean = parts.pictures("clean samples at s 1.0", samples.draw)
        if samples.truth is None:
            assert clean is not None
            own = with_pictures(samples.prompts, clean)
            noised = NoisedPictures(dit, own, [0], batch=batch, **kwargs)
        else:
            noised = NoisedPictures(dit, items, seeds, batch=batch, **kwargs)
        where = channel_table(noised, channels, sigmas)
        tables = [by_block(noised, samples, channels, blocks, doses, sigmas, parts)]
        at = strongest(tables[0], doses.below, doses.above) if settings["block"] is None else settings["block"]
        beside, matching = at_block(noised, samples, channels, at, where, doses, sigmas, controls, parts)
        tables.append(beside)
        others = others_at(where, at)
        shown: dict[str, torch.Tensor] = {}
        for scale in scales:
            base = clean if scale == 1 else None
            if base is None:
                base = parts.pictures(f"clean samples at s {scale}", partial(samples.draw, scale=scale))
            for index in sampled or [at]:
                drawn, rows = sample_rows(samples, channels, others, index, at, matching, doses, scale, base, parts)
                tables.append(rows)
                if index == (sampled or [at])[0]:
                    shown |= {f"rho {rho:g}, s {scale:g}": picture for rho, picture in drawn.items()}
    finally:
        bar.close()
    if not shown:
        shown = one_step_pictures(noised, channels, at, doses, sigmas)
    return Measured(pd.concat(tables, ignore_index=True), where, matching, shown, at)


def check(rhos: Sequence[float], sigmas: Sequence[float], controls: int, scales: Sequence[float] | None) -> Doses:
    """The doses, in order.

    Raises:
        TypeError: a value that is not several numbers.
        ValueError: settings out of range.
    """
    for name, values in {"rhos": rhos, "sigmas": sigmas, "scales": () if scales is None else scales}.items():
        if not is_several(values):
            raise TypeError(f"{name}={values!r}; several numbers are needed, such as (0.5, 1, 1.5)")
        for one in values:
            number(one, name)
    ordered = tuple(sorted({float(r) for r in rhos}))
    if 1.0 not in ordered or ordered[0] == 1 or ordered[-1] == 1:
        raise ValueError(f"rhos={list(rhos)}; 1 (the model as it is) and at least one value on each side are needed")
    if not sigmas or not all(0 < s < 1 for s in sigmas) or len(set(sigmas)) != len(sigmas):
        raise ValueError(f"sigmas={list(sigmas)}; distinct values between 0 and 1 are needed")
    if controls < 2:
        raise ValueError(f"controls={controls}; at least 2 are needed, and 39 for a verdict that allows one odd draw")
    if scales is not None and (any(s < 1 for s in scales) or len(set(scales)) != len(scales)):
        raise ValueError(f"scales={list(scales)}; distinct CFG scales of at least 1 (1: off) are needed")
    return Doses(ordered, ordered[0], min((r for r in ordered if r > 1), key=lambda r: abs(r - 1.5)))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` blocks, spread evenly, first and last among them."""
    most = min(count, most)
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


def detected(samples: Samples, progress: bool) -> tuple[list[int], str]:
    """The channels that are massive on the prompts; and which, in words.

    Raises:
        ValueError: none is massive.
    """
    names = list(dict.fromkeys(samples.prompts))
    acts = capture(
        samples.dit, names, seeds=samples.seeds[:1], steps=samples.steps, progress=progress, **samples.kwargs
    )
    massive = find_massive(acts)
    if not massive.channels:
        raise ValueError(f"no massive channel on {counted(len(names), 'prompt')} ({massive.rule}): pass channels=")
    return massive.channels, f"detected on the same {counted(len(names), 'prompt')} ({massive.rule})"
