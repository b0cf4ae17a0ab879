"""The demo: a model's massive activations, what is lost when they are off, and what guidance gains.

One call from detection to measurement: detect on some prompts, choose nothing by eye, draw and measure on others. It
writes pictures and `summary.json`. Every number that is printed is in the summary, and the last line is the verdict,
which may be that Detail Guidance does not help here.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dg_tools import plots
from dg_tools.activations import Activations, capture
from dg_tools.datasets.references import Reference, References, references
from dg_tools.experiments import denoise_error
from dg_tools.generation._generate import generate
from dg_tools.generation.sampling import run
from dg_tools.guidance.cfg import CFG
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.massive import Massive, find_massive
from dg_tools.metrics import bootstrap_interval, describe
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode, pictures, spatial
from dg_tools.paths import check_folder
from dg_tools.progress import progress_bar

PROMPTS = ("red apple on blue", "penguin on yellow", "strawberry on white", "owl on teal")
DETECTION = ("banana on green", "horse face on purple", "soccer ball on brown", "mushroom on black")
SCALE, WEIGHT, STEPS = 3.0, 0.5, 20  # CFG s, DG w and steps: set beforehand, the same for every model
LIMIT = 90  # seconds on two cores, after the install
MEASURED = 20  # pictures behind each interval


class Report:
    """Collects what is printed, with the time that each part took."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.summary: dict[str, Any] = {"figures": {}, "seconds": {}, "pictures": []}
        self.began = time.perf_counter()
        self.last = self.began

    def say(self, key: str, sentence: str, value: Any) -> None:
        """Print a sentence and keep it with its value."""
        print(sentence)
        self.summary["figures"][key] = {"sentence": sentence, "value": value}

    def picture(self, figure: Any, name: str) -> None:
        """Save a figure, plotly as a page that stands alone."""
        path = self.out / name
        if name.endswith(".html"):
            figure.write_html(path, include_plotlyjs=True)
        else:
            figure.savefig(path, dpi=130)
        self.summary["pictures"].append(name)

    def part(self, name: str) -> None:
        """Close a part: its seconds are those since the last one closed."""
        now = time.perf_counter()
        self.summary["seconds"][name] = round(now - self.last, 1)
        self.last = now


def demo(out: str | Path = "demo", model: Any = None, **loading: Any) -> dict[str, Any]:
    """Run the demo and return its summary.

    Args:
        out: folder for pictures and `summary.json`; made where missing.
        model: as in `load`; the embedded default where None. A model without reference pictures skips what needs them,
            and says so.
        **loading: `device`, `dtype`, `offload`: as in `load`.

    Raises:
        NotADirectoryError: `out` is a file.
    """
    out = Path(out)
    check_folder(out, "pass a folder for the pictures")
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out)
    dit = load(model, **loading)
    print(dit)
    try:
        truths: References | None = references(dit)
    except FileNotFoundError:
        truths = None
    report.part("load")
    off, hidden = detect(dit, report)
    draw_guidance(dit, off, hidden, report)
    draw_disruption(dit, off, report)
    verdict = measure(dit, truths, off, report) if truths else "No reference pictures: shown only, nothing measured."
    finish(report, str(model or "embedded default"), verdict)
    return report.summary


def finish(report: Report, model: str, verdict: str) -> None:
    """Write the summary, and print how long the demo took and its verdict."""
    seconds = time.perf_counter() - report.began
    report.summary |= {
        "model": model,
        "verdict": verdict,
        "total_seconds": round(seconds, 1),
        "limit_seconds": LIMIT,
        "within_limit": seconds <= LIMIT,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "diffusers", "transformers", "nnsight")},
    }
    (report.out / "summary.json").write_text(json.dumps(report.summary, indent=1) + "\n", encoding="utf-8")
    print(f"\nIn {seconds:.0f} s (goal: at most {LIMIT} s on two cores). {verdict}")
    print(f"Pictures and summary.json are in {report.out.resolve()}")


def detect(dit: DiT, report: Report) -> tuple[Disrupt, np.ndarray]:
    """Detect massive channels on prompts that nothing else uses, and draw their magnitudes.

    Returns:
        The disruption, and the hidden states (tokens, channels) of one prompt at its block, half-way through.
    """
    middle = STEPS // 2
    profile = dit.profile if dit.profile and dit.profile["block"] is not None else None
    block = profile["block"] if profile else len(dit.blocks) // 2
    acts = capture(dit, DETECTION, steps=STEPS, raw=[block], raw_steps=[middle])
    massive = find_massive(acts)
    channels = profile["channels"] if profile else massive.channels
    if not channels:
        channels = find_massive(acts, rule="outlier").channels[:3] or [top_channel(acts, block)]
    off = Disrupt(channels, block)
    report.say("massive", f"Detected on {len(DETECTION)} other prompts: {massive!r}", massive.channels)
    where = "from profile.json" if profile else "detected here; block: the middle one, not chosen by any objective"
    report.say("disrupt", f"The disruption ({where}): {off}", off.to_json())
    describe_massive(massive, channels, report)
    hidden = acts.data["hidden_states"].isel(prompt=0, seed=0, branch=0, raw_step=0, raw_site=0).values
    level = float(acts.data["sigma"].values[middle])
    title = f"{DETECTION[0]!r}, after block {block}, sigma {level:.2f}"
    report.picture(plots.token_channel_surface_plotly(hidden, channels, title=title), "surface.html")
    report.picture(plots.magnitude_by_block(acts.data), "magnitude_by_block.png")
    report.picture(plots.magnitude_by_sigma(acts.data, channels, block=block), "magnitude_by_sigma.png")
    report.part("capture and detection")
    return off, hidden


def top_channel(acts: Activations, block: int) -> int:
    """The channel with the largest mean |x| over image tokens at a block."""
    size = acts.data["abs_mean"].sel(stream="image").isel(site=block)
    return int(size.mean([d for d in size.dims if d != "channel"]).values.argmax())


def describe_massive(massive: Massive, channels: list[int], report: Report) -> None:
    """The largest row of the table for each channel."""
    table = massive.to_frame()
    for channel in channels:
        rows = table[table["channel"] == channel]
        if not len(rows):
            report.say(f"channel {channel}", f"  channel {channel}: no outlier on these prompts, at any block", None)
            continue
        row = rows.loc[rows["ratio"].idxmax()].to_dict()
        sentence = (
            f"  channel {channel}: at most {row['ratio']:.0f} x the median channel (after block {row['block']}), sign "
            f"{'+' if row['sign'] > 0 else '-'} on {row['coverage']:.0%} of the image tokens, coefficient of variation "
            f"{row['variation']:.2f}"
        )
        report.say(f"channel {channel}", sentence, row)


def draw_guidance(dit: DiT, off: Disrupt, hidden: np.ndarray, report: Report) -> None:
    """Draw the prompts under each guidance, beside the hidden states that DG disrupts."""
    guidance = [None, CFG(SCALE), DetailGuidance(1.0, WEIGHT, off), DetailGuidance(SCALE, WEIGHT, off)]
    guided = generate(dit, PROMPTS, seed=0, steps=STEPS, guidance=guidance)
    names = [s["guidance"] for s in guided.settings[: len(guidance)]]
    where = f"channels {list(off.channels)} after block {off.block}"
    title = f"What DG disrupts: {where}, {DETECTION[0]!r}, step {STEPS // 2}"
    overview = plots.guidance_overview(guided.images, names, PROMPTS, hidden, off.channels, title=title)
    report.picture(overview, "guidance.png")
    for i, name in enumerate(names):
        seconds = sum(guided.seconds[i :: len(guidance)]) / len(PROMPTS)
        report.say(f"cost {name}", f"  {name}: {guided.forwards[i]} forwards, {seconds:.2f} s a picture", seconds)
    report.part("guidance")


def draw_disruption(dit: DiT, off: Disrupt, report: Report) -> None:
    """Draw the prompts clean, disrupted, and under matched controls, from the same noise."""
    names = ["clean", "channels zeroed", "control 1", "control 2", "control 3"]
    columns = []
    for edit in progress_bar(True, [None, off, *off.controls(3)], desc="disruption"):
        edits, prompts, seeds = [edit] if edit else [], list(PROMPTS), [0] * len(PROMPTS)
        latents, _ = run(dit, prompts, seed=seeds, steps=STEPS, guidance=CFG(SCALE), edits=edits)
        columns.append(decode(dit, spatial(dit, latents, *dit.size(None, None))))
    title = f"CFG {SCALE:g}, same noise; controls: shifts of the same norm on other channels"
    images = [image for row in zip(*columns, strict=True) for image in row]
    grid = plots.image_grid(images, names * len(PROMPTS), columns=len(names), title=title)
    report.picture(grid, "disrupted.png")
    report.part("disruption")


def measure(dit: DiT, truths: References, off: Disrupt, report: Report) -> str:
    """One step with 20 controls; then guidance against the references. Returns the verdict."""
    used = {p.rsplit(" on ", 1)[0].replace(" ", "-") for p in (*PROMPTS, *DETECTION)}
    pictures = [r for r in truths.sample(MEASURED + len(used), seed=1) if r.name not in used][:MEASURED]
    measure_one_step(dit, pictures, off, report)
    table = sample_metrics(dit, truths, pictures, off)
    report.part("samples")
    return compare(table, report)


def measure_one_step(dit: DiT, chosen: list[Reference], off: Disrupt, report: Report) -> None:
    """How much zeroing multiplies the error of one step, by frequency band, beside 20 matched controls."""
    result = denoise_error(dit, chosen, [off, *off.controls(20)], sigmas=(0.3, 0.7))
    report.picture(result.plot(), "one_step.png")
    rows = result.summary().set_index("band").to_dict("index")
    for band, row in rows.items():
        sentence = (
            f"One step, {band} band: zeroing multiplies the error by {row['ratio']:.2f} ({row['low']:.2f} to "
            f"{row['high']:.2f}); matched controls {row['control_median']:.2f} (median of {row['controls']}), "
            f"{row['rank']} of them do less harm"
        )
        report.say(f"one step {band}", sentence, {k: v for k, v in row.items() if k != "edit"})
    report.part("one step")


def sample_metrics(dit: DiT, truths: References, chosen: list[Reference], off: Disrupt) -> dict[str, Any]:
    """Detail metrics of one sample per reference under each guidance, and of the references themselves."""
    truth = truths.pictures(chosen)
    prompts, seeds = [r.prompt for r in chosen], list(range(100, 100 + len(chosen)))
    plans = {
        "cond": None,
        "DG": DetailGuidance(1.0, WEIGHT, off),
        "CFG": CFG(SCALE),
        "CFG + DG": DetailGuidance(SCALE, WEIGHT, off),
    }
    table = {"references": describe(truth, truth)}
    for name, guidance in plans.items():
        latents, _ = run(dit, prompts, seed=seeds, steps=STEPS, guidance=guidance)
        samples = pictures(dit, spatial(dit, latents, *dit.size(None, None)), batch=len(latents))
        table[name] = describe(samples, truth)
    return table


def compare(table: dict[str, dict[str, torch.Tensor]], report: Report) -> str:
    """DG against its base, paired by picture: amount of detail, and whether it is the right detail."""
    target = table["references"]["high_power"].mean().item()
    findings = []
    for base, name in (("cond", "DG"), ("CFG", "CFG + DG")):
        amounts = [table[k]["high_power"].mean().item() / target for k in (base, name)]
        change = paired(table, base, name, "high_correlation")
        noise = paired(table, base, name, "flat_noise")
        sentence = (
            f"{base} -> {name}: high-band power {amounts[0]:.2f} -> {amounts[1]:.2f} of the references'; correlation "
            f"with the reference's fine detail {change[0]:+.3f} ({change[1]:+.3f} to {change[2]:+.3f})"
        )
        report.say(f"guidance {name}", sentence, {"power": amounts, "correlation": change, "flat_noise": noise})
        amount = "more detail" if amounts[1] > amounts[0] else "no more detail"
        nearer = "nearer to" if abs(amounts[1] - 1) < abs(amounts[0] - 1) else "further from"
        right = "more" if change[1] > 0 else "less" if change[2] < 0 else "not clearly more or less"
        findings.append(
            f"{name} against {base} gives {amount}, {nearer} the references' amount, {right} like their own"
        )
    return "Found, on this model at w = " + f"{WEIGHT:g}: " + "; ".join(findings) + "."


def paired(table: dict[str, dict[str, torch.Tensor]], base: str, name: str, metric: str) -> tuple[float, ...]:
    """Mean difference of a metric and its 95% interval over pictures; pictures where it does not exist are left out."""
    difference = (table[name][metric] - table[base][metric]).double()
    return bootstrap_interval(difference[~difference.isnan()])
