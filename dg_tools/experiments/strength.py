"""How strong must a control be to change as much as the edit? It is searched, because a model's response is not linear.

Bracketing and secant steps in the logarithm, one batched forward each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

TRIES = 40  # forwards for one control


def solve(
    change: Callable[[float], float], target: float, tolerance: float, largest: float, start: float = 1.0
) -> tuple[float, float]:
    """(strength, change there) with the change nearest to `target`; the caller judges whether it is near enough.

    Secant steps in the logarithm of both, kept inside the bracket once there is one. `change` rises with the strength
    at first, and is about linear where it is small; the first step supposes that it is.
    """
    points: list[tuple[float, float]] = []  # log strength, log (change / target)
    best, strength = (start, -math.inf), start
    for _ in range(TRIES):
        value = change(strength)
        if abs(value - target) < abs(best[1] - target):
            best = strength, value
        if abs(value - target) <= tolerance * target / 2:  # a margin, so that a repetition in another batch passes too
            break
        points.append((math.log(strength), math.log(max(value, 1e-12 * target) / target)))
        below = max((x for x, y in points if y < 0), default=None)
        above = min((x for x, y in points if y > 0 and (below is None or x > below)), default=None)
        if (above is None and strength >= largest) or (
            above is not None and below is not None and above - below < 1e-9
        ):
            break
        guess = points[-1][0] - points[-1][1] / slope(points)
        if above is not None and below is not None:
            margin = 0.05 * (above - below)
            guess = guess if below + margin <= guess <= above - margin else (below + above) / 2
        else:
            guess = min(max(guess, points[-1][0] - 2), points[-1][0] + 2)  # a factor of 7 at most
        strength = min(math.exp(guess), largest)
    return best


def slope(points: list[tuple[float, float]]) -> float:
    """Of the last two points; 1 where there is one, and kept within what a model's answer can be."""
    if len(points) < 2:
        return 1.0
    (x0, y0), (x1, y1) = points[-2:]
    return min(max((y1 - y0) / (x1 - x0), 0.2), 3.0) if x0 != x1 else 1.0
