"""The runs of `dose`: one step at every block and dose, one step with all controls at one block, and whole samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import pandas as pd
import torch

from dg_tools.experiments.dose_parts import Parts
from dg_tools.experiments.dose_step import OneStep, measures, step_rows
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.samples import RETRIEVAL_SIZE, Samples, small
from dg_tools.interventions import Disrupt
from dg_tools.metrics import retrieval_margin


class Doses(NamedTuple):
    """What is run: the doses, and the two at which random channels are drawn as controls."""

    rhos: tuple[float, ...]
    below: float
    above: float


def others_at(where: pd.DataFrame, block: int) -> list[int]:
    """As many other channels, with the most energy at a block."""
    return [int(c) for c in where.loc[where["block"] == block, "others"].iloc[0].split()]


def labels(samples: Samples, part: slice, **more: Any) -> dict[str, Any]:
    """Columns of rows of these pictures."""
    return {"kind": "step", "prompt": samples.prompts[part], "seed": samples.seeds[part], **more}


def by_block(
    noised: NoisedPictures, samples: Samples, channels: Sequence[int], blocks: Sequence[int], doses: Doses,
    sigmas: Sequence[float], parts: Parts,
) -> pd.DataFrame:  # fmt: skip
    """One step at every block, rho and noise level."""

    def measured(step: Callable[[], OneStep], part: slice, block: int) -> list[pd.DataFrame]:
        at, truth, tables = step(), noised.truth[noised.picture[part]], []
        for rho in doses.rhos:
            edit = Disrupt(channels, block, "scale", rho=rho)
            predicted = at.clean if rho == 1 else at.velocity(edit)
            more = labels(samples, part, who="massive", block=block, rho=rho, sigma=at.sigma)
            tables.append(step_rows(at, predicted, truth, **more))
        return [pd.concat(tables, ignore_index=True)]

    tables = []
    with noised.dit.running():
        for sigma in sigmas:
            for part, inputs in zip(noised.parts(), noised.inputs, strict=True):
                step = cache(partial(OneStep, noised, sigma, part, inputs))
                for block in blocks:
                    name = f"block {block}, sigma {sigma}, pictures {part.start}"
                    tables += parts.tables(name, len(doses.rhos) - 1, partial(measured, step, part, block))
    return pd.concat(tables, ignore_index=True)


def at_block(
    noised: NoisedPictures, samples: Samples, channels: Sequence[int], block: int, where: pd.DataFrame, doses: Doses,
    sigmas: Sequence[float], controls: int, parts: Parts,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """One step at one block: all comparisons with the massive channels, and how the controls were scaled."""
    whole = Disrupt(channels, block, "scale")
    randoms = {f"control {i}": replace(whole, others=True, draw=i, control=True) for i in range(controls)}
    largest = replace(whole, channels=others_at(where, block), control=True)

    def measured(step: Callable[[], OneStep], part: slice, number: int, rho: float) -> list[pd.DataFrame]:
        at, truth = step(), noised.truth[noised.picture[part]]
        tables, matched = [], []

        def add(who: str, v: torch.Tensor) -> None:
            more = labels(samples, part, who=who, block=block, rho=rho, sigma=at.sigma)
            tables.append(step_rows(at, v, truth, **more))

        massive = at.velocity(replace(whole, rho=rho))
        for channel in channels:
            alone = massive if len(channels) == 1 else at.velocity(replace(whole, channels=[channel], rho=rho))
            add(f"{channel} alone", alone)
        add("norms kept", at.velocity(replace(whole, rho=rho, norms="clean")))
        add("gain alone", at.gained(massive))
        target = float(at.change(massive).mean())
        factor = 1.0
        for who, control in {"largest others": largest, **drawn(rho)}.items():
            edit, factor, ratio = at.scaled(replace(control, rho=rho), target, factor)
            add(who, at.velocity(edit))
            row = {"who": who, "rho": rho, "sigma": at.sigma, "part": number}
            matched.append({**row, "applied": edit.rho, "factor": factor, "reached": ratio})
        return [pd.concat(tables, ignore_index=True), pd.DataFrame(matched)]

    def drawn(rho: float) -> dict[str, Disrupt]:
        return randoms if rho in (doses.below, doses.above) else {}

    rows, matching = [], []
    with noised.dit.running():
        for sigma in sigmas:
            for number, (part, inputs) in enumerate(zip(noised.parts(), noised.inputs, strict=True)):
                step = cache(partial(OneStep, noised, sigma, part, inputs))
                for rho in [r for r in doses.rhos if r != 1]:
                    name = f"beside, block {block}, sigma {sigma}, pictures {part.start}, rho {rho}"
                    make = partial(measured, step, part, number, rho)
                    table, matched = parts.tables(name, len(channels) + 3 + len(drawn(rho)), make)
                    rows.append(table)
                    matching.append(matched)
    return pd.concat(rows, ignore_index=True), pd.concat(matching, ignore_index=True)


def sample_rows(
    samples: Samples, channels: Sequence[int], others: Sequence[int], block: int, at: int, matching: pd.DataFrame,
    doses: Doses, scale: float, clean: torch.Tensor, parts: Parts,
) -> tuple[dict[float, torch.Tensor], pd.DataFrame]:  # fmt: skip
    """Whole samples at every rho and one block, of the massive channels, and at `at` of the largest others as scaled in
    one step; the first picture at each rho, and the rows.
    """
    truth = samples.truth if samples.truth is not None else clean
    cell = samples.dit.vae_scale_factor

    def measured(drawn: Callable[[], torch.Tensor], who: str, rho: float) -> list[pd.DataFrame]:
        pictures = drawn()
        more = {"kind": "sample", "who": who, "block": block, "rho": rho, "scale": scale}
        columns = {**more, "prompt": samples.prompts, "seed": samples.seeds, **margins(samples, pictures, clean)}
        return [pd.DataFrame({**columns, **measures(pictures, clean, truth, cell)})]

    tables, shown = [], {}
    for rho in doses.rhos:
        edits = {"massive": Disrupt(channels, block, "scale", rho=rho)}
        if block == at and rho != 1:
            schedule = matching[(matching["who"] == "largest others") & (matching["rho"] == rho)]
            points = schedule.groupby("sigma")["applied"].mean()
            edits["largest others"] = Disrupt(others, block, "scale", rho=tuple(points.items()), control=True)
        for who, edit in edits.items():
            drawn = cache(partial(samples.draw, [edit], scale)) if rho != 1 else lambda: clean
            name = f"samples at s {scale}, block {block}, rho {rho}, {who}"
            tables += parts.tables(name, 1, partial(measured, drawn, who, rho))
            if who == "massive":
                shown[rho] = parts.pictures(name, lambda: drawn()[:1])[0]  # noqa: B023  (called here)
    return shown, pd.concat(tables, ignore_index=True)


def margins(samples: Samples, pictures: torch.Tensor, clean: torch.Tensor) -> dict[str, list[float]]:
    """The margin of retrieval among other prompts' pictures; without references, the scores that are available."""
    if samples.truth is None:
        return {name: score.of(pictures, samples.prompts, clean).tolist() for name, score in samples.scores.items()}
    sets, own = samples.candidates(clean)
    pairs = zip(pictures, sets, own, strict=True)
    return {
        "margin": [
            float(retrieval_margin(small(x[None]), pool, torch.tensor([at]), size=RETRIEVAL_SIZE))
            if len(pool) > 1
            else float("nan")
            for x, pool, at in pairs
        ]
    }


def one_step_pictures(
    noised: NoisedPictures, channels: Sequence[int], block: int, doses: Doses, sigmas: Sequence[float]
) -> dict[str, torch.Tensor]:
    """The first picture's x0 at every rho, at the middle noise level."""
    sigma = sorted(sigmas)[len(sigmas) // 2]
    with noised.dit.running():
        at = OneStep(noised, sigma, slice(0, len(next(iter(noised.noise.split(noised.batch))))), noised.inputs[0])
        return {
            f"rho {rho:g}, sigma {sigma:g}": at.pictures(at.velocity(Disrupt(channels, block, "scale", rho=rho)))[0]
            for rho in doses.rhos
        }
