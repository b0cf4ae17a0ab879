"""Samples of held-out captions from the same noise, run by run, kept as soon as each is done.

One column's numbers are in one file of plain JSON, so after a stop the same call continues. `sample_rows` judges them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dg_tools.datasets.examples import Items
from dg_tools.datasets.references import Reference
from dg_tools.experiments.dose_step import OneStep
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.samples import RETRIEVAL_SIZE, Samples, small
from dg_tools.experiments.scaled_controls import as_matched, control_of, matched, moved
from dg_tools.generation.sampling import run
from dg_tools.guidance.baselines import DetailDaemon, Gain
from dg_tools.guidance.cfg import CFG
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.metrics import amount_change, band_correlation, band_power, low_correlation, retrieval_margin
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures as decoded
from dg_tools.models.pictures import spatial
from dg_tools.report import rules
from dg_tools.report.rules import Size

logger = logging.getLogger("dg_tools")

FIRST_SEED = 500  # of the noise; each caption has its own

Setting = tuple[tuple[Disrupt, ...], Any]  # edits, guidance


class Kept:
    """The finished runs of one column: plain JSON in one file, written after each run; other settings begin it anew."""

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        self.file = file
        self.values: dict[str, Any] = {"about": json.loads(json.dumps(about)), "runs": {}, "controls": {}}
        if file.is_file():
            before = json.loads(file.read_text(encoding="utf-8"))
            if before["about"] == self.values["about"]:
                self.values = before

    def write(self) -> None:
        """Write the whole file or nothing."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".part")
        draft.write_text(json.dumps(self.values) + "\n", encoding="utf-8")
        draft.replace(self.file)

    def table(self, name: str, count: int | None = None) -> pd.DataFrame:
        """A run's numbers, one row per caption, of the first `count`."""
        chunks = self.values["runs"][name]
        columns = [k for k, v in chunks[0].items() if isinstance(v, list)]
        tables = [pd.DataFrame({k: chunk[k] for k in columns}) for chunk in chunks]
        return pd.concat(tables, ignore_index=True).iloc[:count]

    def price(self, name: str) -> dict[str, float]:
        """Forwards and passes of one picture."""
        return {k: self.values["runs"][name][0][k] for k in ("forwards", "passes")}


class Captions:
    """Captions with their noise and their references, in chunks."""

    def __init__(self, dit: DiT, references: Sequence[Reference], first: int, chunk: int) -> None:
        self.dit, self.references, self.first, self.chunk = dit, list(references), first, chunk
        self.parts: dict[int, tuple[Samples, torch.Tensor, list[torch.Tensor], list[int]]] = {}
        self.clean: dict[int, torch.Tensor] = {}

    def part(self, number: int) -> tuple[Samples, torch.Tensor, list[torch.Tensor], list[int]]:
        """Samples, truth, and the candidates for retrieval, of one chunk."""
        if number not in self.parts:
            begin = number * self.chunk
            samples = Samples(self.dit, self.references[begin : begin + self.chunk], [0], steps=rules.STEPS)
            assert samples.truth is not None
            self.parts[number] = (samples, samples.truth, *samples.candidates(samples.truth))
        return self.parts[number]

    def drawn(self, number: int, setting: Setting) -> tuple[torch.Tensor, Any]:
        """Pictures of one chunk, and what they cost."""
        edits, guidance = setting
        samples = self.part(number)[0]
        begin = self.first + number * self.chunk
        seeds = [begin + i for i in range(len(samples))]
        latents, cost = run(
            self.dit, samples.prompts, edits=edits, guidance=guidance, seed=seeds, steps=rules.STEPS, **samples.kwargs
        )
        return decoded(self.dit, spatial(self.dit, latents, samples.height, samples.width)), cost

    def measured(self, number: int, setting: Setting) -> dict[str, Any]:
        """Numbers of each picture of one chunk, and what one costs."""
        samples, truth, sets, own = self.part(number)
        if number not in self.clean:
            self.clean[number] = self.drawn(number, ((), None))[0]
        x, cost = self.drawn(number, setting)
        clean, cell = self.clean[number], self.dit.vae_scale_factor
        correlation = band_correlation(x, truth)
        margin = [
            float(retrieval_margin(small(one[None]), pool, torch.tensor([at]), size=RETRIEVAL_SIZE))
            for one, pool, at in zip(x, sets, own, strict=True)
        ]
        columns = {
            "amt_c": amount_change(x, truth, cell),
            "amt": (band_power(x)["high"] / band_power(truth)["high"]).log2(),
            "right": correlation["high"],
            "low": correlation["low"],
            "margin": torch.tensor(margin),
            "amt_c_clean": amount_change(x, clean, cell),
            "low_clean": low_correlation(x, clean, cell),
        }
        numbers: dict[str, Any] = {k: [round(float(v), 6) for v in values] for k, values in columns.items()}
        numbers["found"] = [float(m > 0) for m in margin]
        passes = cost.block_calls / len(self.dit.blocks) / len(samples)
        return {**numbers, "forwards": cost.forwards / len(samples), "passes": round(passes, 2)}


def add(kept: Kept, captions: Captions, name: str, setting: Setting, count: int) -> None:
    """Run a setting on the first `count` captions, chunk by chunk; what is kept is not run again."""
    done = kept.values["runs"].setdefault(name, [])
    for number in range(len(done), count // captions.chunk):
        done.append(captions.measured(number, setting))
        kept.write()
        logger.info("%s: %s, chunk %d", kept.file.parent.name, name, number)


def one_steps(dit: DiT, items: Items) -> list[OneStep]:
    """One step of some pictures, such as development captions', at each noise level where edits are judged."""
    noised = NoisedPictures(dit, items, [0])
    every = slice(0, len(noised))
    return [OneStep(noised, sigma, every, noised.inputs[0]) for sigma in rules.SIGMAS]


def effect(steps: Sequence[OneStep], edit: Disrupt) -> dict[str, float]:
    """What an edit does to one step: acts (median ||v_d - v|| / ||v||), amount (mean amt_c of x0) and low (mean
    correlation of its low band), against the clean x0.
    """
    acts, amount, low = [], [], []
    for at in steps:
        with at.dit.running(), torch.no_grad():
            changed = at.velocity(edit)
            size = at.clean.double().flatten(1).norm(dim=1)
            acts.append(at.change(changed) / size)
            x, clean = at.pictures(changed), at.pictures(at.clean)
            amount.append(amount_change(x, clean, at.dit.vae_scale_factor))
            low.append(low_correlation(x, clean, at.dit.vae_scale_factor))
    return {
        "acts": float(torch.cat(acts).median()),
        "amount": float(torch.cat(amount).mean()),
        "low": float(torch.cat(low).mean()),
    }


def zero_block(effects: dict[int, dict[str, float]]) -> int:
    """Where zeroing changes detail most, if it acts there and the low band stays; else where it acts most."""
    fit = {b: e for b, e in effects.items() if e["acts"] >= rules.ACTS and e["low"] >= rules.LAYOUT}
    if fit:
        return max(fit, key=lambda b: abs(fit[b]["amount"]))
    return max(effects, key=lambda b: effects[b]["acts"])


def matched_controls(
    kept: Kept, steps: Sequence[OneStep], name: str, edit: Disrupt, draws: int
) -> list[tuple[str, Disrupt]]:
    """Draws of as many other channels, scaled at each noise level to the mean ||v - v_d|| of the edit.

    Draws that do not reach it within `EQUAL` are left out.
    """
    result = []
    targets: list[float] = []
    for draw in range(draws):
        key = f"{name} {draw}"
        done = kept.values["controls"]
        if key not in done:
            targets = targets or moved(steps, edit)
            done[key] = matched(steps, control_of(edit, draw), targets)
            kept.write()
        if (control := as_matched(control_of(edit, draw), done[key])) is not None:
            result.append((key, control))
    return result


def settings(weak: dict[str, tuple[Disrupt, float]]) -> dict[str, Setting]:
    """The runs by name, except the controls and the curve. `weak`: by name, the edit and its w."""
    runs: dict[str, Setting] = {}
    for name, (edit, w) in weak.items():
        runs[f"weak, {name}"] = ((edit,), None)
        runs[f"DG, {name}"] = ((), DetailGuidance(1.0, w, edit))
    if "auto" in weak:
        edit, w = weak["auto"]
        runs["DG, auto, half w"] = ((), DetailGuidance(1.0, w / 2, edit))
    runs |= {f"gain {gain:g}": ((), Gain(1.0, gain=gain)) for gain in rules.GAINS}
    runs["daemon"] = ((), DetailDaemon(1.0, amount=rules.DAEMON))
    return runs | {f"CFG {scale:g}": ((), CFG(scale)) for scale in rules.SCALES}


def curve(edit: Disrupt) -> dict[str, Setting]:
    """The knob at each dose but 1."""
    doses = [rho for rho in rules.RHOS if rho != 1]
    return {f"rho {rho:g}": ((replace(edit, mode="scale", rho=rho),), None) for rho in doses}


def best_weight(captions: Captions, edit: Disrupt, count: int) -> tuple[float, dict[str, float]]:
    """Of `rules.WEIGHTS`, the w whose samples have amt_c nearest to 0 on development captions; and all of them."""
    amounts = {}
    for w in rules.WEIGHTS:
        chunks = [captions.measured(i, ((), DetailGuidance(1.0, w, edit))) for i in range(count // captions.chunk)]
        amounts[w] = sum(sum(c["amt_c"]) for c in chunks) / (count // captions.chunk * captions.chunk)
    return min(amounts, key=lambda w: abs(amounts[w])), {f"{w:g}": a for w, a in amounts.items()}


def all_runs(
    kept: Kept, captions: Captions, weak: dict[str, tuple[Disrupt, float]], size: Size, lacking_cfg: bool
) -> None:
    """Every run of a column that can do the task, except the controls."""
    count, runs = size.splits.held_out, settings(weak)
    for name, setting in runs.items():
        twin = name.replace("auto", "zero")  # a planted model's profile is its zeroing: nothing is run twice
        if name != twin and twin in runs and weak["auto"] == weak["zero"]:
            kept.values["runs"][name] = kept.values["runs"][twin]
        add(kept, captions, name, setting, count)
    if "auto" in weak:
        for name, setting in curve(weak["auto"][0]).items():
            add(kept, captions, name, setting, count)
    if lacking_cfg:
        scale = rules.SCALES[0]
        for name, (edit, w) in weak.items():
            add(kept, captions, f"CFG {scale:g} and DG, {name}", ((), DetailGuidance(scale, w, edit)), count)
