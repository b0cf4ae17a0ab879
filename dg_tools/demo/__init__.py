"""The demo: what a model's massive channels do to detail, and what guidance made from them gains and costs.

The channels, block, dose and w are those of the model's profile. The captions are the first of a fixed draw from those
held out of training: none is chosen because its result looks good. Pictures, `summary.json` and a page go into a
folder; every number that is printed was computed in the same run, and the last line may be that Detail Guidance does
not help here.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools import plots
from dg_tools.activations import capture
from dg_tools.datasets.examples import Example, examples
from dg_tools.datasets.prompts import general_prompts
from dg_tools.datasets.references import references
from dg_tools.demo import words
from dg_tools.demo.bench import Bench, Drawn
from dg_tools.guidance.auto import default_profile
from dg_tools.guidance.baselines.gain import Gain
from dg_tools.guidance.cfg import CFG
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.massive import find_massive
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import profile_words
from dg_tools.paths import check_folder
from dg_tools.threads import one_thread_if_small

DETECTION = ("banana on green", "horse face on purple", "soccer ball on brown", "mushroom on black")
DRAW = 11  # seed of the captions' draw from the held-out ones; the first SHOWN of them are drawn
CAPTIONS, DOSED, SHOWN = 12, 5, 3  # measured under guidances, under doses; drawn
STEPS, SCALE = 10, 2.0  # steps of each run, and CFG's s: set beforehand, the same for every model
WEIGHT, RHO = 0.5, 2.0  # defaults for a model without a profile
RHOS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
CONTROLS = 3  # sets of other channels, at these doses and in Detail Guidance; at the further doses one
CONTROLLED = (0.0, 0.5, 1.5, 2.0)
LIMIT = 90  # seconds on two cores, after the install


class Story:
    """Collects what is printed, with the time that each part took."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.summary: dict[str, Any] = {"figures": {}, "seconds": {}, "pictures": []}
        self.began = self.last = time.perf_counter()

    def say(self, key: str, sentence: str, value: Any) -> None:
        """Print a sentence and keep it with its value."""
        print(sentence)
        self.summary["figures"][key] = {"sentence": sentence, "value": value}

    def picture(self, figure: Any, name: str) -> None:
        """Save a figure."""
        figure.savefig(self.out / name, dpi=130)
        self.summary["pictures"].append(name)

    def part(self, name: str) -> None:
        """Close a part: its seconds are those since the last one closed."""
        now = time.perf_counter()
        self.summary["seconds"][name] = round(now - self.last, 1)
        self.last = now


def demo(out: str | Path = "demo", model: Any = None, **loading: Any) -> dict[str, Any]:
    """Run the demo and return its summary.

    Args:
        out: folder for pictures, `index.html` and `summary.json`; made where missing.
        model: as in `load`; the embedded default where None. For a model without reference pictures the captions are
            general ones, and whether its detail is right is not measured.
        **loading: `device`, `dtype`, `offload`: as in `load`.

    Raises:
        NotADirectoryError: `out` is a file.
    """
    out = Path(out)
    check_folder(out, "pass a folder for the pictures")
    out.mkdir(parents=True, exist_ok=True)
    story = Story(out)
    dit = load(model, **loading)
    print(dit)
    story.say("terms", words.TERMS, None)
    story.part("load")
    with one_thread_if_small(dit.transformer):
        guider = default_guidance(dit, story)
        bench = Bench(dit, captions(dit), STEPS)
        story.say("captions", f"Captions, the first of a fixed draw: {', '.join(bench.prompts)}", bench.prompts)
        assert guider.disrupt is not None
        strips, curve = dosed(bench, guider.disrupt, story)
        verdict = guided(bench, guider, strips, curve, story)
        bench.bar.close()
    finish(story, str(model or "embedded default"), verdict)
    return story.summary


def default_guidance(dit: DiT, story: Story) -> DetailGuidance:
    """Detail Guidance without CFG: the profile's, or with channels detected here, which the demo then says."""
    profile = default_profile(dit)
    if profile is not None and profile["block"] is not None:
        weight = profile.get("detail_guidance_scale", WEIGHT)
        guider = DetailGuidance.from_profile(profile, guidance_scale=1.0, detail_guidance_scale=weight)
        story.say(
            "weak model",
            f"The weak model of the profile: {profile_words(profile)}",
            Disrupt.from_profile(profile).to_json(),
        )
        return guider
    block = len(dit.blocks) // 2
    acts = capture(dit, DETECTION, steps=STEPS)
    channels = find_massive(acts).at(block) or find_massive(acts, rule="outlier").at(block)[:1]
    if not channels:
        size = acts.data["abs_mean"].sel(stream="image").isel(site=block)
        channels = [int(size.mean([d for d in size.dims if d != "channel"]).values.argmax())]
    weak = Disrupt(channels[:3], block, "scale", rho=RHO)
    story.say(
        "weak model",
        f"This model has no profile. Detected here, after the middle block, with a dose and a w that nothing chose: "
        f'{weak}, w {WEIGHT:g}. DetailGuidance(disrupt="auto") looks for a weak model that lacks detail.',
        weak.to_json(),
    )
    story.part("detection")
    return DetailGuidance(1.0, WEIGHT, weak)


def captions(dit: DiT) -> list[Example]:
    """The first of a fixed draw from the captions whose pictures were held out of training; else general prompts."""
    try:
        known = references(dit)
    except FileNotFoundError:
        return examples(dit, general_prompts(CAPTIONS))
    return examples(dit, known.sample(CAPTIONS, seed=DRAW, held_out=True), known)


def dosed(bench: Bench, weak: Disrupt, story: Story) -> tuple[dict[str, dict[float, np.ndarray]], pd.DataFrame]:
    """Samples over the dose, of the channels and of others that move the velocity as much: a strip, and the curve."""
    knob = Disrupt(weak.channels, weak.block, "scale", rho=0.0)
    doses = [rho for rho in RHOS if rho != 1]
    controls = bench.controls(knob, {rho: CONTROLS if rho in CONTROLLED else 1 for rho in doses})
    count = min(DOSED, len(bench.prompts))
    strips = {"massive": {1.0: shown(bench.clean[0])}, "others": {1.0: shown(bench.clean[0])}}
    rows = [{"who": who, "rho": 1.0, "amount": 0.0, "low": 0.0, "high": 0.0, "low_band": 1.0}
            for who in ("massive", *(f"others {i}" for i in range(CONTROLS)))]  # fmt: skip
    for rho in doses:
        edits = {"massive": Disrupt(weak.channels, weak.block, "scale", rho=rho)}
        edits |= {f"others {i}": edit for i, edit in enumerate(controls[rho])}
        for who, edit in edits.items():
            drawn = bench.draw([edit], count=count).pictures
            numbers = bench.measured(drawn)
            mean, low, high = numbers["amount"]
            rows.append({"who": who, "rho": rho, "amount": mean, "low": low, "high": high,
                         "low_band": numbers["low"][0]})  # fmt: skip
            if who in ("massive", "others 0"):
                strips[who.split()[0]][rho] = shown(drawn[0])
    curve = pd.DataFrame(rows)
    story.say("dose", words.of_dose(weak, curve, count), curve.round(4).to_dict("records"))
    story.part("dose")
    return strips, curve


def guided(
    bench: Bench,
    guider: DetailGuidance,
    strips: dict[str, dict[float, np.ndarray]],
    curve: pd.DataFrame,
    story: Story,
) -> str:
    """The guidances beside each other, with their controls; figures, sentences, and the verdict."""
    weak, weight = guider.disrupt, float(guider.detail_guidance_scale)
    assert weak is not None
    rho = weak.rho if isinstance(weak.rho, int | float) else RHO
    away_from = lambda edit: bench.draw(guidance=guider.new(disrupt=edit))  # noqa: E731
    drawn = {"cond": Drawn(bench.clean, 1.0), "weak model": bench.draw([weak])}
    drawn["DG"] = bench.draw(guidance=guider)
    zeroed = away_from(Disrupt(weak.channels, weak.block))
    edits = bench.controls(weak, {rho: CONTROLS})[rho]
    controls = [away_from(edit) for edit in edits]
    drawn["same"] = away_from(bench.others(weak))
    drawn |= {"others": controls[0]} if controls else {}
    drawn["gain"] = bench.draw(guidance=Gain(1.0, gain=bench.own_gain(drawn["DG"], weight)))
    drawn["CFG"] = bench.draw(guidance=CFG(SCALE))
    drawn["CFG + DG"] = bench.draw(guidance=guider.new(guidance_scale=SCALE))
    rows = {name: bench.measured(one.pictures) for name, one in drawn.items()}
    beside = [bench.measured(one.pictures) for one in controls]
    story.part("guidance")

    change = drawn["DG"].change
    zero = curve[(curve["who"] == "massive") & (curve["rho"] == 0)].iloc[0]
    story.say("acts", words.acts(change, [one.change for one in controls]), change)
    knob = (float(zero["amount"]), float(zero["low"]), float(zero["high"]))
    without = bench.measured(zeroed.pictures)
    story.say("zero", words.of_zero(knob, without, weight), {"knob": knob, "guidance": without})
    price = {name: round(one.passes, 3) for name, one in drawn.items()}
    story.say("guidance", words.of_guidance(rows, drawn, weight, SCALE), {"measured": rows, "passes": price})
    story.say("controls", words.of_controls(rows["same"], beside, rows["DG"], rho), beside)
    story.say("limits", words.of_limits(len(bench.prompts), bench.truth is not None), len(bench.prompts))
    draw(bench, drawn, rows, strips, curve, weight, story)
    return words.verdict(rows, change)


def draw(
    bench: Bench,
    drawn: dict[str, Drawn],
    rows: Any,
    strips: dict[str, dict[float, np.ndarray]],
    curve: pd.DataFrame,
    weight: float,
    story: Story,
) -> None:
    """The overview with the first caption, and the further captions in a figure of their own."""
    titles = {"cond": "no\nguidance", "weak model": "weak\nmodel", "DG": f"DG\nw {weight:g}"}
    titles |= {"same": "same edit,\nothers", "others": "others,\nas strong", "gain": "DG's own\ngain"}
    titles |= {"CFG": f"CFG {SCALE:g}\n", "CFG + DG": f"CFG {SCALE:g}\n+ DG"}
    heads = {} if bench.truth is None else {"reference": "reference\n\n\n"}
    for name, title in titles.items():
        if name in drawn:
            heads[name] = f"{title}\n{numbers(rows[name], drawn[name].passes, name == 'cond')}"
    pictures = {}
    for i, prompt in enumerate(bench.prompts[:SHOWN]):
        pictures[prompt] = {name: shown(one.pictures[i]) for name, one in drawn.items()}
        if bench.truth is not None:
            pictures[prompt]["reference"] = shown(bench.truth[i])
    against = {name: "cond" for name in drawn if name not in ("cond", "CFG + DG")} | {"CFG + DG": "CFG"}
    named = {"massive": "massive\nchannels", "others": "other\nchannels"}
    rows_of = {named[k]: v for k, v in strips.items()}
    for name, prompts in (("overview.png", bench.prompts[:1]), ("guidance.png", bench.prompts[:SHOWN])):
        part = {p: pictures[p] for p in prompts}
        story.picture(plots.overview(rows_of, curve, part, heads, against=against), name)
    story.part("figures")


def numbers(row: Any, passes: float, plain: bool) -> str:
    """Detail, rightness and price under a title."""
    price = f"{passes:.2g} pass{'' if passes == 1 else 'es'}"
    if plain:
        return f"\n\n{price}" if "right" in row else f"\n{price}"
    right = f"right {row['right'][0]:+.2f}\n" if "right" in row else ""
    return f"detail {row['amount'][0]:+.2f}\n{right}{price}"


def shown(picture: torch.Tensor) -> np.ndarray:
    """(H, W, 3) in 0..1 from (3, H, W) in [-1, 1]."""
    return ((picture.float() + 1) / 2).clamp(0, 1).permute(1, 2, 0).cpu().numpy()


def finish(story: Story, model: str, verdict: str) -> None:
    """Write the summary and the page, and print how long the demo took and its verdict."""
    seconds = time.perf_counter() - story.began
    story.summary |= {
        "model": model,
        "verdict": verdict,
        "total_seconds": round(seconds, 1),
        "limit_seconds": LIMIT,
        "within_limit": seconds <= LIMIT,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "diffusers", "transformers", "nnsight")},
    }
    (story.out / "summary.json").write_text(json.dumps(story.summary, indent=1) + "\n", encoding="utf-8")
    told = "".join(f"<p>{escape(figure['sentence'])}</p>\n" for figure in story.summary["figures"].values())
    first, *others = (f'<p><img src="{name}" width="880" alt="{name}"></p>\n' for name in story.summary["pictures"])
    page = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{words.TITLE}</title>\n'
    page += f"<body style='max-width: 880px; margin: auto; font-family: sans-serif'>\n<h1>{words.TITLE}</h1>\n"
    page += f"<p><strong>{escape(verdict)}</strong></p>\n{first}{told}{''.join(others)}</body></html>\n"
    (story.out / "index.html").write_text(page, encoding="utf-8")
    print(f"\nIn {seconds:.0f} s (at most {LIMIT} s on two idle cores). {verdict}")
    print(f"Pictures, index.html and summary.json are in {story.out.resolve()}")
