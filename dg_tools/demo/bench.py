"""What the demo draws and measures: pictures of some captions from the same noise, under edits and guidances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from diffusers.guiders import BaseGuidance

from dg_tools.datasets.examples import Example, with_pictures
from dg_tools.experiments.dose_step import OneStep, channel_table
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.generation.sampling import run
from dg_tools.guidance.report import Report
from dg_tools.interventions import Disrupt
from dg_tools.metrics import amount_change, band_correlation, bootstrap_interval, low_correlation
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures, spatial
from dg_tools.progress import progress_bar

FIRST_SEED = 500  # of the noise: caption i starts from seed 500 + i
AT_ONCE = 2**16  # pixels of the pictures drawn in one call
SIGMAS = (0.3, 0.6, 0.9)  # where controls are scaled
MATCHED = 4  # captions on which they are scaled
EQUAL = 0.15  # largest relative difference of a control's mean ||v - v_d|| from the weak model's
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Drawn:
    """Pictures of one setting.

    Attributes:
        pictures: (N, 3, H, W) in [-1, 1].
        passes: through the transformer, for one picture and step; a pass that starts at a block counts the rest.
        reports: what the guidance did, one for each call; empty without one.
    """

    pictures: torch.Tensor
    passes: float
    reports: tuple[Report, ...] = ()

    @property
    def change(self) -> float:
        """||d - c|| / ||c||, mean over steps; 0 without a report."""
        return sum(r.mean_change for r in self.reports) / max(len(self.reports), 1)


class Bench:
    """Some captions, their noise, their plain pictures, and their references where there are some.

    Args:
        dit: the model.
        examples: captions, with a picture each or without.
        steps: of every run.
    """

    def __init__(self, dit: DiT, examples: Sequence[Example], steps: int) -> None:
        self.dit, self.steps = dit, steps
        self.prompts = [example.prompt for example in examples]
        truths = [example.picture for example in examples if example.picture is not None]
        self.truth = torch.stack(truths) if len(truths) == len(examples) else None
        height, width = dit.size()
        self.chunk = max(1, AT_ONCE // (height * width))
        self.bar = progress_bar(True, desc="demo", unit="run")
        self.clean = self.draw().pictures

    def draw(
        self, edits: Sequence[Disrupt] = (), guidance: BaseGuidance | None = None, count: int | None = None
    ) -> Drawn:
        """The first `count` captions (None: all) under edits in every pass, or under a guidance."""
        prompts = self.prompts[:count]
        parts, calls, reports = [], 0, []
        for start in range(0, len(prompts), self.chunk):
            words = prompts[start : start + self.chunk]
            seeds = [FIRST_SEED + start + i for i in range(len(words))]
            latents, cost = run(self.dit, words, seed=seeds, steps=self.steps, edits=edits, guidance=guidance)
            parts.append(pictures(self.dit, spatial(self.dit, latents, *self.dit.size()), batch=self.chunk))
            calls += cost.block_calls
            reports += [cost.guided] if cost.guided is not None else []
        self.bar.update()
        passes = calls / len(self.dit.blocks) / len(prompts) / self.steps
        return Drawn(torch.cat(parts), passes, tuple(reports))

    def measured(self, drawn: torch.Tensor) -> dict[str, Interval]:
        """Means with 95% intervals over captions: amt_c and low band against the plain pictures, right where known."""
        clean, cell = self.clean[: len(drawn)], self.dit.vae_scale_factor
        columns = {"amount": amount_change(drawn, clean, cell), "low": low_correlation(drawn, clean, cell)}
        if self.truth is not None:
            truth = self.truth[: len(drawn)]
            right = [band_correlation(x, truth)["high"] for x in (drawn, clean)]
            columns["right"] = right[0] - right[1]
        return {name: bootstrap_interval(values.double()) for name, values in columns.items()}

    def own_gain(self, drawn: Drawn, weight: float) -> Any:
        """The gain that a guided run contains, by noise level, mean over its calls."""
        points = [report.own_gain(weight) for report in drawn.reports]
        return tuple((part[0][0], sum(gain for _, gain in part) / len(part)) for part in zip(*points, strict=True))

    @cached_property
    def noised(self) -> NoisedPictures:
        """The first plain pictures, to be noised: where controls are scaled."""
        count = min(MATCHED, self.chunk)  # one forward
        shown = with_pictures(self.prompts[:count], self.clean[:count])
        return NoisedPictures(self.dit, shown, [0])

    def others(self, edit: Disrupt) -> Disrupt:
        """The same edit on as many other channels: those with the most energy at its block."""
        where = channel_table(self.noised, edit.channels, SIGMAS[1:2])
        largest = where.loc[where["block"] == edit.block, "others"].iloc[0].split()
        return replace(edit, channels=[int(c) for c in largest], control=True)

    def controls(self, edit: Disrupt, counts: Mapping[float, int]) -> dict[float, list[Disrupt]]:
        """Sets of other channels for each dose, scaled by noise level until the mean ||v - v_d|| is the edit's.

        The first are `others`, the further ones are drawn. Those that do not come within `EQUAL` are left out.
        """
        noised, first = self.noised, self.others(edit)
        with self.dit.running(), torch.no_grad():
            levels = [OneStep(noised, s, slice(0, len(noised)), noised.inputs[0]) for s in SIGMAS]
            scaled: dict[float, list[Disrupt]] = {}
            for rho, count in counts.items():
                whole = replace(edit, mode="scale", rho=rho)
                draws = [replace(first, mode="scale", rho=rho)]
                draws += [replace(whole, others=True, draw=i, control=True) for i in range(count - 1)]
                targets = [float(at.change(at.velocity(whole)).mean()) for at in levels]
                scaled[rho] = [x for draw in draws if (x := equal(levels, targets, draw)) is not None]
                self.bar.update()
        return scaled


def equal(levels: Sequence[OneStep], targets: Sequence[float], draw: Disrupt) -> Disrupt | None:
    """A control at the dose, by noise level, at which it moves the velocity as much; None where no dose does."""
    points, factor = [], 1.0
    for at, target in zip(levels, targets, strict=True):
        found, factor, ratio = at.scaled(draw, target, factor)
        if abs(ratio - 1) > EQUAL:
            return None
        points.append((at.sigma, float(found.retention(at.sigma))))
    return replace(draw, rho=tuple(points))
