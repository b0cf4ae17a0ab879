"""What follows from a dose curve: outcomes with bounds set beforehand, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.experiments.result import Direction, Outcome, Result
from dg_tools.experiments.semantics import LOW_BAND, basis, rests_on
from dg_tools.metrics import band_name, bootstrap_ratio
from dg_tools.metrics.cell_bands import HIGH, LOW

SPAN = 0.2  # doublings at equal contrast: less is hard to see
LACK = 0.1  # doublings below the clean picture from which a dose lacks detail
MONOTONE = 0.8  # mean rank correlation of detail with the dose
UPTO = 2.0  # larger doses break the model; claims on the curve's shape leave them out
LAYOUT = 0.95  # correlation of the low band with the clean picture's
HALF = 0.5  # share of the change: more than this is most of it
EQUAL = 0.1  # a control whose ||v - v_d|| is further than this from the edit's, relative, is left out
UNIT = "doublings at equal contrast"


def strongest(table: pd.DataFrame, below: float, above: float) -> int:
    """The block at which the dose moves detail most, among those where the low band stays at both doses.

    `table` has the massive channels' rows in one step. Where the low band stays at no block, all are candidates.
    """
    mean = table.groupby(["block", "rho"])[["amount", "low correlation"]].mean()
    amount, low = mean["amount"].unstack("rho"), mean["low correlation"].unstack("rho")
    span = (amount[above] - amount[below]).abs()
    kept = (low[[below, above]] >= LAYOUT).all(axis=1)
    return int((span[kept] if kept.any() else span).idxmax())


def per_picture(table: pd.DataFrame, column: str = "amount") -> pd.DataFrame:
    """One row per picture and one column per rho, means over noise levels."""
    return table.pivot_table(column, ["prompt", "seed"], "rho", aggfunc="mean", sort=False)


def clusters(index: pd.Index) -> np.ndarray:
    """What was drawn at random: prompts, or the seeds of one prompt."""
    prompts = index.get_level_values("prompt")
    return np.asarray(prompts if prompts.nunique() > 1 else index.get_level_values("seed"))


def rank_correlation(wide: pd.DataFrame) -> pd.Series:
    """Of each picture's values with the doses up to `UPTO`, -1..1."""
    part = wide[[rho for rho in wide.columns if rho <= UPTO]]
    return part.rank(axis=1).T.corrwith(pd.Series(part.columns, part.columns).rank())


def equal_draws(matching: pd.DataFrame) -> tuple[list[str], int]:
    """Random draws that moved the velocity as much as the massive channels at both doses; the number of others."""
    random = matching[matching["who"].str.startswith("control ")]
    off = (random["reached"] - 1).abs().groupby(random["who"], sort=False).mean()
    return list(off.index[off <= EQUAL]), int((off > EQUAL).sum())


def assemble(
    table: pd.DataFrame, where: pd.DataFrame, matching: pd.DataFrame, pictures: pd.DataFrame, settings: dict[str, Any]
) -> Result:
    """The result from what was measured."""
    below, above, block = settings["below"], settings["above"], settings["block"]
    step = table[(table["kind"] == "step") & (table["block"] == block)]
    curves = {who: per_picture(rows) for who, rows in step.groupby("who", sort=False)}
    equal, unequal = equal_draws(matching)
    outcomes = one_step(curves, per_picture(step[step["who"] == "massive"], "low correlation"), equal, below, above)
    notes = [
        f"amount: the change of log2(power, {band_name(HIGH, settings['cell'])} / power, "
        f"{band_name(LOW, settings['cell'])}, without the mean) from the clean picture",
        f"block {block} is where the dose is strongest in one step on these pictures, where it was not given",
    ]
    if unequal:
        notes.append(f"{unequal} random draws do not reach the edit's ||v - v_d|| within {EQUAL:.0%}: not in the null")
    span = next(o for o in outcomes if o.primary)
    if span.low <= 0 <= span.high:
        notes.append("the change of detail may be zero, so that no part of it is ascribed to LayerNorm or to gain")
    else:
        outcomes += explanations(curves, below, above)
    outcomes += in_samples(table, settings)
    rests = None
    if settings["scales"] and not settings["truth"]:
        rests, kept = meaning(table, settings)
        outcomes += kept
    tables = {"channels": where, "matching": matching, "pictures": pictures}
    question = "Do massive channels set the amount of detail, and does the picture stay?"
    return Result(
        "dose", question, table, outcomes, settings, tables, notes, words(outcomes, where, settings, len(equal), rests)
    )


def one_step(
    curves: Mapping[str, pd.DataFrame], low: pd.DataFrame, equal: Sequence[str], below: float, above: float
) -> list[Outcome]:
    """The curve's span and shape, which dose lacks detail, and whether the low band stays."""
    massive = curves["massive"]
    groups = clusters(massive.index)
    draws = [curves[who] for who in equal]
    control = "as many random other channels, scaled to the same ||v - v_d||"

    def outcome(name: str, claim: str, values: Any, direction: Direction, margin: float, **more: Any) -> Outcome:
        settings = {"unit": UNIT, "direction": direction, "margin": margin, **more}
        return Outcome.from_values(name, claim, np.asarray(values, float), groups, **settings)

    found = [
        outcome(
            "span",
            f"detail falls from rho {below:g} to rho {above:g}",
            massive[above] - massive[below],
            "below",
            -SPAN,
            null=[float((x[above] - x[below]).mean()) for x in draws],
            control=control,
            primary=True,
        )
    ]
    shape = rank_correlation(massive)
    claim = f"detail falls monotonically with the dose, up to {UPTO:g}"
    found.append(outcome("monotone", claim, shape, "below", -MONOTONE, unit="rank correlation with rho"))
    for name, rho in (("lacks_below", below), ("lacks_above", above)):
        null = [float(x[rho].mean()) for x in draws]
        claim = f"at rho {rho:g} the picture lacks detail"
        found.append(outcome(name, claim, massive[rho], "below", -LACK, null=null, control=control))
    for name, rho in (("low_band_below", below), ("low_band_above", above)):
        claim, unit = f"at rho {rho:g} the low band is the clean picture's", "correlation of the low band"
        found.append(outcome(name, claim, low[rho], "above", LAYOUT, unit=unit))
    return found


def explanations(curves: Mapping[str, pd.DataFrame], below: float, above: float) -> list[Outcome]:
    """The share of the span left with clean LayerNorm statistics, and those that gain and other channels explain."""
    change = {who: wide[above] - wide[below] for who, wide in curves.items()}
    whole, groups = change["massive"], clusters(curves["massive"].index)
    found = []
    for name, who, claim, direction in (
        ("norms", "norms kept", "with LayerNorm's clean statistics less than half of the change is left", "below"),
        ("gain", "gain alone", "the clean velocity times the edit's gain makes more than half of the change", "above"),
        (
            "others",
            "largest others",
            "the largest other channels, as scaled, make less than half of the change",
            "below",
        ),
    ):
        share = bootstrap_ratio(change[who].to_numpy(), whole.to_numpy(), groups)
        found.append(Outcome(name, claim, *share, "of the change", direction, HALF))  # type: ignore[arg-type]
    return found


def in_samples(table: pd.DataFrame, settings: Mapping[str, Any]) -> list[Outcome]:
    """The span in whole samples, at each CFG scale and block."""
    below, above, found = settings["below"], settings["above"], []
    for scale in settings["scales"]:
        for block in settings["sampled"]:
            at = (table["kind"] == "sample") & (table["scale"] == scale) & (table["block"] == block)
            massive = per_picture(table[at & (table["who"] == "massive")])
            others = per_picture(table[at & (table["who"] == "largest others")])
            control = "none"
            if above in others and below in others:
                moved = float((others[above] - others[below]).mean())
                control = f"none; the largest other channels, scaled to the same ||v - v_d||: {moved:.2f}"
            found.append(
                Outcome.from_values(
                    f"sample_span_s{scale:g}_block{block}",
                    f"samples lose detail from rho {below:g} to rho {above:g} (s = {scale:g}, block {block})",
                    (massive[above] - massive[below]).to_numpy(),
                    clusters(massive.index),
                    unit=UNIT,
                    direction="below",
                    margin=-SPAN,
                    control=control,
                )
            )
    return found


def meaning(table: pd.DataFrame, settings: Mapping[str, Any]) -> tuple[str, list[Outcome]]:
    """Where prompts stand alone: whether samples keep their meaning at the lowest dose and at the one above 1.

    By the scores whose weights were at hand, else by the low band; which it is, and its outcomes by CFG scale and dose.
    """
    block, samples = settings["sampled"][0], table[table["kind"] == "sample"]
    at = samples[(samples["who"] == "massive") & (samples["block"] == block)]
    what = rests_on(name for name in at.columns if at[name].notna().any())
    column = "low correlation" if what == "low_band" else what
    bound = LOW_BAND if what == "low_band" else settings["margins"][what]
    found = []
    for scale in settings["scales"]:
        wide = per_picture(at[at["scale"] == scale], column)
        for side, rho in (("below", settings["below"]), ("above", settings["above"])):
            found.append(
                Outcome.from_values(
                    f"semantics_{side}_s{scale:g}",
                    f"samples at rho {rho:g} keep the clean ones' meaning (s = {scale:g}, block {block})",
                    (wide[rho] - wide[1.0]).to_numpy(),
                    clusters(wide.index),
                    unit=f"{column}, change",
                    direction="within",
                    margin=bound,
                )
            )
    return what, found


def words(
    outcomes: Sequence[Outcome], where: pd.DataFrame, settings: Mapping[str, Any], draws: int, rests: str | None
) -> str:
    """The verdict: the curve's shape, which dose lacks detail, whether the low band stays, what explains it."""
    named = {o.name: o for o in outcomes}
    below, above, block = settings["below"], settings["above"], settings["block"]
    shape, span = named["monotone"].estimate, named["span"]
    if span.low <= 0 <= span.high:
        curve = "The dose does not change the amount of detail"
    else:
        steady = "monotonically" if abs(shape) >= MONOTONE else "but not monotonically"
        curve = f"Detail {'falls' if span.estimate < 0 else 'rises'}, {steady}, with the dose"
        curve = curve.replace(", monotonically,", " monotonically")
    amounts = ", ".join(
        f"rho {r:g}: {named[n].estimate:+.2f}" for n, r in (("lacks_below", below), ("lacks_above", above))
    )
    lacking = [r for n, r in (("lacks_below", below), ("lacks_above", above)) if named[n].high < -LACK]
    side = " and ".join(f"rho {r:g}" for r in lacking)
    sentences = [f"{curve} ({amounts} {UNIT}; block {block}, one step)"]
    sentences.append(
        f"Of these two, only rho {lacking[0]:g} lacks detail"
        if len(lacking) == 1
        else f"Both {side} lack detail"
        if side
        else "No side lacks detail"
    )
    if span.null:
        beaten = span.rank if span.estimate < 0 else draws - span.rank
        sentences.append(f"{beaten} of {draws} draws of random channels that move the velocity as much change it less")
    low = min(named["low_band_below"].estimate, named["low_band_above"].estimate)
    sentences.append(f"The low band {'stays' if low >= LAYOUT else 'changes'} (correlation {low:.3f})")
    if "norms" in named:
        kept, gained = named["norms"].estimate, named["gain"].estimate
        verb = (
            "explains"
            if named["norms"].high < HALF
            else "does not explain"
            if named["norms"].low > HALF
            else "may explain"
        )
        sentences.append(
            f"LayerNorm {verb} it: with its clean statistics {share(kept)} of the change is left; a plain gain on the "
            f"velocity makes {share(gained)} of it"
        )
        others = share(named["others"].estimate)
        sentences.append(f"The largest other channels, scaled to move the velocity as much, make {others} of it")
    drawn = {s: named[f"sample_span_s{s:g}_block{settings['sampled'][0]}"].estimate for s in settings["scales"]}
    if drawn:
        changes = ", ".join(f"{change:+.2f} at s = {scale:g}" for scale, change in drawn.items())
        sentences.append(f"In whole samples it changes by {changes}, from rho {below:g} to rho {above:g}")
    if rests is not None:
        said = {"holds": "it stays", "fails": "it does not stay", "undecided": "undecided"}
        sides = ", ".join(
            f"{said[o.status]} at rho {settings[side]:g}, s = {s:g} ({o.estimate:+.3g}, bound {o.margin:g})"
            for s in settings["scales"] for side in ("below", "above")
            for o in [named[f"semantics_{side}_s{s:g}"]]
        )  # fmt: skip
        sentences.append(f"Semantics rests on {basis(rests)}: {sides}")
    rows = where[where["block"] == block]
    massive, other = (", ".join(map(str, rows.loc[rows["massive"] == it, "channel"])) for it in (True, False))
    absent = f"; not massive there: {other}" if other else ""
    sentences.append(f"Massive at block {block}: {massive or 'none'}{absent}")
    return ". ".join(sentences) + "."


def share(value: float) -> str:
    """A share of the change in words: `80%`; a small one of the opposite sign counts as none."""
    return "none" if -HALF / 5 < value < 0.005 else f"{value:.0%}"
