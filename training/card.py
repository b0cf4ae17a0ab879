"""The model card: what was trained, how well it draws, and what was measured, with the pictures that show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from dg_tools.models.profiles import profile_words
from dg_tools.plots.style import INK, MASSIVE, POINT, QUIET, finish, name_lines, styled
from training.architectures import ARCHITECTURES
from training.recipe import Recipe


def read_lines(path: Path) -> pd.DataFrame:
    """A JSON-lines log; empty where there is none."""
    if not path.is_file():
        return pd.DataFrame()
    return pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


@styled
def loss_curve(folder: Path) -> Figure:
    """Training loss (one batch at a time, and smoothed) and validation loss, trained and held-out pairs."""
    loss, validation = read_lines(folder / "dit.jsonl"), read_lines(folder / "validation.jsonl")
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axis.plot(loss["step"], loss["loss"], color=QUIET, alpha=0.4, lw=0.8)
    smooth = loss["loss"].rolling(20, min_periods=1).mean()
    axis.plot(loss["step"], smooth, color=INK, label="training, mean of 20 batches\n(pale: each batch)")
    if len(validation):
        for name, mark, colour in (("trained", "o-", POINT), ("held_out", "s-", MASSIVE)):
            words = f"fixed batch,\n{name.replace('_', '-')} pairs"
            axis.plot(validation["step"], validation[name], mark, ms=3, color=colour, label=words)
    axis.set(xlabel="training step", ylabel="mean squared error of the velocity", yscale="log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.minorticks_off()
    axis.set_xlim(0, loss["step"].max())
    axis.set_title("The loss falls on trained and on held-out pairs", fontsize=10)
    name_lines(axis, gap=0.14)
    return finish(figure)


@styled
def sample_grid(grid: torch.Tensor) -> Figure:
    """Four rows: references and samples of trained pairs, then of held-out pairs."""
    rows, columns = 4, len(grid) // 4
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * 0.95, rows * 1.0), squeeze=False, layout="constrained"
    )
    pixels = ((grid.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
    names = ("trained:\nreference", "sample", "held out:\nreference", "sample")
    for i, axis in enumerate(axes.flat):
        axis.imshow(pixels[i], interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        if i % columns == 0:
            axis.set_ylabel(names[i // columns], fontsize=8)
    return finish(figure)


@styled
def one_step_figure(table: pd.DataFrame, block: int) -> Figure:
    """Gate d: error ratio by block, one panel a band, controls as a range."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
    for axis, band in zip(axes, ("low", "mid", "high"), strict=True):
        part = table[table["band"] == band]
        x = part["block"].to_numpy()
        axis.fill_between(x, part["control_low"], part["control_high"], color=QUIET, alpha=0.3, lw=0)
        axis.plot(x, part["control_median"], color=QUIET, label="controls,\nmedian and range")
        error = np.abs(part[["low", "high"]].to_numpy().T - part["ratio"].to_numpy())
        axis.errorbar(x, part["ratio"], error, fmt="o-", ms=4, color=MASSIVE)
        axis.plot(x, part["ratio"], color=MASSIVE, lw=1, label="channels zeroed\n(95% interval)")
        axis.axvline(block, color=INK, lw=0.6, ls=":")
        axis.axhline(1, color=INK, lw=0.6)
        axis.set(title=f"{band.capitalize()} frequencies", xlabel="block", yscale="log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("x0 error / clean error")
    figure.suptitle("What zeroing the massive channels after one block costs in one step, by band", fontsize=10)
    name_lines(axes[2], gap=0.16)
    return finish(figure)


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """A small table in markdown."""

    def cell(value: Any) -> str:
        return f"{value:.{digits}g}" if isinstance(value, float) else str(value)

    head = "| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns) + "\n"
    return head + "\n".join("| " + " | ".join(cell(v) for v in row) + " |" for row in table.itertuples(index=False))


def with_interval(value: dict[str, float]) -> str:
    """`0.95 (0.94 to 0.96)`."""
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def one_call(*arguments: str) -> str:
    """`pipe(...)`, on one line where it fits."""
    line = f"pipe({', '.join(arguments)})"
    return line if len(line) <= 110 else "pipe(\n" + "".join(f"    {a},\n" for a in arguments) + ")"


def write_card(
    folder: Path, results: dict[str, Any], grid: torch.Tensor | None, steps: pd.DataFrame, outliers: pd.DataFrame
) -> None:
    """README.md and its pictures, from `evaluate`'s results; without a grid of samples their picture and the loss stay."""
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    recipe, runs = Recipe.from_json(record["recipe"]), record["runs"]
    kind, dit = ARCHITECTURES[recipe.dit.architecture], recipe.dit
    figures = {"one_step.png": one_step_figure(steps, results["block"])}
    if grid is not None:
        figures |= {"loss.png": loss_curve(folder), "samples.png": sample_grid(grid)}
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    hours = sum(r["seconds"] for r in runs) / 3600
    machines = "; ".join(dict.fromkeys(r["machine"] for r in runs))
    vae, retrieval = results["vae"], results["retrieval"]
    trained, held = retrieval["trained"], retrieval["held_out"]
    rows = [
        ("right name nearest", "top_1"),
        ("right name in the top 5", "top_5"),
        ("low-band correlation with the reference", "low_correlation"),
        ("high-band correlation with the reference", "high_correlation"),
        ("the same for the VAE's reconstruction (ceiling)", "high_correlation_of_vae"),
        ("nearer to the asked style than to its twin", "asked_style_is_nearer"),
        ("high-band correlation of two seeds", "two_seeds_high_correlation"),
    ]
    table = "\n".join(f"| {label} | {with_interval(trained[k])} | {with_interval(held[k])} |" for label, k in rows)
    gates = {"a": vae["all"]["high"]["mean"] >= 0.95, "b": trained["top_5"]["mean"] >= 0.9}
    profile, block, grid_side = results["profile"], results["block"], recipe.size // results["pixels_per_token"]
    call = [f"{k}={v}" for k, v in kind.call(recipe).items()]
    last = outliers[outliers["block"] == outliers["block"].max()].sort_values(
        ["sigma", "ratio"], ascending=[True, False]
    )
    shown = last.groupby("sigma").head(3)[
        ["sigma", "channel", "ratio", "energy_share", "dc_share", "sign", "coverage", "variation", "massive"]
    ]
    at = steps[steps["block"] == block][
        [
            "band",
            "ratio",
            "low",
            "high",
            "control_median",
            "rank",
            "controls",
            "coherent",
            "incoherent",
            "clean_coherent",
        ]
    ]
    which = "the middle one" if profile["block"] is None else "which `profile.json` names"
    header = (folder / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    notes = f"- What was done otherwise than the recipe says: {record['notes']}\n" if record.get("notes") else ""
    bands = f"); {results['bands']}" if "bands" in results else ")"  # an older evaluation was in bands of pixels
    text = f"""---
{header}---

# {folder.name}

A small `{kind.name}`, trained from random weights on {len(results["names"])} names of Fluent Emoji in two styles
(shaded and flat, MIT licence) at {recipe.size} x {recipe.size} pixels. It ships with dg_tools so that everything about
massive activations and Detail Guidance can be run offline. It draws emoji and nothing else.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{folder.name}")  # this folder
{one_call('"red apple on blue"', *call, "num_inference_steps=20", *kind.cfg)}.images[0]
```

`{", ".join(call)}` is needed in the call: {kind.why}.
`dg_tools.generate` reads it from the header of this file.

![references above samples](samples.png)

## Training

- {kind.words(recipe)}. Width {dit.heads * dit.head_dim} ({dit.heads} heads), {grid_side} x {grid_side} image tokens (patch {dit.patch}),
  {results["parameters"] / 1e6:.1f} M parameters in the transformer; AdaLN gates and output start at zero.
- {record["steps"]:,} steps of batch {dit.batch} in {hours:.2f} h, over {len(runs)} run(s), on: {machines}. AdamW {dit.learning_rate:g}, no weight decay,
  average of the weights {dit.ema}, {dit.unconditional:.0%} of the captions dropped, logit-normal sigma.
- One tenth of the name x style pairs ({len(results["held_out"])}) is held out of the DiT's training: such a name was seen in its other style only. The VAE
  reads no caption and saw all pictures; its latents are zero-mean and unit-variance per channel, folded into its outer
  convolutions.
- Nothing is planted. Architecture and training were chosen on validation loss and retrieval. The command:
  `python -m training.dit --recipe {recipe.name}`; `training.json` holds recipe and runs, `*.jsonl` the logs,
  `outliers.csv` the outlier channels at log-spaced steps of the training.
{notes}
![loss](loss.png)

## Gates

Computed by `python -m training.evaluate` on this folder as reloaded; mean and 95% bootstrap interval over pictures.

**a. VAE** ({"met" if gates["a"] else "NOT met"}: at least 0.95). Correlation of reconstructions in the high band (from 1/8 cycles per pixel):
{with_interval(vae["all"]["high"])}; middle {vae["all"]["mid"]["mean"]:.4f}, low {vae["all"]["low"]["mean"]:.4f}. Held-out pairs alone: {vae["held_out"]["high"]["mean"]:.3f}.

**b. Samples** ({"met" if gates["b"] else "NOT met"}: right name in the top 5 for at least 90% of trained pairs). CFG s = {retrieval["guidance_scale"]:g}, {retrieval["steps"]} steps, full
captions; nearest by pixels at 16 x 16 among {retrieval["names"]} names in both styles on the prompted background.

| | trained pairs ({trained["pairs"]}) | held-out pairs ({held["pairs"]}) |
|---|---|---|
{table}

What the model memorises: {memorisation(trained, held)}

**c. Outlier channels**: {results["channels_sentence"]} By sigma, the three largest after the last block (all blocks:
`outlier_channels.csv`); `massive` is the rule: {results["rule"]}.

{markdown(shown)}

**d. One step, paired at the same z_t**: channels {results["channels"]} zeroed at each block, {results["pictures"]} trained pictures, sigma
{", ".join(map(str, results["sigmas"]))}, beside {results["controls"]} token-constant shifts of the same norm on other channels. x0 error relative to the
clean prediction's (all blocks: `one_step.csv`{bands}:

![one step](one_step.png)

At block {block}, {which}:

{markdown(at)}

{results["selectivity_sentence"]}

**e. The weak model for Detail Guidance**, as `profile.json` says it: {profile_words(profile)}.
{weak_model_words(profile)}

Size as evaluated: {results["megabytes"]:.1f} MiB. Evaluated in {results["seconds"] / 60:.0f} minutes with {results["versions"]}.
"""
    (folder / "README.md").write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def weak_model_words(profile: dict[str, Any]) -> str:
    """What `auto` found, and what it is worth on captions that were used for nothing else."""
    verdict = f"`auto`: {profile['verdict']}"
    if "measured" not in profile:
        return verdict
    measured = profile["measured"]
    form = "{:+.2f} ({:+.2f} to {:+.2f})".format
    amount, gain, beyond = (form(*measured[name]) for name in ("amount", "gain_amount", "beyond"))
    low = "{:.3f} ({:.3f} to {:.3f})".format(*measured["low"])
    return f"""{verdict}

On {measured["prompts"]} held-out captions, {measured["steps"]} steps, no CFG: Detail Guidance changes the amount of detail at equal contrast (amt_c) by
{amount} doublings; its own gain alone by {gain}; the difference is {beyond}. Its low band
correlates with the plain picture's at {low}. Whether it is the right detail: [docs/weak_model.md](../../../docs/weak_model.md)."""


def memorisation(trained: dict[str, Any], held: dict[str, Any]) -> str:
    """What the figures of gate b say about memory, in words that follow from them."""
    agree, own = trained["two_seeds_high_correlation"]["mean"], trained["high_correlation"]["mean"]
    style = held["asked_style_is_nearer"]["mean"]
    words = f"two seeds of one trained caption agree with each other in fine detail at {agree:.2f}, and with the reference at {own:.2f}, "
    words += (
        "so the model recalls its training pictures rather than inventing new ones. "
        if own > 0.5
        else ("so composition is recalled and much of the fine detail is not. ")
    )
    words += f"Of the held-out pairs, whose name it knows in the other style only, {style:.0%} come out nearer to the asked style; "
    words += (
        f"their fine detail agrees with the unseen reference at {held['high_correlation']['mean']:.2f}. A finding on trained pairs is therefore one "
        "about recalled detail; judge invented detail on the held-out ones."
    )
    return words
