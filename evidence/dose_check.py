"""Does the toolkit find the dose curve and the guided table that were measured with code of its own?

`REPORTED` has those figures: massive channels multiplied by rho in sampling, and Detail Guidance from a weak model at
rho 1.5. Twelve of their prompts and their noise are known (a picture of them was kept), the others are not. So the
knob is run on these twelve, and everything on several other draws of as many prompts: what is compared is the change
from the run without the knob, and beside it how far the draws differ among themselves.

    python -m evidence.dose_check                    both models, some minutes; tables into evidence/results-dose
    python -m evidence.dose_check --model emoji-sd3 --draws 2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import typer

import dg_tools as dg
from dg_tools.datasets.references import Reference, References
from dg_tools.experiments.samples import Samples
from dg_tools.experiments.sampling_loop import Rule, sample
from dg_tools.experiments.sampling_step import Source
from dg_tools.metrics import (
    amount_change,
    band_correlation,
    band_power,
    bootstrap_interval,
    laplacian_variance,
)
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures as decoded

ROOT = Path(__file__).parent
STEPS = 10
NOISE = {"emoji-sd3": 123}  # seed of the known prompts' noise, one draw for all; of the other model it is not known
KNOWN = (
    *("thread on teal", "two-thirty on black", "fallen-leaf on green", "beer-mug on grey", "sandwich on green"),
    *("oncoming-police-car on purple", "spoon on orange", "curling-stone on white", "framed-picture on brown"),
    *("firecracker on orange", "rose on yellow", "clapper-board on white"),
)  # all shaded, all trained
KNOB = {  # model: channels, block
    "emoji-sd3": ((55, 58), 6),
    "emoji-flux": ((41, 107), 8),
}
WEAK = {"emoji-sd3": 9, "emoji-flux": 12}  # block of the weak model that guides
ZERO = {"emoji-sd3": 9, "emoji-flux": 8}  # with rho 0; of emoji-flux it was not told, and at 8 the figures agree
REPORTED = {  # amt and right; None: not reported
    "emoji-sd3": {
        "knob 0": (0.65, 0.550),
        "knob 0.5": (0.35, 0.621),
        "knob 1": (-0.33, 0.620),
        "knob 1.5": (-1.40, 0.518),
        "knob 2": (-1.96, 0.327),
        "knob 3": (-1.08, 0.086),
        "cond": (-0.72, 0.539),
        "DG rho 1.5, w 1": (-0.22, 0.570),
        "velocity x 1.2": (-0.20, 0.567),
        "x0 x 1.05": (-0.18, 0.538),
        "CFG 1.5": (-0.15, 0.606),
    },
    "emoji-flux": {
        "knob 0": (0.17, None),
        "knob 0.5": (-0.04, None),
        "knob 1": (-0.51, None),
        "knob 1.5": (-1.22, None),
        "knob 2": (-1.90, None),
        "cond": (-0.51, 0.413),
        "DG rho 1.5, w 1": (-0.04, 0.450),
        "DG rho 0, w 0.5": (-0.62, 0.391),
    },
}


@dataclass(frozen=True)
class Run:
    """A rule of the sampling loop, and the predictions that it needs beside c and u."""

    rule: Rule
    sources: Mapping[str, Source] = field(default_factory=dict)


def knob_runs(model: str) -> dict[str, Run]:
    """The conditional prediction with the massive channels multiplied by rho."""
    channels, block = KNOB[model]
    runs = {"knob 1": Run(lambda at: at["c"])}
    for rho in (0.0, 0.5, 1.5, 2.0, 3.0):
        edit = dg.Disrupt(channels, block, "scale", rho=rho)
        runs[f"knob {rho:g}"] = Run(lambda at: at["d"], {"d": edit})
    if model == "emoji-sd3":
        runs["knob 1.5, 55 alone"] = Run(lambda at: at["d"], {"d": dg.Disrupt([55], block, "scale", rho=1.5)})
        runs["knob 1.5, 58 alone"] = Run(lambda at: at["d"], {"d": dg.Disrupt([58], block, "scale", rho=1.5)})
    else:
        runs["knob 1.5, 107 alone"] = Run(lambda at: at["d"], {"d": dg.Disrupt([107], block, "scale", rho=1.5)})
        runs["knob 1.5, 41 alone"] = Run(lambda at: at["d"], {"d": dg.Disrupt([41], block, "scale", rho=1.5)})
    return runs


def guided_runs(model: str) -> dict[str, Run]:
    """DG: c + w (c - d); a gain on the velocity and on x0, and CFG."""
    channels, _ = KNOB[model]
    weak = dg.Disrupt(channels, WEAK[model], "scale", rho=1.5)
    zero = dg.Disrupt(channels, ZERO[model], "scale", rho=0.0)
    return {
        "cond": Run(lambda at: at["c"]),
        "DG rho 1.5, w 1": Run(lambda at: at["c"] + 1.0 * (at["c"] - at["d"]), {"d": weak}),
        "DG rho 0, w 0.5": Run(lambda at: at["c"] + 0.5 * (at["c"] - at["d"]), {"d": zero}),
        "velocity x 1.2": Run(lambda at: 1.2 * at["c"]),
        "x0 x 1.05": Run(lambda at: (at.z - 1.05 * at.x0(at["c"])) / at.sigma),
        "CFG 1.5": Run(lambda at: at["u"] + 1.5 * (at["c"] - at["u"])),
    }


def draws(source: References, count: int, noise: int | None) -> Iterator[tuple[str, str, list[Reference], int | None]]:
    """Which runs, name of the draw, prompts, seed of the noise (None: seed 0 for each picture).

    `noise`: of the known prompts.
    """
    known = [source.reference(*k.replace(" on ", "/shaded/").split("/")) for k in KNOWN]
    yield "knob", "known", known, noise
    trained = [r for r in source.sample(len(source.pairs(False)), seed=1, held_out=False) if r.style == "shaded"]
    for i in range(count):
        yield "knob", f"trained {i}", trained[24 * i : 24 * (i + 1)], None
        pairs = source.sample(32, seed=10 + i, held_out=False) + source.sample(16, seed=10 + i, held_out=True)
        yield "guided", f"pairs {i}", pairs, None


def measure(samples: Samples, run: Run, noise: int | None) -> pd.DataFrame:
    """One row per picture: high-band power and the reference's, correlations, Laplacian variance, amt_c."""
    count = len(samples)
    extra: dict[str, Any] = {}
    if noise is not None:
        side = samples.dit.transformer.config.sample_size
        shape = (count, samples.dit.transformer.config.in_channels, side, side)
        extra["latents"] = torch.randn(shape, generator=torch.Generator().manual_seed(noise))
    result = sample(
        samples.dit, samples.prompts, samples.seeds, run.rule, sources=run.sources, steps=STEPS, batch=count, **extra
    )
    x, truth = decoded(samples.dit, result.latents), samples.truth
    assert truth is not None
    correlation = band_correlation(x, truth)
    columns = {
        "power": band_power(x)["high"],
        "truth": band_power(truth)["high"],
        "right": correlation["high"],
        "low": correlation["low"],
        "lap": laplacian_variance(x) / laplacian_variance(truth),
        "amt_c": amount_change(x, truth, samples.dit.vae_scale_factor),
        "held_out": [bool(item.reference and item.reference.held_out) for item in samples.items],
    }
    return pd.DataFrame({"prompt": samples.prompts} | {k: list(map(float, v)) for k, v in columns.items()})


def summary(table: pd.DataFrame, base: pd.DataFrame) -> dict[str, float]:
    """A run in a row; `base` is the run without knob or guidance on the same pictures."""
    change, low, high = bootstrap_interval((table["right"] - base["right"]).to_numpy())
    out = (table["held_out"] == 1).to_numpy()
    ratio = table["power"].mean() / table["truth"].mean()
    before = base["power"].mean() / base["truth"].mean()
    return {
        "amt": float(torch.tensor(ratio).log2()),
        "amt_change": float(torch.tensor(ratio / before).log2()),
        "right": table["right"].mean(),
        "right_change": change,
        "change_low": low,
        "change_high": high,
        "held_out_change": (table["right"] - base["right"])[out].mean() if out.any() else float("nan"),
        "low": table["low"].mean(),
        "lap": table["lap"].median(),
        "amt_c_change": (table["amt_c"] - base["amt_c"]).mean(),
    }


def check(model: str, dit: DiT, count: int) -> pd.DataFrame:
    """All runs on all draws, with what was reported beside them."""
    reported, rows = REPORTED[model], []
    for kind, name, prompts, noise in draws(dg.references(dit), count, NOISE.get(model)):
        samples = Samples(dit, prompts, [0], steps=STEPS)
        runs = knob_runs(model) if kind == "knob" else guided_runs(model)
        first = next(iter(runs))
        base = measure(samples, runs[first], noise)
        for run in runs:
            table = base if run == first else measure(samples, runs[run], noise)
            amount, right = reported.get(run, (None, None))
            clean = reported[first]
            own = {
                "reported_amt_change": None if amount is None else amount - clean[0],
                "reported_right_change": None if right is None or clean[1] is None else right - clean[1],
            }
            rows.append({"model": model, "draw": name, "run": run, **summary(table, base), **own})
            print(
                ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in rows[-1].items()), flush=True
            )
    return pd.DataFrame(rows)


def main(
    model: str = typer.Option(None, help="one embedded model (default: both)"),
    draws: int = typer.Option(3, help="draws of other prompts"),
    out: Path = typer.Option(None, help="folder of the tables (default: evidence/results-dose)"),
) -> None:
    """Run, print and store."""
    out = out or ROOT / "results-dose"
    out.mkdir(parents=True, exist_ok=True)
    for name in [model] if model else KNOB:
        check(name, dg.load(name), draws).to_csv(out / f"{name}.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    typer.run(main)
