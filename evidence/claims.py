"""Which sentence is tested by which number?

The paper is arXiv 2510.11538; where a sentence is known from a note by a reader only, `section` says so. `part` is a
folder of results, `outcome` a name in it; the outcome carries effect, interval, the bound set beforehand, the control
in words, and its verdict. Every claim is worded as it is tested: where it fails, its opposite is not thereby shown.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "What the paper claims"
QUESTIONS = "What no source has settled"


@dataclass(frozen=True)
class Claim:
    """One row of the table.

    Attributes:
        text: the claim, as tested.
        source: `PAPER` or `QUESTIONS`.
        section: where it stands.
        part, outcome: what tests it.
    """

    text: str
    source: str
    section: str
    part: str
    outcome: str


CLAIMS: tuple[Claim, ...] = (
    Claim("Some channels are massive: one stands out from the median channel.", PAPER, "1", "subject", "stands out"),
    Claim("They are massive on every image token.", PAPER, "1", "tokens", "every token"),
    Claim("They have one sign.", PAPER, "1", "tokens", "one sign"),
    Claim("Their value is nearly constant over tokens.", PAPER, "1", "tokens", "constant"),
    Claim("They are massive in all layers.", PAPER, "1", "tokens", "all layers"),
)
