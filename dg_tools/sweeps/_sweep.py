"""The sweep itself: plan, do the cells that are missing, choose, do the chosen ones on the test prompts, report."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dg_tools.datasets.references import references
from dg_tools.generation.sampling import run
from dg_tools.metrics import describe
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode, spatial
from dg_tools.models.provenance import provenance
from dg_tools.progress import progress_bar
from dg_tools.sweeps.cells import Cell, read_cell, write, write_cell, write_json
from dg_tools.sweeps.choose import OBJECTIVES, best, profile_of, verdict
from dg_tools.sweeps.config import Config, read_config
from dg_tools.sweeps.parallel import Workers
from dg_tools.sweeps.result import CHOSEN, PLAN, PROFILE, TABLE, Plan, Sweep, open_sweep
from dg_tools.sweeps.settings import settings_of

logger = logging.getLogger("dg_tools")

MEASURES = [
    "high_power", "high_correlation", "low_correlation", "detail_share", "contrast", "normalised_laplacian_variance",
    "flat_noise",
]  # fmt: skip


def sweep(config: Any, dit: DiT | None = None, *, progress: bool = True) -> Sweep:
    """Measure every setting, choose by the stated objective, and tell the choice on other prompts.

    Each cell is written as soon as it is done. Started again, after whatever stopped it, a sweep does what is missing
    and nothing else; a changed config makes only the cells that are new. Under `accelerate launch` the processes share
    the cells. One sweep at a time in a folder.

    Args:
        config: a `Config`, a mapping of its settings, or a YAML file.
        dit: the model; None: the config's.
        progress: show a bar.

    Returns:
        The folder as a `Sweep`: `.table`, `.scores`, `.chosen`, `.report`, `.profile`, `.plot()`.

    Raises:
        ValueError, IndexError, FileNotFoundError: before any forward, for a config that this model cannot take, or a
            folder that holds another model's sweep.
        OSError: a full disk; finished cells stay.
        ChildProcessError: another process of this run stopped; finished cells stay.
        KeyboardInterrupt: Ctrl-C; says how many cells are kept.
    """
    asked = read_config(config)
    workers = Workers()
    if dit is None:
        dit = load(asked.model, device=workers.device or asked.device)
    plan, truths = plan_of(asked, dit)
    folder = Path(asked.folder)
    check_folder(folder, plan)
    if workers.rank == 0:
        write_json(folder / PLAN, plan.to_json())
    job = Job(dit, plan, truths, folder, workers, progress)
    job.do(plan.cells("development"), "development")
    numbers = best(Sweep(folder, plan).scores)
    job.do(plan.cells("test", sorted(n for n in numbers.values() if n is not None)), "test")
    if workers.rank == 0:
        tell(Sweep(folder, plan))
    workers.meet("telling")
    return open_sweep(folder)


def plan_of(config: Config, dit: DiT) -> tuple[Plan, dict[str, torch.Tensor]]:
    """The cells of a config on a model, and each prompt's reference picture (3, H, W) in [-1, 1].

    Raises:
        ValueError: too few prompts, repeated ones, pictures of another size or of some prompts only, an objective that
            cannot be measured.
    """
    words, truths = prompts_of(config, dit)
    if len(set(words)) < len(words):
        raise ValueError("prompts are there twice: pass each once, with several seeds")
    count = max(1, round(config.development * len(words)))
    if len(words) - count < 2:
        raise ValueError(
            f"{len(words)} prompts, {count} of them for development: at least 2 must be left to report on with an "
            "interval; give more prompts"
        )
    order = np.random.default_rng(config.split_seed).permutation(len(words))
    parts = {"development": sorted(order[:count].tolist()), "test": sorted(order[count:].tolist())}
    pairs = {split: [(words[i], int(s)) for i in part for s in config.seeds] for split, part in parts.items()}
    objective = config.objective or ("amount" if truths else "detail")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown; there are {', '.join(OBJECTIVES)}")
    if objective == "amount" and not truths:
        raise ValueError("objective 'amount' needs references: give references: N, or prompts with a picture each")
    if objective == "detail" and not config.pictures:
        raise ValueError("objective 'detail' compares kept pictures: leave pictures: true")
    if truths and (size := next(iter(truths.values())).shape[-2:]):
        height, width = dit.size(config.height or size[0], config.width or size[1])
        if (height, width) != tuple(size):
            raise ValueError(f"the references are {tuple(size)}; pictures of {height} x {width} cannot be compared")
    else:
        height, width = dit.size(config.height, config.width)
    steps = dit.default_steps if config.steps is None else config.steps
    about = provenance(dit)
    fixed = {
        "weights": about["weights"], "dtype": about["dtype"], "device": dit.device.type, "steps": steps,
        "height": height, "width": width, "negative_prompt": config.negative_prompt, "call": config.call,
    }  # fmt: skip
    hashes = {w: hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16] for w, t in truths.items()}
    margin = OBJECTIVES[objective].margin if config.margin is None else config.margin
    made = Plan(
        tuple(settings_of(config, dit)), pairs, hashes, json.dumps(fixed, sort_keys=True), config.batch, objective,
        margin, config.pictures, config.to_json(), about,
    )  # fmt: skip
    return made, truths


def prompts_of(config: Config, dit: DiT) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Prompts, and their pictures where there are any."""
    if config.references is not None:
        known = references(dit)
        picked = known.sample(config.references, seed=config.reference_seed, held_out=config.held_out)
        return [r.prompt for r in picked], {r.prompt: known.picture(r) for r in picked}
    words, truths = [], {}
    for item in config.prompts or ():
        if isinstance(item, str):
            words.append(item)
        elif isinstance(item, dict) and set(item) == {"prompt", "picture"}:
            words.append(item["prompt"])
            array = np.array(Image.open(item["picture"]).convert("RGB"), np.float32)
            truths[item["prompt"]] = torch.from_numpy(array).permute(2, 0, 1).contiguous() / 127.5 - 1
        else:
            raise ValueError(f"prompt {item!r}: a string, or a mapping of prompt and picture, is needed")
    if truths and len(truths) < len(words):
        raise ValueError(f"{len(truths)} of {len(words)} prompts have a picture: give all of them one, or none")
    if len({t.shape for t in truths.values()}) > 1:
        raise ValueError("the pictures of the prompts are not of one size")
    return words, truths


def check_folder(folder: Path, plan: Plan) -> None:
    """Raise for a folder that holds the sweep of other weights, or is none."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a folder for the sweep's cells is needed")
    if not (folder / PLAN).is_file():
        return
    try:
        before = open_sweep(folder).plan
    except ValueError as error:
        logger.warning("%s", error)
        return
    if before.provenance["weights"] != plan.provenance["weights"]:
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
        """The missing ones of these cells, shared among the processes; back when all of them are there."""
        missing = [c for c in cells if read_cell(self.folder, c, self.plan.pictures) is None]
        self.workers.meet("looking for cells")
        if self.progress and self.workers.rank == 0 and 0 < len(missing) < len(cells):
            there = len(cells) - len(missing)
            print(f"{there} of {len(cells)} {split} cells are there; {len(missing)} to do", flush=True)
        mine = self.workers.share(missing)
        bar = progress_bar(
            self.progress and self.workers.rank == 0, total=len(cells), initial=len(cells) - len(missing),
            desc=f"sweep: {split}", unit="cell",
        )  # fmt: skip
        try:
            for i, cell in enumerate(mine):
                self.make(cell)
                bar.update(min(self.workers.count, len(missing) - i * self.workers.count))
        except KeyboardInterrupt:
            kept = sum(read_cell(self.folder, c) is not None for c in cells)
            raise KeyboardInterrupt(
                f"interrupted: {kept} of {len(cells)} {split} cells are kept in {self.folder}; start the same sweep "
                "again to go on"
            ) from None
        finally:
            bar.close()
        self.workers.meet(f"doing {split} cells")
        gone = [c for c in cells if read_cell(self.folder, c, self.plan.pictures) is None]
        if gone:
            raise ChildProcessError(
                f"{len(gone)} of {len(cells)} {split} cells are missing, such as {gone[0].setting}: start the same "
                "sweep again, it does them and nothing else"
            )

    def make(self, cell: Cell) -> None:
        """One cell: sample, measure, write."""
        fixed = json.loads(cell.fixed)
        size = fixed["height"], fixed["width"]
        prompts, seeds = [p for p, _ in cell.pairs], [s for _, s in cell.pairs]
        began = time.perf_counter()
        raw, count = run(
            self.dit, prompts, guidance=cell.setting.guider(), seed=seeds, steps=fixed["steps"], height=size[0],
            width=size[1], negative_prompt=fixed["negative_prompt"] or None, **fixed["call"],
        )  # fmt: skip
        shown = decode(self.dit, spatial(self.dit, raw, *size), output_type="pt").float().cpu()
        truth = torch.stack([self.truths[p] for p in prompts]) if self.truths else None
        rows = measured(shown * 2 - 1, truth)
        each = {"block_calls": count.block_calls / len(prompts), "forwards": count.forwards / len(prompts)}
        cost = {**each, "seconds": (time.perf_counter() - began) / len(prompts)}
        kept = None
        if self.plan.pictures:
            bytes_ = (shown.nan_to_num(0.0).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            kept = [Image.fromarray(b) for b in bytes_]
        write_cell(self.folder, cell, rows, cost, kept, self.workers.rank)


def measured(pictures: torch.Tensor, truth: torch.Tensor | None) -> list[dict[str, float]]:
    """One row a picture (N, 3, H, W) in [-1, 1]; `amount` and correlations against the truth where there is one."""
    found = {k: v.double() for k, v in describe(pictures, truth).items() if k in MEASURES}
    found["detail_lack"] = -found["detail_share"].clamp_min(1e-12).log2()
    if truth is not None:
        wanted = describe(truth)["high_power"].double()
        found["amount"] = (found["high_power"].clamp_min(1e-12) / wanted.clamp_min(1e-12)).log2()
        found["amount_error"] = found["amount"].abs()
    return [{name: float(values[i]) for name, values in found.items()} for i in range(len(pictures))]


def tell(made: Sweep) -> None:
    """Write the table, the choice with its report, and the profile of the chosen Detail Guidance."""
    plan, told = made.plan, made.report
    write(made.folder / TABLE, lambda file: file.write(made.table.to_csv(index=False).encode()))
    chosen = made.chosen.get("DG")
    words = str(chosen) if chosen is not None else "no setting of Detail Guidance holds the objective's guard"
    rule = OBJECTIVES[plan.objective].words.format(margin=plan.margin)
    write_json(
        made.folder / CHOSEN,
        {
            "recommended": words,
            "verdict": verdict(told),
            "objective": rule,
            "chosen": {g: None if s is None else s.to_json() for g, s in made.chosen.items()},
            "settings_of_each": {g: int(n) for g, n in made.scores["guidance"].value_counts().items()},
            "test": told.to_dict("records"),
            "provenance": plan.provenance,
        },
    )
    if chosen is None:
        (made.folder / PROFILE).unlink(missing_ok=True)
        logger.warning("%s (%s): no profile is written", words, rule)
        return
    prompts = {split: len({p for p, _ in pairs}) for split, pairs in plan.pairs.items()}
    fixed = json.loads(plan.fixed)
    about = {**prompts, "model": plan.provenance["model"], "weights": fixed["weights"], "steps": fixed["steps"]}
    write_json(made.folder / PROFILE, profile_of(chosen, made.scores, told, plan.objective, plan.margin, about))
