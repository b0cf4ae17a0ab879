"""Is DG better than PAG, SLG or SEG? Only if each was searched as hard: the same number of settings, the same prompts.

Every rival gets DG's weight at first, then DG's sweep: the same other weights, windows and blocks. DG begins at its own
block and tries the others; a rival begins at one of the others, a middle block, and tries the rest. Blurred prediction
and noised twin have no block, and so fewer settings. What comes out is exploratory: the best of a search is flattered
by the search, equally for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from dg_tools.experiments.directions import BLUR, Guidance, Window
from dg_tools.experiments.guidance_outcomes import MARGINS, UNITS
from dg_tools.experiments.guidance_plan import Run, joined
from dg_tools.experiments.perception_distortion import bought
from dg_tools.experiments.sampling_loop import Source
from dg_tools.guidance.baselines import PAG, SEG, SLG
from dg_tools.models.dit import DiT

IN_BLOCKS: dict[str, Any] = {"PAG": PAG, "SLG": SLG, "SEG": SEG}
WITHOUT = {"blur": BLUR, "noised twin": "twin"}  # name -> source; the first setting of each is in the plan already
RIVALS = (*IN_BLOCKS, *WITHOUT)


def check(dit: DiT, baselines: Sequence[str]) -> None:
    """Raise ValueError for a name that there is not, one that is there twice, or a family without its layout."""
    unknown = [name for name in baselines if name not in RIVALS]
    if unknown or len(set(baselines)) < len(baselines):
        raise ValueError(f"baselines={list(baselines)}: some of {', '.join(RIVALS)}, none twice")
    for name in baselines:
        if name in IN_BLOCKS:
            IN_BLOCKS[name](1.0, blocks=0).check(dit)


def sources_of(baselines: Sequence[str], blocks: Sequence[int]) -> dict[str, Source]:
    """The rivals' worse predictions by name, at each block."""
    return {f"{n} {b}": IN_BLOCKS[n](1.0, blocks=b) for n in baselines if n in IN_BLOCKS for b in blocks}


def runs_of(
    baselines: Sequence[str],
    own: int,
    others: Sequence[int],
    whole: Guidance,
    steps: int,
    scales: Sequence[float],
    windows: Sequence[Window],
) -> list[Run]:
    """The rivals' runs.

    Args:
        baselines: of `RIVALS`.
        own, others: DG's block, and the other blocks of its sweep.
        whole: DG+CFG as it is at first.
        steps: of every run.
        scales, windows: of DG's sweep.
    """
    cfg, made = f"CFG {whole.scale:g}", []
    begin, *rest = [*others, own]

    def add(guidance: Guidance, name: str, said: str, varied: str = "") -> None:
        made.append(Run(replace(guidance, name=joined(cfg, said)), steps, "baseline", cfg, varied=varied, method=name))

    for name in baselines:
        first = replace(whole, worse=WITHOUT.get(name, f"{name} {begin}"))
        label = f"{name} {whole.weight:g}"
        if name in IN_BLOCKS:
            add(first, name, label, f"block {begin}")
            for b in rest:
                add(replace(whole, worse=f"{name} {b}"), name, f"{label}, block {b}", f"block {b}")
        for w in scales:
            add(replace(first, weight=w), name, f"{name} {w:g}", f"w = {w:g}")
        for span in windows:
            said = f"in {span[0]:g} to {span[1]:g}"
            add(replace(first, window=span), name, f"{label}, {said}", said)
    return made


def searched(table: pd.DataFrame, costs: pd.DataFrame, plan: Sequence[Run], whole: Guidance) -> pd.DataFrame:
    """Every setting of every method against CFG with as many steps: `bought`, with method, varied and block calls."""
    cfg, detail = f"CFG {whole.scale:g}", f"{whole.weight:g}"
    cells = [("DG", r.name, r.varied or "at first") for r in plan if r.role == "sweep" or r.name == whole.name]
    for method in dict.fromkeys(r.method for r in plan if r.method):
        if method in WITHOUT:
            cells.append((method, joined(cfg, f"{method} {detail}"), "at first"))
        cells += [(method, r.name, r.varied) for r in plan if r.method == method]
    made = bought(table, [(rule, cfg) for _, rule, _ in cells], MARGINS)
    calls = costs.set_index("rule")["block_calls"]
    about = {"method": [c[0] for c in cells], "varied": [c[2] for c in cells]}
    return made.assign(**about, block_calls=[calls[c[1]] for c in cells])


def told(search: pd.DataFrame) -> list[str]:
    """The best setting of each method by each measure, with how many were tried."""
    lines = []
    for what in UNITS:
        best = search.loc[search.groupby("method", sort=False)[what].idxmax()]
        count = search.groupby("method")["rule"].count()
        words = [
            f"{r['method']} {r[what]:+.3f} ({r['varied']}, {count[r['method']]} tried, {r['block_calls']:.0f} calls)"
            for r in best.to_dict("records")
        ]
        lines.append(f"exploratory, best {what} over CFG with as many steps, and block calls: {'; '.join(words)}")
    return lines
