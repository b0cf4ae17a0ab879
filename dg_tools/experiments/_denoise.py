"""Does switching massive channels off cost detail in one denoising step, more than other damage of that size?

Noise a picture to sigma, predict once with and once without the edit from the *same* z_t, and compare the two x0
predictions with the truth, band by band (in cycles per latent cell, without the mean), object and background apart. The
controls are scaled until they do the same harm (`error_matching`). So edit and controls differ in what they damage, not
in how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.datasets.examples import Items, examples
from dg_tools.datasets.references import References
from dg_tools.experiments.error_matching import TOLERANCE, Match, matched_controls, reached
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.result import CONTROLS, Outcome, Result
from dg_tools.experiments.selectivity import AgainstControls, by_sigma, log_ratios, shares
from dg_tools.experiments.subject import Subject, choose
from dg_tools.interventions import Control, Disrupt, variance_matched
from dg_tools.metrics.cell_bands import bands_note, check_size, named_words
from dg_tools.models.dit import DiT
from dg_tools.progress import progress_bar

SIGMAS = (0.3, 0.5, 0.7, 0.9)
FURTHER = {
    "mean": "mean instead of zero",
    "dc": "token mean removed",
    "norms": "clean LayerNorms",
    "rescale": "others rescaled",
}
VARIANCE = "like variance"


def denoise(
    dit: DiT,
    prompts: Items,
    seeds: Sequence[int] = (0,),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    sigmas: Sequence[float] = SIGMAS,
    controls: int = CONTROLS,
    kind: Control = "shift",
    match: Match = "error",
    further: bool = True,
    dose: Sequence[tuple[int, int]] = (),
    batch: int = 32,
    folder: References | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Zero the massive channels in one denoising step, beside controls scaled to the same harm.

    The primary outcome is the edit's selectivity (log high-band error ratio minus log low-band error ratio) minus that
    of its controls, paired by picture. Cost, in forwards of `batch` pictures: about 4 x controls x sigmas in the search
    (first batch), and (2 + controls + further) x sigmas x pictures x seeds / batch in the measurement. On the embedded
    model, 24 pictures take about four minutes on one core.

    Args:
        dit: any DiT.
        prompts: what to denoise: `Reference`s (`dg.references(dit).sample(24)`), (prompt, picture), (prompt, picture,
            mask) or `Example`s: pictures of one size, PIL, paths or tensors (3, H, W) in [-1, 1], masks (H, W) 0..1,
            the object's coverage. Without masks, object and background are not separated; without a second style, there
            is no style axis.
        seeds: of the noise; each picture is noised with each.
        channels, block: what to zero and where; None: those of the default profile, else as `subject.choose` finds
            them, on a part of the prompts. For doses other than zero see `experiments.dose`.
        sigmas: noise levels, between 0 and 1.
        controls: draws.
        kind: of `Disrupt.controls`: one that has a strength, `shift` or `shift_direction`.
        match: the quantity that the controls are scaled to: `error`, the edit's total x0 error; `output`, its mean ||v
            - v_clean||.
        further: also measure four other edits (mean in place of zero; the token mean removed; LayerNorm statistics
            kept; all other channels rescaled as LayerNorm would) and, on the first batch, zeroed channels of similar
            variance.
        dose: (channels, layers) to zero, on the first batch: as many channels, the massive ones first and then by
            their mean |x|, after as many blocks, from `block` on.
        batch: pictures per forward.
        folder: where `Reference`s have their pictures (default: the embedded model's).
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError: prompts without pictures, no seeds, a sigma outside 0..1, no controls or a kind without strength,
            pictures of at most 8 latent cells per side, which have no low band.
    """
    items = examples(dit, prompts, folder, truth=True)
    if not sigmas or not all(0 < s < 1 for s in sigmas) or len(set(sigmas)) != len(sigmas):
        raise ValueError(f"sigmas={list(sigmas)}; distinct values between 0 and 1 are needed")
    if controls < 2 or kind not in ("shift", "shift_direction"):
        raise ValueError(f"controls={controls} of kind {kind!r}; at least 2, of kind 'shift' or 'shift_direction'")
    if items and items[0].reference is None:
        kwargs |= dict(zip(("height", "width"), items[0].picture.shape[-2:], strict=True))
    if items:
        check_size(*dit.size(*items[0].picture.shape[-2:]), dit.vae_scale_factor)
    check_dose(dit, dose, block)
    subject = choose(dit, items, seeds, channels=channels, block=block, progress=progress, **kwargs)
    noised = NoisedPictures(dit, subject.test, seeds, batch=batch, **kwargs)
    off = subject.zeroed
    off.check(dit, None, noised.height, noised.width)
    others = further_edits(off) if further else {}
    quick = variance_draws(noised, off, controls, sigmas) if further else {}
    quick |= dose_edits(noised, subject, dose, sigmas)

    bar = progress_bar(progress, total=len(sigmas) * (2 * controls + 2 + len(others) + len(quick)), desc="denoise")
    matched = matched_controls(noised, off, off.controls(controls, kind), sigmas, match=match, tick=bar.update)
    edits = {"zero": off, **{f"control {i}": e for i, e in enumerate(matched.edits)}, **others}
    table, first = measured(noised, edits, quick, sigmas, bar)
    bar.close()
    return assemble(
        subject,
        table,
        first,
        matched.table,
        {v: e.sentence() for v, e in {**edits, **quick}.items()},
        masks=noised.masks is not None,
        sigmas=list(sigmas),
        seeds=list(seeds),
        kind=kind,
        match=match,
        batch=batch,
        cell=dit.vae_scale_factor,
        words=named_words(dit.vae_scale_factor),
    )


def measured(
    noised: NoisedPictures, edits: dict[str, Disrupt], quick: dict[str, Disrupt], sigmas: Sequence[float], bar: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `edits` on all pictures, and of `quick` on the first batch (no rows where there are none)."""
    roles = {"zero": "edit"} | {v: "control" for v in edits if v.startswith("control ")}
    tables, first = [], []
    for sigma in sigmas:
        _, clean = noised.predict(sigma)
        tables.append(noised.measure(clean, clean, variant="clean", role="clean", sigma=sigma))
        for variant, edit in edits.items():
            _, predicted = noised.predict(sigma, [edit])
            role = roles.get(variant, "further")
            tables.append(noised.measure(predicted, clean, variant=variant, role=role, sigma=sigma))
            bar.update()
        clean = clean[: noised.batch]
        if quick:
            first.append(noised.measure(clean, clean, variant="clean", role="clean", sigma=sigma))
        for variant, edit in quick.items():
            _, predicted = noised.predict(sigma, [edit], batches=1)
            first.append(noised.measure(predicted, clean, variant=variant, role="further", sigma=sigma))
            bar.update()
    return pd.concat(tables, ignore_index=True), pd.concat(first, ignore_index=True) if first else pd.DataFrame()


def further_edits(off: Disrupt) -> dict[str, Disrupt]:
    """Edits beside the main one, by variant: each answers one objection to it."""
    edits = {"mean": replace(off, mode="mean"), "dc": replace(off, mode="dc")}
    edits |= {"norms": replace(off, norms="clean"), "rescale": replace(off, mode="rescale")}
    return {FURTHER[name]: edit for name, edit in edits.items()}


def variance_draws(noised: NoisedPictures, off: Disrupt, count: int, sigmas: Sequence[float]) -> dict[str, Disrupt]:
    """Other channels, zeroed, that vary over the tokens as the massive ones do (what their mean leaves)."""
    hidden = noised.hidden(sigmas[len(sigmas) // 2], off.block)
    variance = hidden.var(1, unbiased=False).mean(0)
    draws = [replace(off, channels=variance_matched(variance, off.channels, d), control=True) for d in range(count)]
    return {f"{VARIANCE} {i}": edit for i, edit in enumerate(draws)}


def check_dose(dit: DiT, dose: Sequence[tuple[int, int]], block: int | None) -> None:
    """Raise ValueError for more channels or layers than there are; a block not known yet counts as the first."""
    layers = len(dit.blocks) - (block or 0)
    for k, n in dose:
        if not (1 <= k <= dit.width and 1 <= n <= layers):
            raise ValueError(
                f"dose of {k} channels in {n} layers; there are {dit.width} channels and {layers} layers "
                f"from block {block or 0} on"
            )


def dose_edits(
    noised: NoisedPictures, subject: Subject, dose: Sequence[tuple[int, int]], sigmas: Sequence[float]
) -> dict[str, Disrupt]:
    """An edit for each (channels, layers): the massive channels first, then by mean |x| at the block's output."""
    if not dose:
        return {}
    dit, block = noised.dit, subject.block
    size = noised.hidden(sigmas[len(sigmas) // 2], block).abs().mean((0, 1))
    order = [*subject.channels, *(int(c) for c in size.argsort(descending=True) if int(c) not in subject.channels)]
    check_dose(dit, dose, block)
    layers: Any = {n: range(block, block + n) for _, n in dose}
    return {f"{k} channels, {n} layers": Disrupt(order[:k], layers[n]) for k, n in dose}


def assemble(
    subject: Subject,
    table: pd.DataFrame,
    first: pd.DataFrame,
    search: pd.DataFrame,
    sentences: dict[str, str],
    *,
    masks: bool,
    **settings: Any,
) -> Result:
    """The result from what was measured."""
    search = search_with_harm(search, table)
    controls, notes = equal_controls(search, settings["match"])
    against = AgainstControls(table, controls)
    outcomes = [against.primary(), against.own_selectivity(), *against.bands(), against.incoherent()]
    if masks:
        outcomes.append(against.foreground())
    else:
        notes.append("object and background are not told apart: no masks were given")
    if table["style_axis"].notna().any():
        outcomes += against.axis()
    else:
        notes.append("no axis shaded - flat: these pictures have no second style")
    beside = {text: name for name, text in FURTHER.items() if text in set(table["variant"])}
    clusters = against.clusters(against.ratios.xs("zero").index)
    outcomes += shares(against.ratios, "zero", beside, clusters)
    variants = against.variants()
    if len(first):
        small = log_ratios(first).groupby("variant", sort=False).mean().drop("clean")
        alike = small[small.index.str.startswith(VARIANCE)]
        if len(alike):
            outcomes.append(against_variance(against.ratios.xs("zero")["total"], clusters, list(alike["total"])))
        rows = small.reset_index().assign(role=np.where(small.index.str.startswith(VARIANCE), VARIANCE, "dose"))
        variants = pd.concat([variants, rows], ignore_index=True)
    notes.append(bands_note(settings["cell"]))
    tables = {"variants": variants, "by_sigma": by_sigma(table), "search": search}
    tables["edits"] = pd.DataFrame(sentences.items(), columns=["variant", "sentence"])
    question = "Does zeroing the massive channels cost detail in one denoising step, more than any damage of that size?"
    return Result("denoise", question, table, outcomes, subject.settings(**settings), tables, notes)


def search_with_harm(search: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The search for the controls' strength, with `reached`: their harm over the edit's, on all pictures."""
    harm = reached(table).rename(columns={"variant": "control"})
    harm["control"] = harm["control"].str.removeprefix("control ").astype(int)
    search = search.merge(harm, on=["control", "sigma"])
    search["reached"] = search["reached"].where(search["matched"] == "error")  # over a harm below zero it says nothing
    return search


def equal_controls(search: pd.DataFrame, match: Match) -> tuple[list[str], list[str]]:
    """The controls that do as much harm as the edit, and notes on the others."""
    notes = []
    equal = search["reached"].fillna(search["searched"])
    off = (equal - 1).abs().groupby(search["control"]).mean()
    controls = [f"control {i}" for i in off.index[off <= TOLERANCE]]
    if len(controls) < len(off):
        notes.append(
            f"{len(off) - len(controls)} of {len(off)} controls did not come within {TOLERANCE:.0%} of the edit's "
            "harm and are not in the null distribution"
        )
    if len(controls) < 2:  # so few give no verdict: see Outcome.status
        controls = [f"control {i}" for i in off.sort_values().index[:2]]
        notes.append("the two nearest of them stand in, so that the figures can be read; they allow no verdict")
    by_output = sorted(set(search.loc[search["matched"] == "output", "sigma"]))
    if by_output and match == "error":
        notes.append(
            f"at sigma {by_output} the edit does no harm (its error is not above the clean run's); controls "
            "are matched in ||v - v_clean|| there"
        )
    return controls, notes


def against_variance(values: pd.Series, clusters: np.ndarray, null: list[float]) -> Outcome:
    """The edit's total error beside that of zeroing other channels of like variance."""
    return Outcome.from_values(
        "against_variance",
        "zeroing the massive channels harms more than zeroing other channels of like variance over tokens",
        values,
        clusters,
        null=null,
        unit="log ratio of the total error to clean",
        direction="above",
        margin=0.0,
        control="other channels of like variance, zeroed, on the first batch of pictures",
    )
