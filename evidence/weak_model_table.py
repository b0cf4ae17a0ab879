"""What is Detail Guidance from `auto`'s weak model worth, beside everything that costs as much or less?

One table for each embedded model, all rows from the same noise, on captions that chose nothing: the model itself, the
knob, the weak model, Detail Guidance (DG) as published and as `auto` chose it, the parts of it along and across the
model's own prediction, a plain gain, Detail Daemon, CFG, and DG away from other channels.

    python -m evidence.weak_model_table --model emoji-sd3               48 captions, 39 draws: an hour or more
    python -m evidence.weak_model_table --model emoji-sd3 --prompts 6   the first 6 of them; a larger size goes on
    python -m evidence.weak_model_table --report                        the page again, nothing is run

Each run is kept as soon as it is done, six captions at a time, in `evidence/results-weak-model`: stopped, the same call
goes on. `evidence.weak_model_page` makes the tables and the page of what is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer

import dg_tools as dg
from dg_tools.datasets.references import Reference, References
from dg_tools.experiments.dose_outcomes import EQUAL
from dg_tools.experiments.dose_step import OneStep
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.samples import RETRIEVAL_SIZE, Samples, small
from dg_tools.generation.sampling import run
from dg_tools.guidance.auto.store import shipped_profile
from dg_tools.metrics import amount_change, band_correlation, band_power, retrieval_margin
from dg_tools.models.dit import DiT
from dg_tools.models.files import embedded
from dg_tools.models.pictures import pictures as decoded
from dg_tools.models.pictures import spatial
from dg_tools.models.provenance import weights_hash
from dg_tools.report.splits import FULL, Sizes, split
from evidence import weak_model_page as page

FOLDER = Path(__file__).parent / "results-weak-model"
STEPS = 10
FIRST_SEED = 300  # of the noise; each caption has its own
TRAINED, HELD_OUT = 4, 2  # captions of a chunk
CHUNK = TRAINED + HELD_OUT
DEVELOPED = 8  # development captions on which the knob's dose is chosen
MATCHED = 4  # development captions on which the controls are scaled
DOSES = (0.0, 0.25, 0.5, 0.75, 1.5)  # of the knob
SIGMAS = (0.3, 0.5, 0.7)  # at which the controls are scaled
GAINS = (1.1, 1.2, 1.3, 1.5)
AMOUNTS = (0.5, 1.0)  # of Detail Daemon: 0 to 1 work best, its authors say
SCALES = (1.5, 2.0)  # of CFG
PUBLISHED = 0.5  # w of DG at rho 0
DRAWS = 39

Setting = tuple[tuple[dg.Disrupt, ...], Any]  # edits, guidance


class Kept:
    """What is done for one model: plain JSON in one file, written whole after each run.

    Raises:
        ValueError: the file is about other weights or settings.
    """

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        self.file = file
        self.values: dict[str, Any] = {"about": about, "runs": {}, "controls": {}}
        if file.is_file():
            self.values = json.loads(file.read_text(encoding="utf-8"))
            if self.values["about"] != about:
                raise ValueError(f"{file} is of other weights or settings: move it away, or pass another --out")

    def write(self) -> None:
        """Whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(".part")
        draft.write_text(json.dumps(self.values), encoding="utf-8")
        draft.replace(self.file)


def edit_of(profile: dict[str, Any]) -> dg.Disrupt:
    """The weak model of a profile."""
    return dg.Disrupt(profile["channels"], profile["block"], "scale", rho=profile["rho"])


def settings(profile: dict[str, Any], rho: float) -> dict[str, Setting]:
    """The runs by name; `rho` is the knob's dose. The controls are not among them."""
    weak, w = edit_of(profile), profile["detail_guidance_scale"]
    runs: dict[str, Setting] = {
        "cond": ((), None),
        f"knob, rho {rho:g}": ((replace(weak, rho=rho),), None),
        "weak model": ((weak,), None),
        "DG, published": ((), dg.DetailGuidance(1.0, PUBLISHED, replace(weak, rho=0.0))),
        "DG, auto": ((), dg.DetailGuidance(1.0, w, weak)),
        "DG, auto at half its w": ((), dg.DetailGuidance(1.0, w / 2, weak)),
        "DG, part along c": ((), dg.DetailGuidance(1.0, w, weak, match="parallel")),
        "DG, part across c": ((), dg.DetailGuidance(1.0, w, weak, match="orthogonal")),
    }
    runs |= {f"gain {gain:g}": ((), dg.baselines.Gain(1.0, gain=gain)) for gain in GAINS}
    runs |= {f"daemon {amount:g}": ((), dg.baselines.DetailDaemon(1.0, amount=amount)) for amount in AMOUNTS}
    return runs | {f"CFG {scale:g}": ((), dg.CFG(scale)) for scale in SCALES}


def captions(source: References, sizes: Sizes, chosen_on: Sequence[str]) -> tuple[list[Reference], list[Reference]]:
    """The development captions, and those of the table: in each chunk as many trained and held-out ones.

    Args:
        source: the model's references.
        sizes: of the split.
        chosen_on: captions on which the weak model was chosen; they are left out.
    """
    parts = {k: [r for r in v if r.prompt not in chosen_on] for k, v in split(source, sizes).items()}
    trained, held_out = parts["test"], parts["held_out"]
    count = min(len(trained) // TRAINED, len(held_out) // HELD_OUT)
    table: list[Reference] = []
    for i in range(count):
        table += trained[TRAINED * i : TRAINED * (i + 1)] + held_out[HELD_OUT * i : HELD_OUT * (i + 1)]
    return parts["development"], table


class Chunk:
    """Some captions with their noise, their references, and their candidates for retrieval."""

    def __init__(self, dit: DiT, references: Sequence[Reference], first: int) -> None:
        self.samples = Samples(dit, list(references), [0], steps=STEPS)
        self.seeds = [FIRST_SEED + first + i for i in range(len(references))]
        assert self.samples.truth is not None
        self.truth: torch.Tensor = self.samples.truth
        self.sets, self.own = self.samples.candidates(self.truth)

    def measured(self, setting: Setting) -> dict[str, Any]:
        """Numbers of each picture, and what a picture costs."""
        edits, guidance = setting
        samples, dit, count = self.samples, self.samples.dit, len(self.seeds)
        latents, cost = run(
            dit, samples.prompts, edits=edits, guidance=guidance, seed=self.seeds, steps=STEPS, **samples.kwargs
        )
        x = decoded(dit, spatial(dit, latents, samples.height, samples.width))
        correlation = band_correlation(x, self.truth)
        margin = [
            float(retrieval_margin(small(one[None]), pool, torch.tensor([at]), size=RETRIEVAL_SIZE))
            for one, pool, at in zip(x, self.sets, self.own, strict=True)
        ]
        columns = {
            "amt_c": amount_change(x, self.truth, dit.vae_scale_factor),
            "amt": (band_power(x)["high"] / band_power(self.truth)["high"]).log2(),
            "right": correlation["high"],
            "low": correlation["low"],
            "margin": torch.tensor(margin),
        }
        numbers: dict[str, Any] = {k: [round(float(v), 6) for v in values] for k, values in columns.items()}
        numbers["held_out"] = [bool(item.reference and item.reference.held_out) for item in samples.items]
        passes = cost.block_calls / len(dit.blocks) / count
        return numbers | {"forwards": cost.forwards / count, "passes": round(passes, 2)}


def best_dose(dit: DiT, profile: dict[str, Any], references: Sequence[Reference], kept: Kept) -> float:
    """The knob's rho: of `DOSES`, the one with the highest mean right on the development captions."""
    if "knob" not in kept.values:
        chunk, found = Chunk(dit, references, 1000), {}
        for rho in DOSES:
            numbers = chunk.measured(((replace(edit_of(profile), rho=rho),), None))
            found[f"{rho:g}"] = sum(numbers["right"]) / len(references)
        kept.values["knob"] = {"right": found, "captions": len(references)}
        kept.write()
    right = kept.values["knob"]["right"]
    return float(max(right, key=right.__getitem__))


def controls(
    dit: DiT, profile: dict[str, Any], references: Sequence[Reference], draws: int, kept: Kept
) -> Iterator[tuple[str, dg.Disrupt]]:
    """Other channels, scaled at each noise level so that the mean ||v - v_d|| is the weak model's.

    Those that do not get there within `EQUAL` are kept as such, and left out.
    """
    edit, done = edit_of(profile), kept.values["controls"]
    steps: list[tuple[OneStep, float]] = []
    for i in range(draws):
        name = f"control {i}"
        control = replace(edit, others=True, draw=i, control=True)
        if name not in done:
            with dit.running(), torch.no_grad():
                if not steps:
                    noised = NoisedPictures(dit, list(references), [0])
                    every = slice(0, len(noised))
                    steps = [(OneStep(noised, sigma, every, noised.inputs[0]), 0.0) for sigma in SIGMAS]
                    steps = [(at, float(at.change(at.velocity(edit)).mean())) for at, _ in steps]
                points, ratios, factor = [], [], 1.0
                for at, target in steps:
                    scaled, factor, ratio = at.scaled(control, target, factor)
                    points.append([at.sigma, scaled.rho])
                    ratios.append(ratio)
            done[name] = {"rho": points, "reached": ratios}
            kept.write()
        if max(abs(ratio - 1) for ratio in done[name]["reached"]) <= EQUAL:
            yield name, replace(control, rho=tuple(map(tuple, done[name]["rho"])))


def measure(
    dit: DiT, profile: dict[str, Any], file: Path, *, prompts: int, control_prompts: int, draws: int, sizes: Sizes
) -> dict[str, Any]:
    """Everything for one model, as it is kept in `file`; what is there is not computed again.

    Raises:
        ValueError: a size that is not a multiple of a chunk, or more captions than there are.
    """
    development, table = captions(dg.references(dit), sizes, profile.get("prompts", ()))
    for count in (prompts, control_prompts):
        if count % CHUNK or not 0 <= count <= len(table):
            raise ValueError(f"{count} captions: a multiple of {CHUNK} up to {len(table) // CHUNK * CHUNK} is needed")
    choice = {k: profile[k] for k in ("channels", "block", "rho", "detail_guidance_scale")}
    about = {"weights": weights_hash(dit), "steps": STEPS, "seed": FIRST_SEED, **choice}
    about["captions"] = [r.prompt for r in table]
    kept = Kept(file, about)
    runs = settings(profile, best_dose(dit, profile, development[:DEVELOPED], kept))

    def add(name: str, setting: Setting, number: int, chunks: dict[int, Chunk]) -> None:
        done = kept.values["runs"].setdefault(name, [])
        if number < len(done):
            return
        if number not in chunks:
            first = CHUNK * number
            chunks[number] = Chunk(dit, table[first : first + CHUNK], first)
        done.append(chunks[number].measured(setting))
        kept.write()
        print(f"{file.stem}: {name}, captions {CHUNK * number} to {CHUNK * (number + 1) - 1}", flush=True)

    weight = profile["detail_guidance_scale"]
    for number in range(max(prompts, control_prompts) // CHUNK):
        chunks: dict[int, Chunk] = {}
        if CHUNK * number < prompts:
            for name, setting in runs.items():
                add(name, setting, number, chunks)
        if CHUNK * number < control_prompts:
            for name, edit in controls(dit, profile, development[:MATCHED], draws, kept):
                add(name, ((), dg.DetailGuidance(1.0, weight, edit)), number, chunks)
    return kept.values


def main(
    model: str = typer.Option(None, help="one embedded model (default: all)"),
    prompts: int = typer.Option(48, help=f"captions, a multiple of {CHUNK}: two thirds trained, one held out"),
    control_prompts: int = typer.Option(6, help="captions of the channel controls"),
    draws: int = typer.Option(DRAWS, help="channel controls"),
    out: Path = typer.Option(FOLDER, help="where the numbers, the tables and the page are"),
    report: bool = typer.Option(False, help="make the tables and the page of what is kept"),
) -> None:
    """Run, keep, and write the page."""
    for name in () if report else [model] if model else embedded():
        dit = dg.load(name)
        profile = shipped_profile(dit)
        if profile is None or profile["block"] is None:
            raise ValueError(f"{name}: no weak model was chosen for these weights (python -m training.weak_model)")
        sizes = {"prompts": prompts, "control_prompts": control_prompts, "draws": draws}
        measure(dit, profile, out / f"{name}.json", sizes=FULL, **sizes)
    page.write(out)


if __name__ == "__main__":
    typer.run(main)
