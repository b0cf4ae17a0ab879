"""What the demo says: sentences whose numbers were computed in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dg_tools.demo.bench import Drawn, Interval
from dg_tools.interventions import Disrupt

KEPT = 0.95  # correlation of the low band from which on the picture counts as kept
ACTS = 0.1  # ||v_d - v|| / ||v|| below which nothing that follows is a finding
TITLE = "What massive channels do here, and what guidance made from them buys"
TERMS = (
    "How to read the numbers: detail is the change of log2(high-band power / low-band power) from no guidance: +1 (a "
    "doubling) is twice as much fine power at equal contrast. Right is the correlation of the high band with the "
    "reference picture, as a change too. A pass is one forward through the whole model, in each step. In brackets: 95% "
    "intervals over captions."
)
Rows = Mapping[str, Mapping[str, Interval]]


def told(value: Interval, unit: str = "") -> str:
    """`+0.52 (+0.41 to +0.63)`, with a unit."""
    mean, low, high = value
    return f"{mean:+.2f}{unit and ' ' + unit} ({low:+.2f} to {high:+.2f})"


def right(row: Mapping[str, Interval]) -> str:
    """The change of rightness, where it is known."""
    if "right" not in row:
        return ""
    mean, low, high = row["right"]
    return f", right {mean:+.3f} ({low:+.3f} to {high:+.3f})"


def acts(change: float, others: Sequence[float]) -> str:
    """The manipulation check: how far the weak model is from the model, and the controls."""
    beside = f"; that of the controls by {', '.join(f'{x:.0%}' for x in others)}" if others else ""
    if change < ACTS:
        return f"The edit hardly acts (velocity changed by {change:.1%}, under {ACTS:.0%}): nothing below is a finding."
    return f"The edit acts: it changes the velocity by {change:.0%} (mean of ||v_d - v|| / ||v|| over steps){beside}."


def of_dose(edit: Disrupt, curve: pd.DataFrame, count: int) -> str:
    """What the channels do: detail over the dose, and whether the picture stays."""
    rows = curve[curve["who"] == "massive"].set_index("rho").sort_index()
    near = rows[rows.index <= 2]["amount"]
    steps = near.diff().dropna()
    words, they = ("channel", "it is") if len(edit.channels) == 1 else ("channels", "they are")
    most, least = near.idxmax(), near.idxmin()
    if (steps < 0).all():
        how = f"the louder {they}, the less detail there is"
    elif (steps > 0).all():
        how = f"the louder {they}, the more detail there is"
    else:
        how = f"detail does not follow the dose in one direction: most at rho {most:g}, least at rho {least:g}"
    low = rows[rows.index <= 2]["low_band"].min()
    stays = "stays" if low >= KEPT else "changes"
    return (
        f"What the channels do ({count} captions): {words} {', '.join(map(str, edit.channels))} times rho after block "
        f"{edit.block}, in every pass, from rho {near.index[0]:g} to {near.index[-1]:g}: {how}, "
        f"{near.iloc[0]:+.2f} to {near.iloc[-1]:+.2f} doublings at equal contrast. The coarse picture {stays}: its low "
        f"band correlates with the clean one's at {low:.2f} or more."
    )


def of_zero(knob: Interval, row: Mapping[str, Interval], weight: float) -> str:
    """What zeroing does, as a weak model and in Detail Guidance."""
    lacks = "lacks detail" if knob[2] < 0 else "has more detail, not less" if knob[1] > 0 else "does not lack detail"
    return (
        f"What zero does (the paper's form, same channels and block): the zeroed model {lacks}, "
        f"{told(knob, 'doublings')}; Detail Guidance from it at w {weight:g} changes detail by "
        f"{told(row['amount'])}{right(row)}."
    )


def of_guidance(rows: Rows, drawn: Mapping[str, Drawn], weight: float, scale: float) -> str:
    """What Detail Guidance buys, beside the gain that it contains and CFG, with the price of each."""
    price = {name: f"{one.passes:.2g} passes" if one.passes != 1 else "1 pass" for name, one in drawn.items()}
    return (
        f"What Detail Guidance buys (w {weight:g}, {price['DG']}): detail {told(rows['DG']['amount'], 'doublings')}"
        f"{right(rows['DG'])}. Its own gain alone ({price['gain']}): {told(rows['gain']['amount'])}"
        f"{right(rows['gain'])}. CFG {scale:g} ({price['CFG']}): {told(rows['CFG']['amount'])}{right(rows['CFG'])}; "
        f"with DG on top ({price['CFG + DG']}): {told(rows['CFG + DG']['amount'])}{right(rows['CFG + DG'])}."
    )


def of_controls(
    same: Mapping[str, Interval], rows: Sequence[Mapping[str, Interval]], dg: Mapping[str, Interval], rho: float
) -> str:
    """What the same guidance does with other channels: by the same edit, and where they move the velocity as much."""
    words = (
        f"What other channels do: the same edit (x {rho:g}) of the largest others changes detail by "
        f"{told(same['amount'], 'doublings')}{right(same)}."
    )
    if not rows:
        return f"{words} None could be scaled to move the velocity as much."
    each = ", ".join(f"{row['amount'][0]:+.2f}" for row in rows)
    words += f" Scaled until they move the velocity as much, {len(rows)} sets: {each}"
    clear = sum(row["amount"][1] > 0 for row in rows)
    words += f"; {clear} of {len(rows)} clearly add detail"
    if "right" not in dg:
        return f"{words}."
    nearer = sum(row["right"][0] < dg["right"][0] for row in rows)
    rights = ", ".join(f"{row['right'][0]:+.3f}" for row in rows)
    return f"{words}. Right: {rights}; {nearer} of {len(rows)} are less like the reference than DG."


def of_limits(count: int, measured: bool) -> str:
    """What is not tested."""
    truth = "" if measured else "whether the detail is right (there are no reference pictures), "
    return (
        f"What is not tested: {truth}other weights, larger models, another w, more than {count} captions. Nothing here "
        "says anything about SD3.5 or FLUX.1."
    )


def verdict(rows: Rows, change: float) -> str:
    """Whether Detail Guidance gives more detail than the gain that it contains, and whether it is the right detail."""
    if change < ACTS:
        return "Not tested: the edit hardly acts."
    dg, gain = rows["DG"]["amount"], rows["gain"]["amount"]
    if dg[1] <= 0:
        return "Detail Guidance adds no detail here that is clear on these captions."
    words = "Detail Guidance adds detail here, " + ("more than" if dg[1] > gain[2] else "not clearly more than")
    words += " the gain that it contains"
    if "right" in rows["DG"]:
        _, low, high = rows["DG"]["right"]
        like = "more" if low > 0 else "less" if high < 0 else "not clearly more or less"
        words += f"; its fine detail is {like} like the reference's"
    return f"{words}."
