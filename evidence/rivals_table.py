"""What buys detail, and at what price? Every guidance with the same search budget, on captions that chose nothing.

    python -m evidence.rivals_table --model emoji-sd3     one model: a forecast, then about ten minutes of two cores
    python -m evidence.rivals_table --report              the page and the short table again, nothing is run

`experiments.rivals` does it, in two processes, each with half of the guidances. Each run is kept as soon as it is done:
stopped, the same call goes on. Strengths are
searched on development captions, results are on captions held out of the model's training, and none of them chose the
model's profile. `evidence.rivals_page` writes the page, and the short table in docs/baselines.md.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

import dg_tools as dg
from dg_tools.datasets.references import Reference, References
from dg_tools.experiments import rivals
from dg_tools.experiments.rivals_plan import SCALES, WEIGHTS, methods
from dg_tools.experiments.rivals_runs import Bench
from dg_tools.experiments.subject import profile_edit
from dg_tools.guidance.auto import default_profile
from dg_tools.models.dit import DiT
from dg_tools.report import rules
from dg_tools.report.splits import Sizes, split
from dg_tools.threads import one_thread_if_small
from evidence import rivals_page as page

FOLDER = Path(__file__).parent / "results-rivals"
MODELS = ("emoji-sd3", "emoji-flux", "emoji-sd3-planted")
STEPS = 10
SEED = 700  # of the noise
BATCH = 12
PROCESSES = 2
SHARE = 0.4  # of the guidances, in the first process, which has the controls too
SIZES: dict[str, dict[str, Any]] = {
    "full": {"search": 12, "test": 48, "values": 5, "controls": 39, "control_prompts": 12},
    "toy": {"search": 2, "test": 3, "values": 2, "controls": 2, "control_prompts": 2},
}


def captions(source: References, sizes: Sizes, chosen_on: Any, size: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The captions to search on, and those to report on; none on which the profile was chosen."""
    parts = split(source, sizes)
    left: dict[str, list[Reference]] = {
        name: [r for r in part if r.prompt not in set(chosen_on)] for name, part in parts.items()
    }
    return left["development"][: size["search"]], left["held_out"][: size["test"]]


def spread(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """So many of the values, the weakest and the strongest among them where there are two or more."""
    places = [round(i * (len(values) - 1) / max(count - 1, 1)) for i in range(count)]
    return tuple(values[i] for i in places)


def forecast(dit: DiT, before: list[Any], after: list[Any], size: dict[str, Any], steps: int) -> float:
    """Seconds that the whole takes, from one run of two pictures."""
    with one_thread_if_small(dit.transformer):
        bench = Bench(dit, before[:2], [SEED], steps=steps, batch=2, folder=None)
        bench.measured()  # the first run warms up
        begin = time.perf_counter()
        bench.measured()
        each = (time.perf_counter() - begin) / 2
    edit, middle = profile_edit(dit), [len(dit.blocks) // 2]
    shape = (bench.samples.height, bench.samples.width)
    tried, _ = methods(dit, edit, None, middle, WEIGHTS, SCALES, steps, shape)
    price = sum(method.price for method in tried)
    pictures = price * (size["values"] * len(before) + len(after)) + len(before) + len(after)
    return each * (pictures + 2 * size["controls"] * size["control_prompts"]) / PROCESSES


def measure(dit: DiT, folder: Path, size: dict[str, Any], sizes: Sizes, steps: int = STEPS, half: int = -1) -> None:
    """The result of one model, saved in `folder`; what is kept there is not run again.

    Args:
        dit: the model.
        folder: where; `kept` and `kept-1` in it hold what is done, until all is.
        size: of `SIZES`.
        sizes: of the split of the captions.
        steps: of a run.
        half: 0 or 1: half of the guidances only, and no result; -1: all, with what both halves kept.
    """
    profile = default_profile(dit) or {}
    source = dg.references(dit)
    before, after = captions(source, sizes, profile.get("prompts", ()), size)
    names = None
    if half < 0:
        join(folder)
    else:
        shape, middle = dit.size(source.size, source.size), [len(dit.blocks) // 2]
        every = [m.name for m in methods(dit, profile_edit(dit), None, middle, WEIGHTS, SCALES, steps, shape)[0]]
        first = round(SHARE * len(every))
        names = every[first:] if half else every[:first]
    result = rivals(
        dit,
        after,
        [SEED],
        names=names,
        search=before,
        weights=spread(WEIGHTS, size["values"]),
        scales=spread(SCALES, size["values"]),
        steps=steps,
        batch=BATCH,
        controls=size["controls"],
        control_prompts=size["control_prompts"],
        kept=folder / (f"kept-{half}" if half > 0 else "kept"),
    )
    if half >= 0:
        return
    result.save(folder)
    result.plot().savefig(folder / page.FIGURE, dpi=110)
    for number in range(PROCESSES):
        shutil.rmtree(folder / (f"kept-{number}" if number else "kept"), ignore_errors=True)


def join(folder: Path) -> None:
    """Put what the other processes kept into the first one's journal, where it is of the same settings."""
    file = folder / "kept" / "journal.json"
    for number in range(1, PROCESSES):
        other = folder / f"kept-{number}" / "journal.json"
        if not other.is_file():
            continue
        theirs = json.loads(other.read_text(encoding="utf-8"))
        own = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else theirs
        if own["settings"] == theirs["settings"]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({**theirs, **own}), encoding="utf-8")


@contextmanager
def second_process(command: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A process beside this one. It is waited for at the end; after an error, Ctrl-C or SIGTERM it is ended too."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)  # as an exception, so that what is open is closed

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with subprocess.Popen(command) as other:
            try:
                yield other
                other.wait()
            finally:
                other.terminate()  # does nothing to one that has ended
    finally:
        signal.signal(signal.SIGTERM, before)


def in_two(dit: DiT, name: str, folder: Path, size: str) -> None:
    """Both halves of the guidances at once, the second one in a process of its own; then the result."""
    command = [
        sys.executable,
        "-m",
        "evidence.rivals_table",
        "--model",
        name,
        "--size",
        size,
        "--out",
        str(folder.parent),
    ]
    with second_process([*command, "--half", "1"]):
        measure(dit, folder, SIZES[size], rules.FULL.splits, half=0)
    measure(dit, folder, SIZES[size], rules.FULL.splits)  # what the other process could not do is done here


def main(
    model: str = typer.Option(None, help=f"one of {', '.join(MODELS)}, or a folder (default: all three)"),
    size: str = typer.Option("full", help=", ".join(SIZES)),
    out: Path = typer.Option(FOLDER, help="where the numbers and the page are"),
    report: bool = typer.Option(False, help="make the page and the short table of what is kept, run nothing"),
    half: int = typer.Option(-1, hidden=True, help="of the guidances, for a process of its own"),
) -> None:
    """Forecast, run, keep, and write the page."""
    if size not in SIZES:
        raise SystemExit(f"--size {size}: there are {', '.join(SIZES)}")
    own = SIZES[size]
    if half >= 0:
        measure(dg.load(model), out / Path(model).name, own, rules.FULL.splits, half=half)
        return
    for name in () if report else [model] if model else MODELS:
        dit = dg.load(name)
        profile = default_profile(dit) or {}
        before, after = captions(dg.references(dit), rules.FULL.splits, profile.get("prompts", ()), own)
        seconds = forecast(dit, before, after, own, STEPS)
        print(f"{name}: {len(before)} captions to search on, {len(after)} to report on, about {seconds / 60:.0f} min")
        begin = time.perf_counter()
        in_two(dit, name, out / Path(name).name, size)
        print(f"{name}: {(time.perf_counter() - begin) / 60:.1f} min")
    page.write(out)
    if out == FOLDER:
        page.write_short(out)


if __name__ == "__main__":
    typer.run(main)
