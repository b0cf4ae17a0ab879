"""Three seeds of a small model and a variant, from pictures to what holds across them: `make seeds`.

Data, VAE, training, export, claims, digest, page: each step is a command of `training/` or `evidence/`, and what is
done is kept, so that the same command goes on after a stop. Run folders, weights and whole results stay in `runs/`;
digests and training logs go into `evidence/results-seeds`, from which EVIDENCE.md is written.

    python -m evidence.seeds --icons runs/icons     all of it, about an hour of one core
    python -m evidence.seeds --only small-1         one model
    python -m evidence.seeds --report               what is stored, what is missing, and EVIDENCE.md again
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer

import dg_tools as dg
from dg_tools.experiments.result import open_result
from dg_tools.models.files import DEFAULT, ZOO
from evidence import across, report, run, store
from evidence.plan import Size, run_at
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
    """The jobs and their places: `runs` for weights and whole results, `places` for digests and the page.

    Attributes:
        icons: where npm put the icons; take: the model folder whose VAE is used.
        size: of the evidence; parts: of the plan, all of that size where empty.
    """

    jobs: tuple[Job, ...]
    runs: Path
    icons: Path
    take: Path
    places: run.Places
    size: Size = "seeds"
    parts: tuple[str, ...] = ()
    progress: bool = True

    @property
    def data(self) -> Path:
        """The run folder with the data of all jobs."""
        return self.runs / Path(self.jobs[0].recipe).stem

    def exported(self, job: Job) -> Path:
        return self.runs / "export" / job.name

    @property
    def part_names(self) -> list[str]:
        """Parts of the evidence."""
        return [p.name for p in run_at(self.size) if not self.parts or p.name in self.parts]


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
    """Every part of the evidence, then the digest with the training's log beside it."""
    own = run.Places(chain.size, chain.runs)
    store.check_space(own.results)
    model = dg.load(chain.exported(job))
    run.run_model(job.name, model, chain.size, own, only=chain.part_names, resume=True, progress=chain.progress)
    parts = {name: open_result(own.results / job.name / name) for name in ("subject", *chain.part_names)}
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
    record = across.digest(job.name, parts, training)
    text = json.dumps(record, indent=0, ensure_ascii=False)
    write_safely(chain.places.seeds / f"{job.name}.json", lambda p: p.write_text(text + "\n", encoding="utf-8"))
    write_safely(chain.places.seeds / f"{job.name}.csv", lambda p: shutil.copy(log / "outliers.csv", p))


def missing(chain: Chain) -> list[str]:
    """Sentences about jobs without a digest, or with one that lacks parts."""
    stored = {s.name: s.parts for s in across.load(chain.places.seeds)}
    sentences = []
    for job in chain.jobs:
        steps, total = state(chain.runs / job.name)[0], Recipe.load(job.recipe).dit.steps
        training = "trained" if steps >= total else f"trained to step {steps} of {total}" if steps else "not trained"
        lacks = [name for name in ("subject", *chain.part_names) if name not in stored.get(job.name, {})]
        if job.name not in stored:
            sentences.append(f"{job.name}: {training} in {chain.runs}, no claims stored")
        elif lacks:
            sentences.append(f"{job.name}: {training}, not run: {', '.join(lacks)}")
    return sentences


def follow(chain: Chain, only: list[str]) -> None:
    """Every step that is not done yet, job by job."""
    check(chain.jobs)
    prepare(chain)
    for job in chain.jobs:
        if not only or job.name in only:
            train(chain, job)
            claims(chain, job)


def main(
    icons: Path = typer.Option(Path("runs/icons"), help="where `npm install --prefix` put the icon packages"),
    runs: Path = typer.Option(Path("runs"), help="run folders, weights and whole results"),
    take: Path = typer.Option(ZOO / DEFAULT, help="the model whose VAE is used"),
    only: list[str] = typer.Option([], help="models to make (default: all), such as small-1"),
    report_only: bool = typer.Option(False, "--report", help="only write the page, and say what is missing"),
    progress: bool = typer.Option(True, help="show bars"),
) -> None:
    """Train, test the claims, report."""
    known = [job.name for job in JOBS]
    if wrong := [name for name in only if name not in known]:
        raise SystemExit(f"--only {', '.join(wrong)}: there are {', '.join(known)}")
    chain = Chain(JOBS, runs, icons, take, run.Places("full", None), progress=progress)
    try:
        if not report_only:
            follow(chain, only)
    except (KeyboardInterrupt, store.DiskFull) as stop:
        raise SystemExit(f"\nStopped ({stop or 'interrupted'}). The same command goes on from here.") from None
    finally:
        for sentence in missing(chain):
            print(f"missing: {sentence}")
    report.write(chain.places.results, chain.places.figures, chain.places.page, chain.places.seeds)
    print(f"{chain.places.page.name} written")


if __name__ == "__main__":
    typer.run(main)
