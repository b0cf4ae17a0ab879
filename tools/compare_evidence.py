"""Compare two folders of evidence results, file by file: is everything but the time that it took the same?

python -m tools.compare_evidence before/results build/evidence/results
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

TIMES = {"seconds", "cpu_seconds"}  # of a run, not of its result


def without_times(value: Any) -> Any:
    """JSON without how long things took."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def same(before: Path, after: Path) -> bool:
    """Whether two files hold the same result: JSON but for times, anything else byte by byte."""
    if before.suffix != ".json":
        return before.read_bytes() == after.read_bytes()
    return without_times(json.loads(before.read_bytes())) == without_times(json.loads(after.read_bytes()))


def differences(before: Path, after: Path, only: str = "") -> list[str]:
    """What differs, one line per file; empty where all is the same.

    Args:
        before, after: folders of results.
        only: a folder below both to look at, such as a model's name.

    Raises:
        FileNotFoundError: there is nothing to compare.
    """
    files = [{p.relative_to(f) for p in (f / only).rglob("*") if p.is_file()} for f in (before, after)]
    if not files[0]:
        raise FileNotFoundError(f"no results in {before / only}")
    missing = [f"only in {before}: {p}" for p in sorted(files[0] - files[1])]
    missing += [f"only in {after}: {p}" for p in sorted(files[1] - files[0])]
    shared = sorted(files[0] & files[1])
    return missing + [f"differs: {p}" for p in shared if not same(before / p, after / p)]


def main() -> None:
    """Print what differs; exit code 1 where something does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a folder of results")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--only", default="", help="one model's name")
    arguments = parser.parse_args()
    lines = differences(arguments.before, arguments.after, arguments.only)
    print("\n".join(lines) or "equal but for the time they took")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
