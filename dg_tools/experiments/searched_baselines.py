"""Is DG better than PAG, SLG or SEG? A fair answer needs an equal search: as many settings, on the same prompts.

Every baseline gets DG's weight at first, then DG's sweep: the same other weights, windows and blocks. DG begins at its
own block and tries the others; a baseline begins at one of the others, a middle block, and tries the rest. Blurred
prediction and weak model have no block, and so fewer settings. The results are exploratory: the best of a search looks
better than it is, equally for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dg_tools.experiments.directions import BLUR, WEAK, GuidanceRule, Window
from dg_tools.experiments.guidance_outcomes import MARGINS, UNITS
from dg_tools.experiments.guidance_plan import Run, joined
from dg_tools.experiments.perception_distortion import amount_and_rightness
from dg_tools.experiments.sampling_step import Source
from dg_tools.guidance.baselines.registry import BASELINES
from dg_tools.models.dit import DiT

WITHOUT_BLOCKS = {"blur": BLUR, "noised twin": WEAK}  # name -> source; the first setting of each is in the plan already
IN_BLOCKS = tuple(name for name, baseline in BASELINES.items() if baseline.in_blocks and baseline.weighted)
NAMES = (*IN_BLOCKS, *WITHOUT_BLOCKS)


def check(dit: DiT, baselines: Sequence[str]) -> None:
    """Raise ValueError for a name that is unknown or given twice, or a family whose layout a baseline does not know."""
    unknown = [name for name in baselines if name not in NAMES]
    if unknown or len(set(baselines)) < len(baselines):
        raise ValueError(f"baselines={list(baselines)}; name some of {', '.join(NAMES)}, each once")
    for name in baselines:
        if name in IN_BLOCKS:
            BASELINES[name].guider(1.0, blocks=0).check(dit)


def sources_of(baselines: Sequence[str], blocks: Sequence[int]) -> dict[str, Source]:
    """The baselines' degraded predictions by name, at each block."""
    return {f"{n} {b}": BASELINES[n].guider(1.0, blocks=b) for n in baselines if n in IN_BLOCKS for b in blocks}


def runs_of(
    baselines: Sequence[str],
    own: int,
    others: Sequence[int],
    whole: GuidanceRule,
    steps: int,
    scales: Sequence[float],
    windows: Sequence[Window],
) -> list[Run]:
    """The baselines' runs.

    Args:
        baselines: of `NAMES`.
        own, others: DG's block, and the other blocks of its sweep.
        whole: DG+CFG as it is at first.
        steps: of every run.
        scales, windows: of DG's sweep.
    """
    cfg = f"CFG {whole.scale:g}"
    runs: list[Run] = []
    begin, *rest = [*others, own]

    def add(rule: GuidanceRule, method: str, term: str, varied: str = "") -> None:
        runs.append(Run(replace(rule, name=joined(cfg, term)), steps, "baseline", cfg, varied=varied, method=method))

    for name in baselines:
        first = replace(whole, degraded=WITHOUT_BLOCKS.get(name, f"{name} {begin}"))
        label = f"{name} {whole.weight:g}"
        if name in IN_BLOCKS:
            add(first, name, label, f"block {begin}")
            for b in rest:
                add(replace(whole, degraded=f"{name} {b}"), name, f"{label}, block {b}", f"block {b}")
        for w in scales:
            add(replace(first, weight=w), name, f"{name} {w:g}", f"w = {w:g}")
        for span in windows:
            window = f"in {span[0]:g} to {span[1]:g}"
            add(replace(first, window=span), name, f"{label}, {window}", window)
    return runs


def search_table(table: pd.DataFrame, costs: pd.DataFrame, plan: Sequence[Run], whole: GuidanceRule) -> pd.DataFrame:
    """Amount and rightness of every setting of every method over CFG with as many steps, with its block calls."""
    cfg, weight = f"CFG {whole.scale:g}", f"{whole.weight:g}"
    cells = [("DG", r.name, r.varied or "at first") for r in plan if r.role == "sweep" or r.name == whole.name]
    for method in dict.fromkeys(r.method for r in plan if r.role == "baseline"):
        if method in WITHOUT_BLOCKS:
            cells.append((method, joined(cfg, f"{method} {weight}"), "at first"))
        cells += [(method, r.name, r.varied) for r in plan if r.role == "baseline" and r.method == method]
    search = amount_and_rightness(table, [(rule, cfg) for _, rule, _ in cells], MARGINS)
    calls = costs.set_index("rule")["block_calls"]
    labels = {"method": [c[0] for c in cells], "varied": [c[2] for c in cells]}
    return search.assign(**labels, block_calls=[calls[c[1]] for c in cells])


def sentences(search: pd.DataFrame) -> list[str]:
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
