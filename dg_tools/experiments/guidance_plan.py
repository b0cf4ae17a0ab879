"""The plan of the guidance experiment: its sampling runs and what each costs, before anything is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dg_tools.experiments.directions import ALWAYS, BLUR, WEAK, GuidanceRule, Window
from dg_tools.experiments.sampling_step import Source
from dg_tools.guidance.baselines.one_pass import OnePass
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.interventions import Disrupt

Role = Literal[
    "base", "DG", "equal compute", "one pass", "control guidance", "part of DG", "sweep", "control draw", "baseline"
]


@dataclass(frozen=True)
class Run:
    """One sampling run: a guidance, for how many steps, and its place in the argument.

    Attributes:
        role: what it is for.
        base: name of the run that it is compared with.
        draw: number of the control draw, -1 for other runs.
        varied: in a sweep, what is varied and to what: `w = 0.25`.
        method: of a baseline, its name: `Gain`.
    """

    guidance: GuidanceRule
    steps: int
    role: Role
    base: str = ""
    draw: int = -1
    varied: str = ""
    method: str = ""

    @property
    def name(self) -> str:
        """The name of its guidance."""
        return self.guidance.name


def joined(*parts: str) -> str:
    """Names of terms added up: `CFG 3 + DG 0.5`."""
    return " + ".join(p for p in parts if p) or "cond"


def block_calls(guidance: GuidanceRule, sources: Mapping[str, Source], blocks: int, steps: int) -> int:
    """Blocks that one picture costs: all of them for c and u, those after the disrupted one for a disruption."""
    total = 0
    for step in range(steps):
        for name in guidance.passes(step, steps):
            source = sources.get(name)
            if isinstance(source, InBlocks):
                total += source.calls(blocks)
            elif isinstance(source, Disrupt):
                total += blocks - source.block - 1
            else:
                total += blocks
    return total


def equal_steps(base: GuidanceRule, cost: int, sources: Mapping[str, Source], blocks: int, steps: int) -> int:
    """How many steps of `base` cost nearest to `cost` block calls, the more where two are as near; at least `steps`."""
    many = range(steps, 4 * steps + 1)
    return min(many, key=lambda n: (abs(block_calls(base, sources, blocks, n) - cost), -n))


def runs(
    sources: Mapping[str, Source],
    blocks: int,
    *,
    steps: int,
    scale: float,
    weight: float,
    window: Window,
    blur_sigma: float,
    controls: int,
    scales: Sequence[float] = (),
    others: Sequence[tuple[str, int]] = (),
    windows: Sequence[Window] = (),
    one_pass: Mapping[str, OnePass] = {},
) -> list[Run]:
    """The plan.

    Args:
        sources: of the loop: `d`, `twin` (the weak model), `control 0` and on, `variance` where there is one.
        blocks: of the transformer.
        steps: of every run but those of equal compute.
        scale, weight: s and w.
        window: of the comparison within one window.
        blur_sigma: of the blurred prediction.
        controls: control draws under DG+CFG, at matched norm per step.
        scales, others, windows: what the sweep varies, one at a time: w, (name of a source, its block), window of w.
        one_pass: guidances compared with every DG, by name; see the registry's `beside`.
    """
    plan: list[Run] = []
    detail = f"DG {weight:g}"
    alternatives = [BLUR, WEAK, "control 0", *(["variance"] if "variance" in sources else [])]
    words = {BLUR: "blur", WEAK: "noised twin", "control 0": "shift control", "variance": "variance control"}

    def equal(name: str, to: GuidanceRule, base: GuidanceRule) -> Run:
        n = equal_steps(base, block_calls(to, sources, blocks, steps), sources, blocks, steps)
        return Run(replace(base, name=f"{name}, {n} steps"), n, "equal compute", base.name)

    def beside(base: GuidanceRule, cfg: str, end: str = "", window: Window = ALWAYS) -> list[Run]:
        rules = {
            method: replace(base, name=joined(cfg, guider.named) + end, window=window, one_pass=guider)
            for method, guider in one_pass.items()
        }
        return [Run(rule, steps, "one pass", base.name, method=method) for method, rule in rules.items()]

    for s in (1.0, scale):
        cfg = f"CFG {s:g}" if s > 1 else ""
        base = GuidanceRule(joined(cfg), s, blur_sigma=blur_sigma)
        dg = replace(base, name=joined(cfg, detail), weight=weight)
        fair = equal(base.name, dg, base)
        plan += [Run(base, steps, "base"), Run(dg, steps, "DG", base.name), fair, *beside(base, cfg)]
        for name in alternatives:
            against = replace(dg, degraded=name)
            same = replace(against, name=joined(cfg, f"{words[name]} {weight:g}"))
            matched = replace(against, name=joined(cfg, f"{words[name]}, norm of DG"), norm_of="d")
            draw = 0 if name == "control 0" and s > 1 else -1
            plan += [
                Run(same, steps, "control guidance", base.name),
                Run(matched, steps, "control guidance", base.name, draw),
            ]
        for part in ("along", "across"):
            split = replace(dg, name=joined(cfg, f"DG {part} CFG"), part=part)
            plan.append(Run(split, steps, "part of DG", base.name))

    cfg, within = f"CFG {scale:g}", f"in {window[0]:g} to {window[1]:g}"
    base = GuidanceRule(f"{cfg}, {within}", scale, cfg_window=window, blur_sigma=blur_sigma)
    dg = replace(base, name=f"{cfg} + {detail}, {within}", weight=weight, window=window)
    plan += [Run(base, steps, "base"), Run(dg, steps, "DG", base.name), equal(base.name, dg, base)]
    plan += beside(base, cfg, f", {within}", window)

    whole = GuidanceRule(joined(cfg, detail), scale, weight, blur_sigma=blur_sigma)
    plan += sweep(whole, steps, cfg, scales, others, windows)
    for i in range(1, controls):  # the first is among the control guidances
        control = replace(whole, degraded=f"control {i}", norm_of="d", name=f"{cfg} + control draw {i}, norm of DG")
        plan.append(Run(control, steps, "control draw", cfg, i))
    names = [run.name for run in plan]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise ValueError(f"two runs of the plan are the same ({repeated}): take other scales, blocks or windows")
    return plan


def sweep(
    whole: GuidanceRule,
    steps: int,
    cfg: str,
    scales: Sequence[float],
    others: Sequence[tuple[str, int]],
    windows: Sequence[Window],
) -> list[Run]:
    """DG+CFG with another weight, block or window, one at a time."""
    runs = []
    for w in scales:
        rule = replace(whole, weight=w, name=joined(cfg, f"DG {w:g}"))
        runs.append(Run(rule, steps, "sweep", cfg, varied=f"w = {w:g}"))
    for name, block in others:
        change = f"block {block}"
        rule = replace(whole, degraded=name, name=f"{whole.name}, {change}")
        runs.append(Run(rule, steps, "sweep", cfg, varied=change))
    for span in windows:
        change = f"DG in {span[0]:g} to {span[1]:g}"
        rule = replace(whole, window=span, name=f"{whole.name}, {change}")
        runs.append(Run(rule, steps, "sweep", cfg, varied=change))
    return runs
