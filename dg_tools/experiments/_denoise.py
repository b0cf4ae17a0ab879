"""Does switching massive channels off cost detail, in one denoising step, and more so than any damage of that size?

Noise a picture to sigma, predict once with and once without the edit from the *same* z_t, and compare the two x0
predictions with the truth, band by band, object and background apart. The controls are scaled until they do the same
harm (`equal_harm`), so that what is left between edit and controls is what the edit does, and not how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.datasets.examples import examples
from dg_tools.datasets.references import References
from dg_tools.experiments.equal_harm import TOLERANCE, Match, matched_controls, reached
from dg_tools.experiments.noised_pictures import Pairs
from dg_tools.experiments.result import CONTROLS, Outcome, Result
from dg_tools.experiments.selectivity import Comparison, by_sigma, log_ratios, shares
from dg_tools.experiments.subject import Subject, choose
from dg_tools.interventions import Control, Disrupt, variance_matched
from dg_tools.models.dit import DiT
from dg_tools.progress import progress_bar

SIGMAS = (0.3, 0.5, 0.7, 0.9)
FURTHER = {
    "mean": "mean instead of zero",
    "dc": "token mean removed",
    "norms": "clean LayerNorms",
    "rescale": "others rescaled",
}  # fmt: skip
VARIANCE = "like variance"


def denoise(
    dit: DiT,
    prompts: Any,
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

    Primary: the edit's selectivity (log high-band error ratio minus log low-band error ratio) minus that of its
    controls, paired by picture. Forwards of `batch` pictures: about 4 x controls x sigmas in the search (first batch),
    and (2 + controls + further) x sigmas x pictures x seeds / batch in the measurement: 24 pictures on the embedded
    model take about four minutes of one core.

    Args:
        dit: any DiT.
        prompts: what to denoise: `Reference`s (`dg.references(dit).sample(24)`), (prompt, picture), (prompt, picture,
            mask) or `Example`s: pictures of one size, PIL, paths or tensors (3, H, W) in [-1, 1], masks (H, W) 0..1,
            the object's coverage. Without masks the object and the background are not told apart; without a second
            style there is no detail axis.
        seeds: of the noise; each picture is noised with each.
        channels, block: what to zero and where; None: as `subject.choose` finds them, on a part of the prompts.
        sigmas: noise levels, between 0 and 1.
        controls: draws.
        kind: of `Disrupt.controls`: one that has a strength, `shift` or `shift_direction`.
        match: what the controls are scaled to: `error`, the edit's total x0 error; `output`, its mean ||v - v_clean||.
        further: also measure, on the first batch but for the first four: mean instead of zero, the token mean removed,
            LayerNorm statistics kept, all others rescaled as LayerNorm would; zeroed channels of like variance.
        dose: (channels, layers) to zero, on the first batch: as many channels, the massive ones first and then by
            their mean |x|, after as many blocks, from `block` on.
        batch: pictures a forward.
        folder: where `Reference`s have their pictures (default: the embedded model's).
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError: prompts without pictures, no seeds, a sigma outside 0..1, no controls or a kind without strength.
    """
    items = examples(dit, prompts, folder, truth=True)
    if not sigmas or not all(0 < s < 1 for s in sigmas) or len(set(sigmas)) != len(sigmas):
        raise ValueError(f"sigmas={list(sigmas)}; distinct values between 0 and 1 are needed")
    if controls < 2 or kind not in ("shift", "shift_direction"):
        raise ValueError(f"controls={controls} of kind {kind!r}; at least 2, of kind 'shift' or 'shift_direction'")
    if items and items[0].reference is None:
        kwargs |= dict(zip(("height", "width"), items[0].picture.shape[-2:], strict=True))
    check_dose(dit, dose, block)
    subject = choose(dit, items, seeds, channels=channels, block=block, progress=progress, **kwargs)
    pairs = Pairs(dit, subject.test, seeds, folder=folder, batch=batch, **kwargs)
    off = Disrupt(subject.channels, subject.block)
    off.check(dit, None, pairs.height, pairs.width)
    others = further_edits(off) if further else {}
    doses = dosed(pairs, subject, dose, sigmas)
    matched_in_variance = variance_draws(pairs, off, controls, sigmas) if further else {}
    small = {**matched_in_variance, **{f"{k} channels, {n} layers": e for (k, n), e in doses.items()}}

    bar = progress_bar(progress, total=len(sigmas) * (2 * controls + 2 + len(others) + len(small)), desc="denoise")
    drawn = matched_controls(pairs, off, off.controls(controls, kind), sigmas, match=match, tick=bar.update)
    edits = {"zero": off, **{f"control {i}": e for i, e in enumerate(drawn.edits)}, **others}
    roles = {"zero": "edit"} | {v: "control" for v in edits if v.startswith("control ")}
    tables, quick = [], []
    for sigma in sigmas:
        _, clean = pairs.predict(sigma)
        tables.append(pairs.measure(clean, clean, variant="clean", role="clean", sigma=sigma))
        for variant, edit in edits.items():
            _, made = pairs.predict(sigma, [edit])
            tables.append(pairs.measure(made, clean, variant=variant, role=roles.get(variant, "further"), sigma=sigma))
            bar.update()
        first = clean[:batch]
        quick.append(pairs.measure(first, first, variant="clean", role="clean", sigma=sigma)) if small else None
        for variant, edit in small.items():
            _, made = pairs.predict(sigma, [edit], batches=1)
            quick.append(pairs.measure(made, first, variant=variant, role="further", sigma=sigma))
            bar.update()
    bar.close()
    return assemble(
        subject,
        pd.concat(tables, ignore_index=True),
        pd.concat(quick, ignore_index=True) if quick else pd.DataFrame(),
        drawn.table,
        {v: e.sentence() for v, e in {**edits, **small}.items()},
        masks=pairs.masks is not None,
        sigmas=list(sigmas), seeds=list(seeds), kind=kind, match=match, batch=batch,
    )  # fmt: skip


def further_edits(off: Disrupt) -> dict[str, Disrupt]:
    """Edits beside the main one, by variant: each answers one objection to it."""
    made = {"mean": replace(off, mode="mean"), "dc": replace(off, mode="dc")}
    made |= {"norms": replace(off, norms="clean"), "rescale": replace(off, mode="rescale")}
    return {FURTHER[name]: edit for name, edit in made.items()}


def variance_draws(pairs: Pairs, off: Disrupt, count: int, sigmas: Sequence[float]) -> dict[str, Disrupt]:
    """Other channels, zeroed, that vary over the tokens as the massive ones do (what their mean leaves)."""
    hidden = pairs.hidden(sigmas[len(sigmas) // 2], off.block)
    variance = hidden.var(1, unbiased=False).mean(0)
    draws = [replace(off, channels=variance_matched(variance, off.channels, d), control=True) for d in range(count)]
    return {f"{VARIANCE} {i}": edit for i, edit in enumerate(draws)}


def check_dose(dit: DiT, dose: Sequence[tuple[int, int]], block: int | None) -> None:
    """Raise ValueError for more channels or layers than there are; a block not known yet counts as the first."""
    layers = len(dit.blocks) - (block or 0)
    for k, n in dose:
        if not (1 <= k <= dit.width and 1 <= n <= layers):
            raise ValueError(
                f"dose of {k} channels in {n} layers asked for; there are {dit.width} channels and {layers} layers "
                f"from block {block or 0} on"
            )


def dosed(
    pairs: Pairs, subject: Subject, dose: Sequence[tuple[int, int]], sigmas: Sequence[float]
) -> dict[tuple[int, int], Disrupt]:
    """(channels, layers) -> edit: the massive channels first, then by mean |x| at the block's output."""
    if not dose:
        return {}
    dit, block = pairs.dit, subject.block
    size = pairs.hidden(sigmas[len(sigmas) // 2], block).abs().mean((0, 1))
    order = [*subject.channels, *(int(c) for c in size.argsort(descending=True) if int(c) not in subject.channels)]
    check_dose(dit, dose, block)
    layers: Any = {n: range(block, block + n) for _, n in dose}
    return {(k, n): Disrupt(order[:k], layers[n]) for k, n in dose}


def assemble(
    subject: Subject,
    table: pd.DataFrame,
    quick: pd.DataFrame,
    search: pd.DataFrame,
    sentences: dict[str, str],
    *,
    masks: bool,
    **settings: Any,
) -> Result:
    """The result from what was measured."""
    notes = []
    harm = reached(table).rename(columns={"variant": "control"})
    harm["control"] = harm["control"].str.removeprefix("control ").astype(int)
    search = search.merge(harm, on=["control", "sigma"])
    search["reached"] = search["reached"].where(search["matched"] == "error")  # over a harm below zero it says nothing
    equal = search["reached"].fillna(search["searched"])
    off = (equal - 1).abs().groupby(search["control"]).mean()
    kept = [f"control {i}" for i in off.index[off <= TOLERANCE]]
    if len(kept) < len(off):
        notes.append(f"{len(off) - len(kept)} of {len(off)} controls did not come within {TOLERANCE:.0%} of the edit's "
                     "harm and are not in the null distribution")  # fmt: skip
    if len(kept) < 2:  # so few give no verdict: see Outcome.status
        kept = [f"control {i}" for i in off.sort_values().index[:2]]
        notes.append("the two nearest of them stand in, so that the figures can be read; they allow no verdict")
    by_output = sorted(set(search.loc[search["matched"] == "output", "sigma"]))
    if by_output and settings["match"] == "error":
        notes.append(f"at sigma {by_output} the edit does no harm (its error is not above the clean run's); controls "
                     "are matched in ||v - v_clean|| there")  # fmt: skip
    compared = Comparison(table, kept)
    outcomes = [compared.primary(), compared.own_selectivity(), *compared.bands(), compared.incoherent()]
    if masks:
        outcomes.append(compared.foreground())
    else:
        notes.append("object and background are not told apart: no masks were given")
    if table["detail_axis"].notna().any():
        outcomes += compared.axis()
    else:
        notes.append("no axis shaded - flat: these pictures have no second style")
    beside = {text: name for name, text in FURTHER.items() if text in set(table["variant"])}
    clusters = compared.clusters(compared.ratios.xs("zero").index)
    outcomes += shares(compared.ratios, "zero", beside, clusters)
    variants = compared.variants()
    if len(quick):
        small = log_ratios(quick).groupby("variant", sort=False).mean().drop("clean")
        alike = small[small.index.str.startswith(VARIANCE)]
        if len(alike):
            ours = compared.ratios.xs("zero")["total"]
            outcomes.append(
                Outcome.from_values(
                    "against_variance",
                    "zeroing the massive channels harms more than zeroing other channels of like variance over tokens",
                    ours,
                    clusters,
                    null=list(alike["total"]),
                    unit="log ratio of the total error to clean",
                    direction="above",
                    margin=0.0,
                    control="other channels of like variance, zeroed, on the first batch of pictures",
                )
            )
        first = small.reset_index().assign(role=np.where(small.index.str.startswith(VARIANCE), VARIANCE, "dose"))
        variants = pd.concat([variants, first], ignore_index=True)
    tables = {"variants": variants, "by_sigma": by_sigma(table), "search": search}
    tables["edits"] = pd.DataFrame(sentences.items(), columns=["variant", "sentence"])
    question = "Does zeroing the massive channels cost detail in one denoising step, more than any damage of that size?"
    return Result("denoise", question, table, outcomes, subject.settings(**settings), tables, notes)
