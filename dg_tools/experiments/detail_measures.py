"""The claims of `detail` on its table: each column's claim, direction and bound, set before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dg_tools.experiments.prompts_alone import AMOUNT, UNIT
from dg_tools.experiments.result import Direction
from dg_tools.experiments.semantics import LOW_BAND

TENTH = 0.1  # of the clean power: less would not be reported as a loss of detail
NEAR = 0.05  # of a correlation: a twentieth of its range from unrelated to the same
POINTS = 0.1  # of the pictures: one in ten


class Measure(NamedTuple):
    """How a column of the table becomes an outcome: the change from the clean sample of the same prompt and seed."""

    column: str
    claim: str
    direction: Direction
    margin: float
    relative: bool  # to the mean of the clean samples
    unit: str = ""  # where it is none of the column's


# fmt: off
DETAIL = (
    Measure("high_power", "disrupted samples have less high-band power", "below", -TENTH, True),
    Measure("high_coherent", "disrupted samples have less high-band power that is coherent with the reference", "below",
            -TENTH, True),
    Measure("high_incoherent", "disrupted samples have more high-band power that is not the reference's", "above",
            TENTH, True),
    Measure("high_correlation", "the high band correlates less with the reference", "below", -NEAR, False),
    Measure("flat_noise", "disrupted samples have more noise where the reference is flat", "above", TENTH, True),
    Measure("normalised_laplacian_variance", "disrupted samples have less Laplacian variance at the same contrast",
            "below", -TENTH, True),
    Measure("blur", "disrupted samples are more blurred (Crete 2007)", "above", NEAR, False),
)
SEMANTICS = (
    Measure("found", "the right picture is retrieved as often", "within", POINTS, False),
    Measure("low_correlation", "the low band correlates as well with the reference", "within", NEAR, False),
)
# fmt: on
ALONE = (*DETAIL[-2:],)  # those of them that need no reference
ALONE_SEMANTICS = (
    SEMANTICS[0]._replace(claim="the clean sample of the same prompt is retrieved as often"),
    Measure("low_band", "the low band stays the clean sample's", "within", LOW_BAND, False, "of its correlation"),
)


def measures_of(columns: Sequence[str], margins: Mapping[str, float], truth: bool) -> list[Measure]:
    """The measures of a table with these columns.

    Args:
        columns: of the table.
        margins: of further scores, by their name.
        truth: whether the samples have references; if not, detail is compared with the clean sample, by sign and band.
    """
    own = [Measure(n, f"the score {n} is the same", "within", m, False) for n, m in margins.items()]
    if truth:
        return [*DETAIL, *SEMANTICS, *own]
    less = "disrupted samples have less detail at equal contrast"
    bands = [c for c in columns if c.startswith("amount ")]
    amounts = [Measure("amount", less, "below", -AMOUNT, False, UNIT)]
    amounts += [
        Measure(c, f"{less}, {c.removeprefix('amount ')} cycle per latent cell", "below", -AMOUNT, False, UNIT)
        for c in bands
    ]
    return [*amounts, *ALONE, *ALONE_SEMANTICS, *own]
