"""Does every way to call a pipeline guide as a loop by hand does? Hundreds of draws of the tests' random walk.

Prints the seed, each draw that fails, and how many agreed, were refused in a sentence, or failed. The exit code is 1
where one failed or more than 15% were refused. `make test` has 50 draws with a fixed seed.

    python -m benchmarks.walk 300
    python -m benchmarks.walk 300 1234
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFUSED = 0.15  # of the draws, at most


def outcome(way: object) -> tuple[str, str]:
    """`agreed`, `refused` or `failed`, and why."""
    from walk import walk

    try:
        refused, error = walk(way)
    except Exception as problem:  # a draw that raises anything but a refusal has failed; the others go on
        return "failed", f"{type(problem).__name__}: {problem}"
    if refused:
        return "refused", refused
    return ("agreed" if error < 1 else "failed"), f"differs by {error:.2g} of what is allowed"


def main(draws: int, seed: int) -> int:
    """Draw, print, and give the exit code."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "models")]
    from draws import draw

    print(f"random walk: {draws} draws, seed {seed}", flush=True)
    began = time.perf_counter()
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for i in range(draws):
        way = draw(chance)
        result, why = outcome(way)
        counts[result] += 1
        if result == "refused":
            reasons[why] += 1
        if result == "failed":
            print(f"draw {i} failed, {why}\n  {way}", flush=True)
    for why, count in reasons.most_common():
        print(f"refused {count} times: {why}")
    summary = ", ".join(f"{counts[name]} {name}" for name in ("agreed", "refused", "failed"))
    print(f"{summary}, in {time.perf_counter() - began:.0f} s")
    return int(counts["failed"] > 0 or counts["refused"] > REFUSED * draws)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(numbers[0] if numbers else 300, numbers[1] if len(numbers) > 1 else random.randrange(10**6)))
