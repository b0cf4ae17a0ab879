"""Does a sample lose its detail, and keep its meaning, when the massive channels are off?

Whole sampling runs from the same noise: clean, with the massive channels zeroed, and with controls that move the
prediction by as much at the same z_t. Detail is measured as power that is coherent with a reference, with the
incoherent rest, noise and contrast-normalised forms beside it, because energy alone counts speckle. For prompts without
pictures it is the signed change from the clean sample, by band and at equal contrast. "Keeps its meaning" is a claim of
equivalence: the difference is within a margin that is set here, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from dg_tools.datasets.examples import Items, examples, with_pictures
from dg_tools.datasets.references import References
from dg_tools.experiments import prompts_alone
from dg_tools.experiments.detail_measures import Measure, measures_of
from dg_tools.experiments.error_matching import TOLERANCE, matched_controls
from dg_tools.experiments.local_detail import local_losses, local_outcomes
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.result import CONTROLS, Outcome, Result
from dg_tools.experiments.samples import Samples
from dg_tools.experiments.semantics import Score, semantic_scores
from dg_tools.experiments.subject import Subject, choose
from dg_tools.interventions import Control
from dg_tools.metrics.cell_bands import bands_note, check_size
from dg_tools.models.dit import DiT
from dg_tools.progress import progress_bar

LAYOUT = 0.9  # correlation with the clean sample's low band above which the layout is the same
MATCHED_AT = (0.3, 0.6, 0.9)  # sigmas at which controls are matched; between them their strength is interpolated
THUMBNAIL = 96  # largest side of the pictures that a result keeps


def detail(
    dit: DiT,
    prompts: Items,
    seeds: Sequence[int] = (0,),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    steps: int = 20,
    scales: Sequence[float] = (3.0, 1.0),
    controls: int = CONTROLS,
    kind: Control = "shift",
    local: bool = True,
    batch: int = 16,
    folder: References | None = None,
    scores: Mapping[str, Score] | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Sample with the massive channels zeroed, beside the clean run and beside matched controls.

    The primary outcome is the change of the high-band power that is coherent with the reference, at the first of
    `scales`. For prompts without pictures it is the change of detail at equal contrast from the clean sample
    (`metrics.amount_change`), and the verdict names the scores behind its sentence on semantics. Cost: (2 + controls +
    2 if local) sampling runs of all test prompts and seeds for the first scale, (2 + controls) for each other; rows
    double under CFG.

    Args:
        dit: any DiT.
        prompts: `Reference`s, (prompt, picture) pairs or `Example`s, which give each sample its truth; or strings: then
            each sample is compared with the clean one, in bands per latent cell.
        seeds: of the noise; each prompt is sampled from each.
        channels, block: what to zero and where; None: those of the default profile, else as `subject.choose` finds
            them, on a part of the prompts. For doses other than zero see `experiments.dose`.
        steps: of each run.
        scales: CFG scales s (1: off), distinct; the verdict is at the first.
        controls: draws, scaled to the edit's mean ||v - v_clean|| on the clean samples, noised to three sigmas.
        kind: of `Disrupt.controls`: one that has a strength, `shift` or `shift_direction`.
        local: also zero the channels on the tokens of one half, and of the other.
        batch: pictures per sampling run.
        folder: where `Reference`s have their pictures (default: the embedded model's).
        scores: further scores by name, with the margin within which a change counts as none:
            `{"clip": Score(metrics.learned.ClipScore(), 1.0)}`, for real models. None: where prompts stand alone,
            `semantics.semantic_scores`: CLIP and DINO, if their weights are on this machine; else no others.
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError: no prompts or seeds, prompts of several kinds, scales below 1 or repeated, fewer than 2 controls.
    """
    if not scales or min(scales) < 1 or len(set(scales)) != len(scales):
        raise ValueError(f"scales={list(scales)}; distinct CFG scales of at least 1 (1: off) are needed")
    if controls < 2 or kind not in ("shift", "shift_direction"):
        raise ValueError(f"controls={controls} of kind {kind!r}; at least 2, of kind 'shift' or 'shift_direction'")
    if prompts and seeds:  # what is wrong with them shows before the detection run
        prompts = examples(dit, prompts, folder)
        whole = Samples(dit, prompts, list(seeds), steps=steps, batch=batch, **kwargs)
        kwargs = whole.kwargs
        check_size(whole.height, whole.width, dit.vae_scale_factor)
    subject = choose(dit, prompts, seeds, channels=channels, block=block, steps=steps, progress=progress, **kwargs)
    samples = Samples(dit, subject.test, list(seeds), steps=steps, batch=batch, scores=scores, **kwargs)
    if samples.truth is None and scores is None:
        samples.scores = semantic_scores(samples.prompts)
    off = subject.zeroed
    off.check(dit, None, samples.height, samples.width)

    total = len(scales) * (2 + controls) + len(MATCHED_AT) * controls + 2 * local
    bar = progress_bar(progress, total=total, desc="detail")
    clean = samples.draw(scale=scales[0])
    bar.update()
    first = with_pictures(samples.prompts[:batch], clean[:batch])
    noised = NoisedPictures(dit, first, [0], batch=batch, **kwargs)
    matched = matched_controls(noised, off, off.controls(controls, kind), MATCHED_AT, match="output", tick=bar.update)
    edits = {"zero": off, **{f"control {i}": e for i, e in enumerate(matched.edits)}}
    tables, shown = [], {"clean": clean[0]}
    for scale in scales:
        if scale != scales[0]:
            clean = samples.draw(scale=scale)
            bar.update()
        tables.append(samples.measure(clean, clean, variant="clean", role="clean", scale=scale))
        for variant, edit in edits.items():
            pictures = samples.draw([edit], scale)
            role = "edit" if variant == "zero" else "control"
            tables.append(samples.measure(pictures, clean, variant=variant, role=role, scale=scale))
            if scale == scales[0] and variant in ("zero", "control 0"):
                shown[variant] = pictures[0]
            bar.update()
        if scale == scales[0] and local:
            losses, halved = local_losses(samples, off, clean, scale, bar.update)
            shown |= {f"zero, {half} half": pictures[0] for half, pictures in halved.items()}
    bar.close()
    return assemble(
        subject,
        pd.concat(tables, ignore_index=True),
        matched.table,
        losses if local else None,
        shown,
        truth=samples.truth is not None,
        scores=samples.scores,
        scales=list(scales),
        seeds=list(seeds),
        steps=steps,
        kind=kind,
        cell=dit.vae_scale_factor,
    )


def assemble(
    subject: Subject,
    table: pd.DataFrame,
    search: pd.DataFrame,
    losses: pd.DataFrame | None,
    shown: dict[str, torch.Tensor],
    *,
    truth: bool,
    scores: Mapping[str, Score],
    **settings: Any,
) -> Result:
    """The result from what was measured."""
    controls, notes = equal_controls(search)
    if not truth:
        notes.insert(0, prompts_alone.note(settings["cell"]))
    outcomes: list[Outcome] = []
    primary = "high_coherent" if truth else "amount"
    measures = measures_of(list(table.columns), {name: score.margin for name, score in scores.items()}, truth)
    for scale in settings["scales"]:
        part, first = table[table["scale"] == scale], scale == settings["scales"][0]
        for measure in measures:
            name = measure.column + ("" if first else f"_s{scale:g}")
            effect = outcome(part, measure, name, controls, primary=first and measure.column == primary, scale=scale)
            if effect:
                outcomes.append(effect)
            else:
                notes.append(f"{name}: not defined on these pictures")
        if truth:
            outcomes.append(layout(part, controls, "layout" + ("" if first else f"_s{scale:g}"), scale))
    if truth:
        notes.append(bands_note(settings["cell"]))
    tables = {"search": search, "pictures": thumbnails(shown)}
    if losses is not None:
        outcomes += local_outcomes(losses)
        tables["local"] = losses
    question = "Do samples lose detail, and keep their meaning, when the massive channels are off?"
    settings |= {"margins": {name: score.margin for name, score in scores.items()}}
    words = "" if truth else prompts_alone.verdict(outcomes, "clean")
    return Result("detail", question, table, outcomes, subject.settings(**settings), tables, notes, words)


def equal_controls(search: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The controls that move the prediction as much as the edit does, and notes on the others."""
    notes = []
    off = (search["searched"] - 1).abs().groupby(search["control"]).mean()
    controls = [f"control {i}" for i in off.index[off <= TOLERANCE]]
    if len(controls) < len(off):
        notes.append(
            f"{len(off) - len(controls)} of {len(off)} controls do not reach the edit's ||v - v_clean|| within "
            f"{TOLERANCE:.0%} and are not in the null distribution"
        )
    if not controls:
        controls = [f"control {off.idxmin()}"]
        notes.append("the nearest of them stands in, so that the figure can be read; it allows no verdict")
    return controls, notes


def outcome(
    table: pd.DataFrame, measure: Measure, name: str, controls: Sequence[str], *, primary: bool, scale: float
) -> Outcome | None:
    """One measure at one scale; None where it is not defined on at least two prompts."""
    wide = table.pivot_table(measure.column, ["prompt", "seed"], "variant", sort=False)
    if "clean" not in wide or wide["clean"].dropna().index.unique("prompt").size < 2:
        return None
    wide = wide.dropna(subset=["clean", "zero"])
    size = wide["clean"].mean() if measure.relative else 1.0
    change = wide.sub(wide["clean"], axis=0) / size
    unit = f"of the clean samples' {measure.column}" if measure.relative else f"{measure.column}, change"
    return Outcome.from_values(
        name,
        f"{measure.claim} (s = {scale:g})",
        change["zero"],
        change.index.get_level_values("prompt"),
        null=[change[c].mean() for c in controls],
        unit=measure.unit or unit,
        direction=measure.direction,
        margin=measure.margin,
        control="shifts of as many other channels, scaled to the same ||v - v_clean||",
        primary=primary,
    )


def layout(table: pd.DataFrame, controls: Sequence[str], name: str, scale: float) -> Outcome:
    """Correlation of the low band with the clean sample's."""
    wide = table.pivot_table("low_correlation_clean", ["prompt", "seed"], "variant", sort=False)
    return Outcome.from_values(
        name,
        f"colours and layout are the clean sample's (s = {scale:g})",
        wide["zero"],
        wide.index.get_level_values("prompt"),
        unit="correlation of the low band with the clean sample's",
        direction="above",
        margin=LAYOUT,
        control=f"none: the matched controls' median is {np.median([wide[c].mean() for c in controls]):.3f}",
    )


def thumbnails(pictures: dict[str, torch.Tensor]) -> pd.DataFrame:
    """The first item's pictures, for the figure: variant, y, x, r, g, b in 0..1."""
    tables = []
    for variant, picture in pictures.items():
        factor = max(1, -(-max(picture.shape[-2:]) // THUMBNAIL))
        reduced = F.avg_pool2d(picture[None], factor)[0].clamp(-1, 1) / 2 + 0.5
        y, x = np.indices(reduced.shape[-2:]).reshape(2, -1)
        r, g, b = reduced.flatten(1).numpy()
        tables.append(pd.DataFrame({"variant": variant, "y": y, "x": x, "r": r, "g": g, "b": b}))
    return pd.concat(tables, ignore_index=True)
