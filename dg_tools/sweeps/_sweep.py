"""Run a sweep: plan, run the missing cells, choose, run the choice on the test prompts, report."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dg_tools.generation.sampling import run
from dg_tools.metrics import describe
from dg_tools.metrics.bands import Bands
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures, spatial
from dg_tools.models.profiles import write_profile
from dg_tools.paths import check_folder
from dg_tools.progress import progress_bar
from dg_tools.sweeps.cells import Cell, read_cell, write, write_cell, write_json
from dg_tools.sweeps.choose import OBJECTIVES, best, profile_of, recommendation, verdict
from dg_tools.sweeps.config import Config, read_config
from dg_tools.sweeps.parallel import Workers
from dg_tools.sweeps.plan import Plan, plan_of
from dg_tools.sweeps.result import CHOSEN, PLAN, PROFILE, TABLE, Sweep, open_sweep

logger = logging.getLogger("dg_tools")

MEASURES = [
    "high_power",
    "high_correlation",
    "low_correlation",
    "detail_share",
    "contrast",
    "normalised_laplacian_variance",
    "flat_noise",
]


def sweep(config: Any, dit: DiT | None = None, *, progress: bool = True) -> Sweep:
    """Measure every setting, choose one by the stated objective, and report it on other prompts.

    Each cell is written as soon as it is done. Started again, a sweep runs only what is missing; a changed config runs
    only the cells that are new. Under `accelerate launch` the processes share the cells. Run one sweep at a time in a
    folder.

    Args:
        config: a `Config`, a mapping of its settings, or a YAML file.
        dit: the model; None: the config's.
        progress: show a bar.

    Returns:
        The folder as a `Sweep`: `.table`, `.scores`, `.chosen`, `.report`, `.profile`, `.plot()`.

    Raises:
        ValueError, IndexError, FileNotFoundError: before any forward, for a config that does not fit this model, or a
            folder with another model's sweep.
        OSError: a full disk; finished cells stay.
        ChildProcessError: another process of this run stopped; finished cells stay.
        KeyboardInterrupt: Ctrl-C; the message says how many cells are kept.

    Example:
        >>> config = {"folder": "sweep", "blocks": [3, 6], "detail_guidance_scales": [0.5], "baselines": []}
        >>> made = dg.sweep({**config, "references": 4, "steps": 1}, dit, progress=False)
        >>> made.scores[["guidance", "block", "w", "pictures"]]
          guidance  block    w  pictures
        0     cond    NaN  0.0         2
        1       DG    3.0  0.5         2
        2       DG    6.0  0.5         2
    """
    given = read_config(config)
    before = begun(Path(given.folder))
    settings = as_before(given, before)
    workers = Workers()
    if dit is None:
        device = workers.device or settings.device
        dit = load(settings.model, device=device, dtype=settings.dtype, offload=settings.offload)
    per_pixel = before is not None and before.cell is None
    if per_pixel:
        logger.warning(
            "%s was started with bands per pixel, and continues with them: name another folder for bands per "
            "latent cell",
            settings.folder,
        )
    plan, truths = plan_of(settings, dit, per_pixel=per_pixel)
    folder = Path(settings.folder)
    check_sweep(folder, plan, before)
    if workers.rank == 0:
        write_json(folder / PLAN, plan.to_json())
    job = Job(dit, plan, truths, folder, workers, progress)
    job.do(plan.cells("development"), "development")
    numbers = best(Sweep(folder, plan).scores)
    job.do(plan.cells("test", sorted(n for n in numbers.values() if n is not None)), "test")
    if workers.rank == 0:
        write_choice(Sweep(folder, plan))
    workers.meet("writing the choice")
    return open_sweep(folder)


def begun(folder: Path) -> Plan | None:
    """The plan of the sweep in a folder; None if there is none, or if it is damaged, which is logged."""
    if not (folder / PLAN).is_file():
        return None
    try:
        return open_sweep(folder).plan
    except ValueError as error:
        logger.warning("%s", error)
        return None


def as_before(config: Config, before: Plan | None) -> Config:
    """The config; if it has no channels, with the channels and doses of the sweep begun `before`.

    The model's profile, which they came from, may have changed since.
    """
    if config.channels is not None or before is None:
        return config
    doses = [s for s in before.settings if s.guidance == "DG"]
    rhos = [rho for rho in dict.fromkeys(s.rho for s in doses) if rho is not None]
    return replace(config, channels=list(dict.fromkeys(s.channels for s in doses)), rhos=config.rhos or rhos or None)


def check_sweep(folder: Path, plan: Plan, before: Plan | None) -> None:
    """Raise for a folder that holds the sweep of other weights, begun `before`, or that is a file."""
    check_folder(folder, "a folder for the sweep's cells is needed")
    if before is not None and before.provenance["weights"] != plan.provenance["weights"]:
        raise ValueError(
            f"{folder} holds a sweep of {before.provenance['model']} with other weights: name another folder"
        )


@dataclass
class Job:
    """This process's part of a sweep."""

    dit: DiT
    plan: Plan
    truths: dict[str, torch.Tensor]
    folder: Path
    workers: Workers
    progress: bool

    def do(self, cells: list[Cell], split: str) -> None:
        """Run the missing cells among these, shared among the processes; return when all are done."""
        missing = self.missing(cells)
        done = len(cells) - len(missing)
        self.workers.meet("looking for cells")
        progress = self.progress and self.workers.rank == 0
        if progress and missing and done:
            print(f"{done} of {len(cells)} {split} cells are there; {len(missing)} to do", flush=True)
        mine = self.workers.share(missing)
        bar = progress_bar(progress, total=len(cells), initial=done, desc=f"sweep: {split}", unit="cell")
        try:
            for i, cell in enumerate(mine):
                self.make(cell)
                bar.update(min(self.workers.count, len(missing) - i * self.workers.count))
        except KeyboardInterrupt:
            earlier = sum(read_cell(self.folder, c) is not None for c in cells)
            raise KeyboardInterrupt(
                f"interrupted: {earlier} of {len(cells)} {split} cells are kept in {self.folder}; start the same sweep "
                "again to go on"
            ) from None
        finally:
            bar.close()
        self.workers.meet(f"doing {split} cells")
        if missing := self.missing(cells):
            raise ChildProcessError(
                f"{len(missing)} of {len(cells)} {split} cells are missing, such as {missing[0].setting}: start the "
                "same sweep again, it does them and nothing else"
            )

    def missing(self, cells: list[Cell]) -> list[Cell]:
        """Those of these cells that are not done."""
        return [c for c in cells if read_cell(self.folder, c, self.plan.pictures) is None]

    def make(self, cell: Cell) -> None:
        """Run one cell: sample, measure, write."""
        fixed = json.loads(cell.fixed)
        prompts, seeds = [p for p, _ in cell.pairs], [s for _, s in cell.pairs]
        began = time.perf_counter()
        raw, count = run(
            self.dit,
            prompts,
            guidance=cell.setting.guider(),
            seed=seeds,
            steps=fixed["steps"],
            height=fixed["height"],
            width=fixed["width"],
            negative_prompt=fixed["negative_prompt"] or None,
            **fixed["call"],
        )
        latents = spatial(self.dit, raw, fixed["height"], fixed["width"])
        samples = pictures(self.dit, latents)
        truth = torch.stack([self.truths[p] for p in prompts]) if self.truths else None
        rows = measured(samples, truth, self.plan.bands)
        cost = {
            "block_calls": count.block_calls / len(prompts),
            "forwards": count.forwards / len(prompts),
            "seconds": (time.perf_counter() - began) / len(prompts),
        }
        images = None
        if self.plan.pictures:
            pixels = ((samples.nan_to_num(-1.0) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            images = [Image.fromarray(p) for p in pixels]
        write_cell(self.folder, cell, rows, cost, images, self.workers.rank)


def measured(pictures: torch.Tensor, truth: torch.Tensor | None, bands: Bands) -> list[dict[str, float]]:
    """One row per picture (N, 3, H, W) in [-1, 1]; `amount` and correlations against the truth where there is one."""
    values = {k: v.double() for k, v in describe(pictures, truth, bands).items() if k in MEASURES}
    values["detail_lack"] = -values["detail_share"].clamp_min(1e-12).log2()
    if truth is not None:
        true_power = describe(truth, bands=bands)["high_power"].double()
        values["amount"] = (values["high_power"].clamp_min(1e-12) / true_power.clamp_min(1e-12)).log2()
        values["amount_error"] = values["amount"].abs()
    return [{name: float(of_all[i]) for name, of_all in values.items()} for i in range(len(pictures))]


def write_choice(result: Sweep) -> None:
    """Write the table, the choice with its report, and the profile of the chosen Detail Guidance."""
    plan, report = result.plan, result.report
    write(result.folder / TABLE, lambda file: file.write(result.table.to_csv(index=False).encode()))
    choice = result.chosen.get("DG")
    words = recommendation(choice, report)
    rule = OBJECTIVES[plan.objective].words.format(margin=plan.margin)
    write_json(
        result.folder / CHOSEN,
        {
            "recommended": words,
            "verdict": verdict(report),
            "objective": rule,
            "chosen": {g: None if s is None else s.to_json() for g, s in result.chosen.items()},
            "settings_of_each": {g: int(n) for g, n in result.scores["guidance"].value_counts().items()},
            "test": report.to_dict("records"),
            "provenance": plan.provenance,
        },
    )
    if choice is None:
        (result.folder / PROFILE).unlink(missing_ok=True)
        logger.warning("%s (%s): no profile is written", words, rule)
        return
    counts = {split: len({p for p, _ in pairs}) for split, pairs in plan.pairs.items()}
    fixed = json.loads(plan.fixed)
    about = {**counts, "model": plan.provenance["model"], "weights": fixed["weights"], "steps": fixed["steps"]}
    profile = profile_of(choice, result.scores, report, plan.objective, plan.margin, about)
    write_profile(result.folder / PROFILE, profile)
