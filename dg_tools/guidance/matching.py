"""How much of c is in the weak prediction d, and what is left of c - d without it?

Along c and across it: d = g c + d_across, with g = <c, d> / <c, c> for each row. A weak model with g = 0.85 makes
c + w (c - d) louder, (1 + w (1 - g)) c, whatever else it lacks. `match` says which part of c - d guides:

    none        d' = d                c - d' = (1 - g) c - d_across    all of it: the paper's form
    gain        d' = d / g            c - d' = - d_across / g          no gain; d brought to c's loudness
    orthogonal  d' = d + (1 - g) c    c - d' = - d_across              no gain
    parallel    d' = g c              c - d' = (1 - g) c               the gain alone

Together, `parallel` and `orthogonal` add to c what `none` adds.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from dg_tools.metrics.loudness import row_gain

Match = Literal["none", "gain", "orthogonal", "parallel"]
LEAST_GAIN = 0.1  # less of c in d: d / g is then mostly what d shares with nothing


def matched(cond: torch.Tensor, degraded: torch.Tensor, match: Match) -> torch.Tensor:
    """The weak prediction d' that replaces d, by the table above; for `none` it is d itself.

    Args:
        cond, degraded: the predictions c and d, (rows, ...), of one shape.
        match: which part of c - d guides.

    Raises:
        RuntimeError: `gain`, but g is 0.1 or less in a row: d has almost nothing of c.
    """
    if match == "none":
        return degraded
    share = row_gain(cond, degraded)
    if match == "gain":
        if not bool((share > LEAST_GAIN).all()):  # NaN too
            raise RuntimeError(
                f"match='gain' divides d by its gain g = <c, d> / <c, c>, which is {share.min().item():.3g} "
                f"in one row; more than {LEAST_GAIN} is needed: take a smaller dose, or another block"
            )
        other = degraded / share
    elif match == "parallel":
        other = share * cond
    else:
        other = degraded + (1 - share) * cond
    return other.to(cond.dtype)


def check_match(match: str) -> Match:
    """The given way to match, if it is a known one.

    Raises:
        ValueError: an unknown way; the message lists the known ones.
    """
    for known in get_args(Match):
        if match == known:
            return known
    raise ValueError(f"match={match!r}; allowed: {', '.join(get_args(Match))}")
