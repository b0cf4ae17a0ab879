"""Recompute the evidence, column by column, and write EVIDENCE.md and its pages.

    make evidence                        all columns; MODEL=name for one, QUICK=1 for a look in some minutes
    python -m evidence.run --report      the pages again from what is kept, nothing is run

The models and the planted one run at size `full`, the null at `small`, into `evidence/results`; a quick run goes into
`build/evidence`.
Each run is kept as soon as it is done: stopped, the same command goes on.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import typer

from dg_tools.report import rules
from evidence import report
from evidence.column import RESULTS, measure
from evidence.columns import NULL, names

SEEDS = Path(__file__).parent / "results-seeds"
LEAST_FREE = 20 * 2**20  # bytes on the disk, checked before any work


def chosen(model: str | None) -> list[str]:
    """Columns to run.

    Raises:
        SystemExit: an unknown name, with those that there are.
    """
    known = names()
    if model and model not in known and not (Path(model) / "model_index.json").is_file():
        raise SystemExit(f"{model!r} is neither a column nor a model's folder; there are {', '.join(known)}")
    return [model] if model else known


def size_of(name: str, size: str) -> rules.Size:
    """The size that a column runs at.

    Raises:
        SystemExit: an unknown size.
    """
    if size not in rules.SIZES:
        raise SystemExit(f"--size {size}: there are {', '.join(rules.SIZES)}")
    return rules.SIZES["small" if size == "full" and name == NULL else size]


def check_space(folder: Path) -> None:
    """Raise SystemExit before any work where there is too little room for the results."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE:
        raise SystemExit(
            f"{free / 2**20:.0f} MiB are free for {folder}; {LEAST_FREE / 2**20:.0f} are needed: nothing was run, free "
            "some space and start again"
        )


def main(
    model: str = typer.Option(None, help="one column, or a folder that training.export wrote (default: all)"),
    size: str = typer.Option("full", help=", ".join(rules.SIZES)),
    out: Path = typer.Option(None, help="store here instead"),
    report_only: bool = typer.Option(False, "--report", help="write the pages from what is kept, run nothing"),
) -> None:
    """Run, keep and report."""
    base = out or (None if size in ("full", "small") else report.ROOT / "build" / "evidence")
    results, root = (base / "results", base) if base else (RESULTS, report.ROOT)
    began, done = time.perf_counter(), []
    try:
        for name in () if report_only else chosen(model):
            own = size_of(name, size)
            check_space(results)
            measure(name, own, results)
            done.append(name)
    except KeyboardInterrupt:
        raise SystemExit(
            f"\nStopped. Whole: {', '.join(done) or 'none'}. The same command goes on from here."
        ) from None
    report.write(results, SEEDS, root)
    print(f"{root / 'EVIDENCE.md'} written in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("dg_tools").setLevel(logging.INFO)  # one line for each run that is kept
    typer.run(main)
