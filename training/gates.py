"""Gates: does the exported folder draw what it is asked for, and what do its outlier channels do?

Four measurements on the folder as it is reloaded: (a) the VAE's reconstructions, (b) samples against their references,
(c) outlier channels by block and sigma, (d) what zeroing them does to one denoising step, beside matched controls.
Channels are detected on some prompts; (b) and (d) use others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

import dg_tools as dg
from dg_tools.datasets.references import STYLES, Reference, References
from dg_tools.generation.sampling import run
from dg_tools.massive import Massive
from dg_tools.metrics import band_correlation, bootstrap_interval
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import encode, pictures, spatial

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
SCALE, STEPS = 3.0, 20  # CFG and steps of every sample, set before any was looked at


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        retrieval, held_out: trained and held-out pairs sampled for gate b, at most.
        pictures, controls: of gate d; `sigmas` its noise levels.
        prompts, seeds: of the detection.
    """

    retrieval: int = 200
    held_out: int = 1000
    pictures: int = 64
    controls: int = 20
    sigmas: tuple[float, ...] = (0.3, 0.7)
    prompts: int = 12
    seeds: int = 2


QUICK = Plan(retrieval=6, held_out=6, pictures=4, controls=2, sigmas=(0.5,), prompts=2, seeds=1)


def interval(values: Any) -> dict[str, float]:
    """Mean and 95% bootstrap interval over pictures, rounded."""
    mean, low, high = bootstrap_interval(np.asarray(values))
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


def parts(references: References, plan: Plan) -> tuple[list[Reference], list[Reference]]:
    """Trained references for detection, and for gate d; none shared."""
    total = min(plan.prompts + plan.pictures, len(references.pairs(held_out=False)))
    sample = references.sample(total, seed=20, held_out=False)
    count = plan.prompts if total == plan.prompts + plan.pictures else total // 2  # a toy folder
    return sample[:count], sample[count:]


@torch.no_grad()
def reconstruct(dit: DiT, truth: torch.Tensor) -> torch.Tensor:
    """Encoded and decoded pictures, in [-1, 1]."""
    return torch.cat([pictures(dit, encode(dit, p)) for p in truth.split(32)])


def vae_gate(dit: DiT, references: References) -> dict[str, Any]:
    """(a) Correlation of reconstructions with the pictures by band, every name and style on a random background."""
    result: dict[str, Any] = {}
    for side, held_out in (("all", None), ("trained", False), ("held_out", True)):
        pairs = references.pairs(held_out)
        truth = references.pictures(references.sample(len(pairs), seed=3, held_out=held_out))
        bands = band_correlation(reconstruct(dit, truth), truth)
        result[side] = {band: interval(v) for band, v in bands.items()}
    return result


def sample(dit: DiT, references: list[Reference], seed: int = 0, batch: int = 25) -> torch.Tensor:
    """One sample for each reference's full caption, with CFG, (N, 3, H, W) in [-1, 1]."""
    samples = []
    for begin in tqdm(range(0, len(references), batch), desc="samples"):
        part = references[begin : begin + batch]
        seeds = [seed * 10_000 + begin + i for i in range(len(part))]
        latents, _ = run(dit, [r.prompt for r in part], seed=seeds, steps=STEPS, guidance=dg.CFG(SCALE))
        samples.append(pictures(dit, spatial(dit, latents, *dit.size())))
    return torch.cat(samples)


def name_ranks(references: References, wanted: list[Reference], samples: torch.Tensor) -> np.ndarray:
    """Rank of the right name (0 = nearest) by pixels at 16 x 16, among all names in either style on that background."""
    ranks = np.zeros(len(wanted), int)
    for background in {r.background for r in wanted}:
        pool = [references.reference(n, s, background) for n in references.names for s in STYLES]
        small = F.adaptive_avg_pool2d(references.pictures(pool), 16).flatten(1)
        for i, reference in enumerate(wanted):
            if reference.background == background:
                distance = (F.adaptive_avg_pool2d(samples[i : i + 1], 16).flatten(1) - small).norm(dim=1)
                nearest = distance.view(-1, len(STYLES)).amin(1)
                ranks[i] = int((nearest < nearest[references.names.index(reference.name)]).sum())
    return ranks


def retrieval_gate(dit: DiT, references: References, plan: Plan) -> tuple[dict[str, Any], torch.Tensor]:
    """(b) Samples against their references, trained and held-out pairs apart; and the first of each, for the card."""
    result: dict[str, Any] = {"guidance_scale": SCALE, "steps": STEPS, "names": len(references.names)}
    shown = []
    for side, held_out, count in (("trained", False, plan.retrieval), ("held_out", True, plan.held_out)):
        wanted = references.sample(min(count, len(references.pairs(held_out))), seed=9, held_out=held_out)
        samples, again = sample(dit, wanted), sample(dit, wanted[:50], seed=1)
        truth, others = references.pictures(wanted), references.pictures([r.other_style for r in wanted])
        ranks = name_ranks(references, wanted, samples)
        bands = band_correlation(samples, truth)
        nearer = (samples - truth).square().mean((1, 2, 3)) < (samples - others).square().mean((1, 2, 3))
        result[side] = {
            "pairs": len(wanted),
            "top_1": interval(ranks < 1),
            "top_5": interval(ranks < 5),
            "low_correlation": interval(bands["low"]),
            "high_correlation": interval(bands["high"]),
            "high_correlation_of_vae": interval(band_correlation(reconstruct(dit, truth), truth)["high"]),
            "asked_style_is_nearer": interval(nearer.float()),
            "two_seeds_high_correlation": interval(band_correlation(samples[:50], again)["high"]),
        }
        shown.append((wanted[:12], samples[:12]))
    grid = torch.cat([x for wanted, samples in shown for x in (references.pictures(wanted), samples)])
    return result, grid


def outlier_channels(dit: DiT, wanted: list[Reference], plan: Plan) -> tuple[Massive, Massive, pd.DataFrame]:
    """(c) Massive channels, outliers, and the table of all of them by block and sigma."""
    acts = dg.capture(dit, [r.prompt for r in wanted], seeds=range(plan.seeds), steps=STEPS)
    levels = acts.data["sigma"].values
    tables = []
    for sigma in SIGMAS:
        step = int(np.abs(levels - sigma).argmin())
        mas = dg.find_massive(acts.data.isel(step=[step]), blocks=1)
        tables.append(mas.to_frame().assign(sigma=round(float(levels[step]), 3)))
    return dg.find_massive(acts), dg.find_massive(acts, rule="outlier"), pd.concat(tables, ignore_index=True)


def one_step(dit: DiT, source: References, wanted: list[Reference], channels: list[int], plan: Plan) -> pd.DataFrame:
    """(d) By block and band: error relative to clean with its interval and rank among the controls; style axis."""
    rows = []
    for block in range(len(dit.blocks)):
        off = dg.Disrupt(channels, block)
        result = dg.denoise_error(dit, wanted, [off, *off.controls(plan.controls)], sigmas=plan.sigmas, folder=source)
        table = result.table
        mine, clean = table[table["edit"] == off.sentence()], table[table["edit"] == "clean"]
        others = table[table["edit"].map(result.roles) == "control"]
        axis = interval(mine[mine["band"] == "high"].groupby("picture")["style_axis"].mean().dropna())
        for row in result.summary().to_dict("records"):
            band = row["band"]
            pick = [t[t["band"] == band] for t in (mine, clean, others)]
            by_draw = pick[2].groupby("edit")["error"].mean() / pick[1]["error"].mean()
            rows.append(
                {
                    "block": block,
                    **{k: row[k] for k in ("band", "ratio", "low", "high", "controls", "rank")},
                    "control_median": float(by_draw.median()),
                    "control_low": float(by_draw.min()),
                    "control_high": float(by_draw.max()),
                    "coherent": pick[0]["coherent"].mean() / pick[1]["error"].mean(),
                    "incoherent": pick[0]["incoherent"].mean() / pick[1]["error"].mean(),
                    "clean_coherent": pick[1]["coherent"].mean() / pick[1]["error"].mean(),
                    "style_axis": axis["mean"],
                    "style_axis_low": axis["low"],
                    "style_axis_high": axis["high"],
                }
            )
    return pd.DataFrame(rows)
