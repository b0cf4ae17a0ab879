"""Evaluate: the gates, on the folder as it is reloaded, and the model card that says what came out.

Writes README.md with its pictures, `evaluation.json`, `outlier_channels.csv`, `one_step.csv` and `profile.json` (the
weak model for Detail Guidance, see `training.weak_model`) into the folder.

    python -m training.evaluate --model dg_tools/zoo/emoji-sd3
    python -m training.evaluate --model dg_tools/zoo/emoji-sd3 --card     the card alone, from what is there
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import typer

import dg_tools as dg
from dg_tools.datasets.references import References
from dg_tools.metrics.cell_bands import bands_note
from dg_tools.models.profiles import read_profile, write_profile
from training.card import write_card
from training.gates import (
    QUICK,
    Plan,
    one_step,
    outlier_channels,
    parts,
    retrieval_gate,
    vae_gate,
)
from training.recipe import write_safely
from training.weak_model import CAPTIONS, chosen

QUICK_CAPTIONS = 2  # held-out ones on which the weak model is measured with --quick


def selectivity_sentence(table: pd.DataFrame, block: int) -> str:
    """Whether zeroing the channels hits high frequencies more than its controls do, in words."""
    part = table[table["block"] == block].set_index("band")
    mine = part.loc["high", "ratio"] / part.loc["low", "ratio"]
    null = part.loc["high", "control_median"] / part.loc["low", "control_median"]
    verdict = "more" if mine > null else "no more"
    return (
        f"High-band over low-band error ratio: {mine:.2f} for the channels, {null:.2f} for the controls "
        f"(medians): zeroing them is {verdict} selective of detail than shifts of that norm elsewhere, at this block. "
        "Such shifts print one dot per token, high-band damage of another kind, so this comparison decides nothing "
        "about detail: e does."
    )


def largest(table: pd.DataFrame) -> list[int]:
    """The one channel with the largest ratio anywhere, where no rule finds any (an untrained model); else channel 0."""
    return [int(table.groupby("channel")["ratio"].max().idxmax())] if len(table) else [0]


def main(
    model: Path = typer.Option(..., help="folder that training.export wrote"),
    references: Path = typer.Option(None, help="folder of the sprites (default: `emoji` beside the model)"),
    quick: bool = typer.Option(False, help="a few of everything: does it run?"),
    card: bool = typer.Option(False, help="measure nothing: write the card again from the stored numbers"),
) -> None:
    """Measure all gates and write the card; exits with an error where gate a or b is not met (not with --quick)."""
    if not (model / "training.json").is_file():
        raise SystemExit(f"{model} has no training.json: training.export did not write it")
    source = References(references or model.parent / "emoji")
    if card:
        write_again(model, source)
        return
    began, plan = time.perf_counter(), QUICK if quick else Plan()
    dit = dg.load(model)
    detection, test = parts(source, plan)
    results: dict[str, Any] = {"vae": vae_gate(dit, source)}
    print("a. VAE:", json.dumps(results["vae"]["all"]))
    results["retrieval"], grid = retrieval_gate(dit, source, plan)
    print("b. samples:", json.dumps({k: v for k, v in results["retrieval"].items() if isinstance(v, dict)}))
    massive, outliers, by_sigma = outlier_channels(dit, detection, plan)
    channels = massive.channels or outliers.channels or largest(by_sigma)
    if massive.channels:
        sentence = f"channels {channels} are massive."
    else:
        sentence = f"no channel is massive by the rule; channels {channels} are outliers that vary over tokens."
    print("c. outlier channels:", sentence)
    profile = chosen(dit, source, QUICK_CAPTIONS if quick else CAPTIONS, otherwise=channels)
    print("e. weak model:", profile["verdict"])
    block = len(dit.blocks) // 2 if profile["block"] is None else profile["block"]
    steps = one_step(dit, source, test, channels, plan)
    print(f"d. one step at block {block}:\n{steps[steps['block'] == block].to_string(index=False)}")
    weights = [p for p in dit.transformer.parameters()]
    results |= {
        "names": source.names,
        "held_out": sorted(source.held_out),
        "channels_sentence": sentence,
        "rule": massive.rule,
        "channels": channels,
        "block": block,
        "profile": profile,
        "pictures": len(test),
        "controls": plan.controls,
        "sigmas": plan.sigmas,
        "bands": bands_note(dit.vae_scale_factor),
        "selectivity_sentence": selectivity_sentence(steps, block),
        "parameters": sum(p.numel() for p in weights),
        "pixels_per_token": dit.pixels_per_token,
        "megabytes": sum(p.stat().st_size for p in model.rglob("*") if p.is_file()) / 2**20,
        "seconds": time.perf_counter() - began,
        "versions": ", ".join(f"{p} {version(p)}" for p in ("torch", "diffusers", "transformers")),
    }
    by_sigma.round(4).to_csv(model / "outlier_channels.csv", index=False)
    steps.round(4).to_csv(model / "one_step.csv", index=False)
    report = {k: v for k, v in results.items() if k not in ("names", "held_out", "profile")}
    write_profile(model / "profile.json", profile)
    write_safely(
        model / "evaluation.json", lambda file: file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    )
    write_card(model, results, grid, steps, by_sigma)
    print(f"{model / 'README.md'} written, {results['seconds']:.0f} s")
    high, top = results["vae"]["all"]["high"]["mean"], results["retrieval"]["trained"]["top_5"]["mean"]
    if not quick and (high < 0.95 or top < 0.9):
        raise SystemExit(f"gates not met: VAE high band {high:.3f} (0.95), trained pairs in the top 5 {top:.3f} (0.9)")


def write_again(model: Path, source: References) -> None:
    """The card from what an evaluation stored in the folder, and the profile that is there now."""
    results = json.loads((model / "evaluation.json").read_text(encoding="utf-8"))
    profile = read_profile(model) or {}
    block = results["block"] if profile["block"] is None else profile["block"]
    steps = pd.read_csv(model / "one_step.csv")
    sentence = selectivity_sentence(steps, block)
    results |= {"profile": profile, "block": block, "selectivity_sentence": sentence}
    results |= {"names": source.names, "held_out": sorted(source.held_out)}
    write_card(model, results, None, steps, pd.read_csv(model / "outlier_channels.csv"))


if __name__ == "__main__":
    typer.run(main)
