"""Recompute the evidence for every embedded model and write EVIDENCE.md.

    make evidence                   every embedded model; MODEL=name for one, QUICK=1 for a look in some minutes
    python -m evidence.run --resume after a run that was stopped: what is done with these weights and settings is kept
    python -m evidence.run --report EVIDENCE.md again from the stored results, nothing is run

A full run stores into `evidence/results`, `docs/evidence` and `EVIDENCE.md`; a quick one into `build/evidence`.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import typer

import dg_tools as dg
from dg_tools import experiments
from dg_tools.experiments.result import Result, open_result
from dg_tools.models.dit import DiT
from dg_tools.models.files import embedded
from dg_tools.models.provenance import weights_hash
from evidence import report, store
from evidence.plan import PLAN, SIZES, SUBJECT, Part, Size, doses, run_at
from evidence.splits import SEED, split
from evidence.subject import as_massive, find_subject

ROOT = Path(__file__).parents[1]


class Places:
    """Where a run stores: the repository for a full run, `build/evidence` (or a folder given) for any other."""

    def __init__(self, size: Size, out: Path | None) -> None:
        base = out or (None if size == "full" else ROOT / "build" / "evidence")
        self.results = base / "results" if base else ROOT / "evidence" / "results"
        self.figures = base / "figures" if base else ROOT / "docs" / "evidence"
        self.page = base / "EVIDENCE.md" if base else ROOT / "EVIDENCE.md"
        self.seeds = base / "results-seeds" if base else ROOT / "evidence" / "results-seeds"


def run_model(
    name: str, dit: DiT, size: Size, places: Places, *, only: list[str], resume: bool, progress: bool
) -> None:
    """Every part for one model, each stored as soon as it is done."""
    folder = places.results / name
    source = dg.references(dit)
    parts = split(source, SIZES[size])
    common = {"size": size, "weights": weights_hash(dit), "split_seed": SEED}
    make_subject = lambda: find_subject(  # noqa: E731
        dit, parts["detection"], parts["development"], source, **SUBJECT[size], progress=progress
    )
    subject = step(folder, places, "subject", make_subject, {**common, **SUBJECT[size]}, parts, resume)
    channels, block = subject.settings["channels"], subject.settings["block"]
    for part in run_at(size):
        if only and part.name not in only:
            continue
        settings = {**common, "channels": channels, "block": block, "split": part.split, **part.settings(size)}
        make = lambda part=part: run_part(part, dit, parts[part.split], subject, source.size, size, progress)  # noqa: E731
        step(folder, places, part.name, make, settings, parts, resume)


def run_part(
    part: Part, dit: DiT, pictures: list[Any], subject: Result, pixels: int, size: Size, progress: bool
) -> Result:
    """One experiment, on the channels and the block of the subject, at the size of the references (`pixels`)."""
    settings, massive = part.settings(size), as_massive(subject, dit)
    examples, seeds = pictures[: settings.pop("pictures")], list(range(settings.pop("seeds")))
    block = subject.settings["block"]
    if settings.pop("dose", False):
        settings["dose"] = doses(len(massive.channels), len(dit.blocks) - block)
    if part.experiment in ("tokens", "timestep", "origin"):  # the others take the size from the pictures
        settings |= {"height": pixels, "width": pixels}
    if part.experiment == "tokens":
        settings["onset"] = massive.onset
    if part.experiment == "guidance":
        settings["like"] = massive
    function = getattr(experiments, part.experiment)
    return function(dit, examples, seeds, channels=massive.channels, block=block, progress=progress, **settings)


def step(
    folder: Path, places: Places, name: str, make: Any, settings: dict[str, Any], parts: dict[str, list], resume: bool
) -> Result:
    """Run, mark with what made it, store, draw; or take what is there."""
    if resume and store.is_done(folder, name, settings):
        print(f"{folder.name} / {name}: kept from before", flush=True)
        return open_result(folder / name)
    began, cpu = time.perf_counter(), time.process_time()
    result = make()
    seconds, cpu = round(time.perf_counter() - began, 1), round(time.process_time() - cpu, 1)
    prompts = {key: [r.prompt for r in refs] for key, refs in parts.items() if key in ("detection", "development")}
    result.settings["evidence"] = {
        **settings,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "machine": store.machine(),
        "splits": {"seed": SEED, **prompts},
        "command": f"python -m evidence.run --model {folder.name} --only {name}",
    }
    store.save(result, folder, name)
    if name != "subject":
        store.save_figure(result.plot(), places.figures / folder.name / f"{name}.png")
    print(f"{folder.name} / {name}: {seconds:.0f} s ({cpu:.0f} s of CPU). {result.verdict}", flush=True)
    return result


def models(model: str | None) -> list[str]:
    """Names to run.

    Raises:
        SystemExit: no embedded model of that name, with those that there are.
    """
    names = embedded()
    if model and model not in names and not (Path(model) / "model_index.json").is_file():
        raise SystemExit(f"{model!r} is neither an embedded model nor a folder of one; there are {', '.join(names)}")
    return [model] if model else names


def main(
    model: str = typer.Option(None, help="one embedded model, or a folder that training.export wrote (default: all)"),
    size: str = typer.Option("full", help="full, quick, seeds or toy"),
    only: list[str] = typer.Option([], help="parts to run (default: all)"),
    resume: bool = typer.Option(False, help="keep what is done with the same weights and settings"),
    out: Path = typer.Option(None, help="store here instead"),
    report_only: bool = typer.Option(False, "--report", help="write the page from what is stored, run nothing"),
    progress: bool = typer.Option(True, help="show bars"),
) -> None:
    """Run, store and report."""
    if size not in SIZES:
        raise SystemExit(f"--size {size}: there are {', '.join(SIZES)}")
    known = ["subject", *(p.name for p in PLAN)]
    if wrong := [o for o in only if o not in known]:
        raise SystemExit(f"--only {', '.join(wrong)}: there are {', '.join(known)}")
    kind = cast(Size, size)
    places = Places(kind, out)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("the process was told to end"))
    began, names = time.perf_counter(), [] if report_only else models(model)
    try:
        if names:
            store.check_space(places.results)
        for name in names:
            dit = dg.load(name)
            run_model(Path(name).name, dit, kind, places, only=only, resume=resume, progress=progress)
    except (KeyboardInterrupt, SystemExit, store.DiskFull) as stop:
        parts = {p.name: store.stored(p) for p in sorted(places.results.glob("*")) if p.is_dir()}
        words = "; ".join(f"{m}: {', '.join(names)}" for m, names in parts.items() if names) or "nothing yet"
        raise SystemExit(f"\nStopped ({stop or 'interrupted'}). Stored: {words}. Go on with --resume.") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    report.write(places.results, places.figures, places.page, places.seeds)
    seconds = "" if report_only else f" in {time.perf_counter() - began:.0f} s"
    print(f"{places.page.name} written{seconds}: {places.page}")


if __name__ == "__main__":
    typer.run(main)
