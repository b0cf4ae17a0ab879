"""Three seeds of a small model and a variant, from pictures to what holds across them: `make seeds`.

Data, VAE, training, export, claims, digest, page: each step is a command of `training/` or `evidence/`, and what is
done is kept, so that the same command goes on after a stop. Run folders, weights and whole results stay in `runs/`;
digests and training logs go into `evidence/results-seeds`, from which docs/evidence/seeds.md is written.

    python -m evidence.seeds --icons runs/icons     all of it, about an hour of one core
    python -m evidence.seeds --only small-1         one model
    python -m evidence.seeds --report               what is stored, what is missing, and the pages again
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer

from dg_tools.models.files import DEFAULT, ZOO
from dg_tools.report import rules
from evidence import across, report, run
from evidence.column import RESULTS, measure
from training import data, dit, export, vae
from training.recipe import Recipe, write_safely

SHARED = ("words.json", "references", "vae", "vae.jsonl", "latents.safetensors")  # all jobs have the same data


@dataclass(frozen=True)
class Job:
    """One training: a recipe (name or TOML file) and a seed."""

    recipe: str
    seed: int

    @property
    def name(self) -> str:
        return f"{Path(self.recipe).stem}-{self.seed}"


JOBS = (Job("small", 0), Job("small", 1), Job("small", 2), Job("small-medium", 0))


@dataclass(frozen=True)
class Chain:
    """The jobs and their places.

    Attributes:
        runs: run folders, weights and whole results. icons: where npm put the icons.
        take: the model folder whose VAE is used.
        digests: where they go. size: of the evidence.
    """

    jobs: tuple[Job, ...]
    runs: Path
    icons: Path
    take: Path
    digests: Path
    size: rules.Size = rules.SMALL

    @property
    def data(self) -> Path:
        """The run folder with the data of all jobs."""
        return self.runs / Path(self.jobs[0].recipe).stem

    def exported(self, job: Job) -> Path:
        return self.runs / "export" / job.name


def check(jobs: tuple[Job, ...]) -> None:
    """Raise SystemExit unless all recipes have the same data and VAE."""
    first, *others = [Recipe.load(job.recipe) for job in jobs]
    for other in others:
        if replace(other, name=first.name, dit=first.dit) != first:
            raise SystemExit(f"recipes {first.name} and {other.name} have other data or VAE; only [dit] may differ")


def prepare(chain: Chain) -> None:
    """Pictures and latents, once for all jobs."""
    recipe, folder = chain.jobs[0].recipe, chain.data
    if not (folder / "words.json").is_file():
        if importlib.util.find_spec("resvg_py") is None:
            raise SystemExit("drawing the pictures needs: pip install -r training/requirements.txt")
        data.main(recipe=recipe, icons=chain.icons, run=folder)
    if not (folder / "latents.safetensors").is_file():
        vae.main(recipe=recipe, run=folder, take=chain.take)


def state(run: Path) -> tuple[int, list[dict[str, Any]]]:
    """Steps done and the history of a run folder; (0, []) where no training was begun."""
    if not (run / "dit.pt").is_file():
        return 0, []
    checkpoint = torch.load(run / "dit.pt", weights_only=True, mmap=True)
    return checkpoint["step"], json.loads(checkpoint["history"])


def train(chain: Chain, job: Job) -> None:
    """Train to the recipe's last step, and export."""
    folder, settings = chain.runs / job.name, Recipe.load(job.recipe)
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        if (chain.data / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to(Path("..") / chain.data.name / name)
    if state(folder)[0] < settings.dit.steps:
        dit.main(recipe=job.recipe, run=folder, warm_start=None, minutes=None, compile=False, seed=job.seed)
    steps, history = state(folder)
    record = chain.exported(job) / "training.json"
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if (before.get("steps"), before.get("runs")) != (steps, history):
        export.main(recipe=job.recipe, run=folder, to=chain.exported(job), references=None)


def claims(chain: Chain, job: Job) -> None:
    """The evidence on one model, then the digest with the training's log beside it."""
    folder = chain.runs / "results"
    run.check_space(folder)
    record = measure(str(chain.exported(job)), chain.size, folder)
    settings, log = Recipe.load(job.recipe), chain.runs / job.name
    steps, history = state(log)
    last = json.loads((log / "validation.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    training = {
        "recipe": settings.name,
        "seed": job.seed,
        "steps": steps,
        "dual": settings.dit.dual_attention,
        "seconds": sum(r["seconds"] for r in history),
        "validation": {k: round(last[k], 4) for k in ("trained", "held_out")},
    }
    text = json.dumps(across.digest(job.name, record, training), indent=0, ensure_ascii=False)
    write_safely(chain.digests / f"{job.name}.json", lambda p: p.write_text(text + "\n", encoding="utf-8"))
    write_safely(chain.digests / f"{job.name}.csv", lambda p: shutil.copy(log / "outliers.csv", p))


def missing(chain: Chain) -> list[str]:
    """Sentences about jobs without a digest, or with one that lacks rows."""
    stored = {s.name: s for s in across.load(chain.digests)}
    sentences = []
    for job in chain.jobs:
        steps, total = state(chain.runs / job.name)[0], Recipe.load(job.recipe).dit.steps
        training = "trained" if steps >= total else f"trained to step {steps} of {total}" if steps else "not trained"
        if job.name not in stored:
            sentences.append(f"{job.name}: {training} in {chain.runs}, no digest stored")
        elif lacks := [claim.key for claim in rules.CHANNELS if claim.key not in stored[job.name].rows]:
            sentences.append(f"{job.name}: {training}, not measured: {', '.join(lacks)}")
    return sentences


def follow(chain: Chain, only: list[str]) -> None:
    """Every step that is not done yet, job by job."""
    check(chain.jobs)
    prepare(chain)
    for job in chain.jobs:
        if not only or job.name in only:
            if any(sentence.startswith(f"{job.name}:") for sentence in missing(chain)):
                train(chain, job)
                claims(chain, job)


def main(
    icons: Path = typer.Option(Path("runs/icons"), help="where `npm install --prefix` put the icon packages"),
    runs: Path = typer.Option(Path("runs"), help="run folders, weights and whole results"),
    take: Path = typer.Option(ZOO / DEFAULT, help="the model whose VAE is used"),
    only: list[str] = typer.Option([], help="models to make (default: all), such as small-1"),
    report_only: bool = typer.Option(False, "--report", help="only write the page, and say what is missing"),
) -> None:
    """Train, test the claims, report."""
    known = [job.name for job in JOBS]
    if wrong := [name for name in only if name not in known]:
        raise SystemExit(f"--only {', '.join(wrong)}: there are {', '.join(known)}")
    chain = Chain(JOBS, runs, icons, take, run.SEEDS)
    try:
        if not report_only:
            follow(chain, only)
    except KeyboardInterrupt:
        raise SystemExit("\nStopped. The same command goes on from here.") from None
    finally:
        for sentence in missing(chain):
            print(f"missing: {sentence}")
    report.write(RESULTS, chain.digests)
    print("EVIDENCE.md and its pages written")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("dg_tools").setLevel(logging.INFO)  # one line for each run that is kept
    typer.run(main)
