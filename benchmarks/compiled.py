"""Compiled blocks: what capture, edits and Detail Guidance cost on them, and whether every family comes out the same.

`measure` is a part of `make bench`: an embedded model whose blocks torch's inductor compiled, variants in turns, ratios
to compiled CFG of the same round. Run as a program, a part of `make full`: every family's tiny model compiled by
inductor, edits, guidance and captures held against the same blocks uncompiled.

    python -m benchmarks.compiled
    python -m benchmarks.compiled sd3 flux
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dg_tools as dg
from benchmarks.turns import in_turns, table

ROOT = Path(__file__).parents[1]
PROMPT = "red apple on blue"
LIMIT = 64  # kinds of blocks times numbers of rows, all of one process
TOLERANCE = 1e-3  # of the largest value


def variants(dit: dg.DiT, steps: int) -> dict[str, Callable[[], object]]:
    """The first is what the others are compared with."""
    off = dg.Disrupt([0, 1], len(dit.blocks) // 2)
    call = {"steps": steps, "progress": False}

    def picture(**kwargs: Any) -> Callable[[], object]:
        return lambda: dg.generate(dit, PROMPT, seed=0, **call, **kwargs)

    def uncompiled() -> object:
        calls = {block.module: block.module._compiled_call_impl for block in dit.blocks}
        try:
            for module in calls:
                module._compiled_call_impl = None
            return picture(guidance=dg.CFG(3.0))()
        finally:
            for module, compiled in calls.items():
                module._compiled_call_impl = compiled

    return {
        "CFG": picture(guidance=dg.CFG(3.0)),
        "CFG, uncompiled": uncompiled,
        "plain call": lambda: dit.pipeline(**dit.arguments(PROMPT, steps=steps, guidance_scale=3.0)),
        "CFG, edited": picture(guidance=dg.CFG(3.0), edits=off),
        "CFG + DG": picture(guidance=dg.DetailGuidance(3.0, 0.5, off)),
        "CFG, captured": lambda: dg.capture(dit, PROMPT, guidance=dg.CFG(3.0), **call),
    }


def measure(rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Ratios to compiled CFG, medians of the rounds; printed."""
    dit = dg.load()
    began = time.perf_counter()
    with torch._dynamo.config.patch(recompile_limit=LIMIT):
        for block in dit.blocks:
            block.module.compile(dynamic=False)
        todo = variants(dit, steps)
        for once in todo.values():
            once()
        print(f"compiled blocks: {time.perf_counter() - began:.0f} s to compile")
        seconds = in_turns(todo, rounds, warm_up=False)
    return table(seconds)


# -- every family -----------------------------------------------------------------------------------------------------


def outcomes(dit: dg.DiT, call: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What is compared, by name."""
    off, late = dg.Disrupt([3, 7], 0), dg.Disrupt([3], 1, "scale", rho=1.5)
    ways: dict[str, dict[str, Any]] = {
        "no guidance": {},
        "edited": {"edits": late},
        "DG": {"guidance": dg.DetailGuidance(1.0, 0.7, off)},
    }
    if dit.family.guidance_argument in dit.takes:
        ways |= {"CFG": {"guidance": dg.CFG(3.0)}, "CFG + DG": {"guidance": dg.DetailGuidance(3.0, 0.7, off)}}
    if dit.family.image_first is not None:
        ways["PAG"] = {"guidance": dg.baselines.PAG(1.0, 0.7, blocks=[1])}
    found = {name: dg.generate(dit, "apple", seed=0, **call, **way).latents for name, way in ways.items()}
    found["captured"] = torch.tensor(np.nan_to_num(dg.capture(dit, "apple", seeds=0, **call).data["mean"].values))
    return found


def check(name: str) -> bool:
    """Whether a family's compiled blocks give what its uncompiled ones give; printed."""
    import tiny
    from compilers import compile_blocks, fresh_compiler, uncompiled
    from draws import FAMILIES

    about = FAMILIES.get(name)
    pipe = tiny.PIPELINES[name]() if about is None else about.pipeline()
    side = {"wan": 64, "sana": 32}.get(name, 16)
    call = {"max_sequence_length": 8, "steps": 3} if about is None else {**about.CALL, **about.STOCK}
    call |= {"height": 2 * side, "width": 3 * side, "progress": False}
    began = time.perf_counter()
    with fresh_compiler():
        dit = dg.load(compile_blocks(pipe))
        if "height" not in dit.takes:
            call = {k: v for k, v in call.items() if k not in ("height", "width")}
        ours = outcomes(dit, call)
        with uncompiled(dit.transformer):
            theirs = outcomes(dit, call)
    errors = {k: float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max()) for k in ours}
    worst = max(errors, key=lambda k: errors[k])
    good = errors[worst] < TOLERANCE
    print(
        f"{name}: compiled against uncompiled, {len(errors)} ways, at most {errors[worst]:.1e} ({worst}), "
        f"{'equal' if good else 'NOT EQUAL'} to {TOLERANCE:g}, in {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return good


def main(names: list[str]) -> int:
    """Check families; the exit code is 1 where one differs."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "models")]
    from draws import NAMES

    return int(not all([check(name) for name in names or NAMES]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
