"""Ratios in one run: what capture, editing and guidance cost beside plain sampling.

Variants take turns, so that a machine that slows down slows all of them; a ratio is the median over rounds of a
variant's time to the plain run's of the same round. Absolute seconds are for this machine only. Kept as JSON with
machine and versions. `layouts` has the paths of DG at a size where arithmetic decides, `compiled` the blocks compiled.

    make bench
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch
import typer

import dg_tools as dg
from benchmarks.compiled import measure as on_compiled
from benchmarks.explorer import measure as first_picture
from benchmarks.layouts import measure
from benchmarks.limit import measure as over_limit
from benchmarks.turns import in_turns, table

GOAL = 1.5  # seconds for one picture, 20 steps with CFG, on two cores


def variants(dit, steps: int) -> dict[str, Callable[[], object]]:
    off = dg.Disrupt.from_profile(dit.profile)
    call = {"seed": 0, "steps": steps, "progress": False}
    picture = lambda **kwargs: lambda: dg.generate(dit, "red apple on blue", **call, **kwargs)  # noqa: E731
    both = dg.DetailGuidance(3.0, 0.5, off)
    knob = dg.DetailKnob(off.channels, off.block, 0.5, 3.0)

    capture = {"seeds": 0, "steps": steps, "progress": False}
    middle = len(dit.blocks) // 2
    rivals = {
        "PAG": dg.baselines.PAG(3.0, 0.5, blocks=middle),
        "SLG": dg.baselines.SLG(3.0, 0.5, blocks=middle),
        "SEG": dg.baselines.SEG(3.0, 0.5, blocks=middle),
        "auto": dg.baselines.AutoGuidance(3.0, 0.5),
        "blur": dg.baselines.Blurred(3.0, 0.5),
        "gain": dg.baselines.Gain(3.0, gain=1.1),
        "daemon": dg.baselines.DetailDaemon(3.0, amount=0.5),
    }
    return {
        "CFG": picture(guidance=dg.CFG(3.0)),
        "cond": picture(),
        "CFG, edited": picture(guidance=dg.CFG(3.0), edits=off),
        "DG": picture(guidance=dg.DetailGuidance(1.0, 0.5, off)),
        "CFG + DG": picture(guidance=both),
        "CFG, DG in u": picture(guidance=dg.DetailGuidance(3.0, disrupt=off, rows="uncond")),
        "CFG + knob": picture(guidance=knob),
        "knob": picture(guidance=knob.new(guidance_scale=1.0)),
        "CFG, captured": lambda: dg.capture(dit, "red apple on blue", guidance=dg.CFG(3.0), **capture),
        **{f"CFG + {name}": picture(guidance=guider) for name, guider in rivals.items()},
        "APG": picture(guidance=dg.baselines.APG(3.0)),
        "CFG-Zero*": picture(guidance=dg.baselines.CFGZeroStar(3.0)),
    }


def main(
    rounds: int = typer.Option(9, help="rounds; medians over these"),
    steps: int = typer.Option(20, help="denoising steps"),
    out: Path = typer.Option(Path("build/bench.json"), help="where to keep the figures"),
) -> None:
    """Time each variant once a round."""
    dit = dg.load()
    rows = table(in_turns(variants(dit, steps), rounds))
    plain = rows["CFG"]["seconds"]
    print(f"one picture, {steps} steps with CFG: {plain:.2f} s (goal on two cores: {GOAL} s)")
    layouts = {name: measure(name, rounds) for name in ("sd3", "flux")}
    limits = {name: over_limit(name, rounds) for name in ("sd3", "flux")}
    record = {
        "rows": rows,
        "layouts": layouts,
        "limits": limits,
        "compiled": on_compiled(rounds, steps),
        "first_picture": first_picture(),
        "rounds": rounds,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "diffusers", "nnsight")},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
