"""A report made by hand: no model, every section filled but one, prompts and a name that try to be markup."""

from __future__ import annotations

import numpy as np
import torch

from dg_tools.plots import report as plots
from dg_tools.plots import report_dose
from dg_tools.report import figures
from dg_tools.report.kept_run import KeptRun
from dg_tools.report.sections import KEYS, Report, Section, Table
from dg_tools.report.verdict import FAILS, HOLDS, NOT_TESTED, REPORTED, SOME, UNDECIDED, Row

EVIL = "<script>alert(1)</script> & \"an owl\" on <img src=x onerror='alert(2)'>"
WHY_NOT = "the model has no AdaLN gates: its blocks scale nothing by the timestep"
PASSES = (1, 1, 1.5, 1, 2, 2.5, 1, 1)
TITLES = {
    "facts": "The model",
    "channels": "Massive channels",
    "gates": "Gates",
    "headroom": "Headroom in float16",
    "dose": "The dose",
    "weak_model": "A weak model",
    "strip": "Pictures",
    "claims": "Claims",
    "cost": "Cost",
    "provenance": "Provenance",
}
WORDS = {
    "facts": f"A tiny model with `two` planted channels. The first prompt is {EVIL}.",
    "channels": "Channels 3 and 17 stand out from block 2 on.\n\nThey have one sign on every image token.",
    "dose": "Detail falls as the dose rises. The controls stay near the clean picture.",
    "weak_model": "Channels 3, 17 times 2 after block 5: `DetailGuidance(disrupt='profile.json')` takes it.",
}


def claims() -> list[Row]:
    """One claim of each kind."""
    return [
        Row("capable", "", "The model draws what it is asked.", HOLDS, (0.81, 0.71, 0.92), "found", "> 0.25"),
        Row("stands out", "1", "Some channels stand far out.", HOLDS, (22.04, 20.29, 23.93), "x the median", "> 5"),
        Row("prompt", "2", f"Prompts such as {EVIL} do not explain it.", FAILS, (0.42, 0.24, 0.54), "of variance",
            "< 0.1", why="holds at 0 of 12 blocks", parts={"block 0": (0.08, 0.04, 0.11), "block 1": (0.4, 0.2, 0.5)}),
        Row("timestep", "2", "The timestep explains it.", SOME, (0.45, 0.33, 0.63), "of variance", "> 0.5"),
        Row("zero a", "3", "The weak model lacks detail.", UNDECIDED, (-0.24, -0.3, -0.19),
            "doublings at equal contrast", "< -0.25, low > 0.95", draws=39, extreme=0),
        Row("auto d", "4", "DG minus CFG 1.5.", REPORTED, (0.32, 0.26, 0.37), "doublings", exploratory=True),
        Row("zero b, CFG 1.5", "4", "DG on CFG 1.5 gives detail.", NOT_TESTED, None, why="the base lacks no detail"),
    ]  # fmt: skip


def drawings() -> dict[str, list]:
    """Figures by section, from made-up numbers."""
    rng = np.random.default_rng(0)
    sites, rhos = [str(i) for i in range(12)], [0, 0.5, 1, 1.5, 2, 3]
    grow = np.geomspace(1, 40, 12)
    hidden = rng.normal(0, 1, (48, 96))
    hidden[:, 3] += 30
    hidden[:, 17] -= 18
    picture = (np.add.outer(np.arange(48), np.arange(64))[..., None] * [1, 1.5, 2]).clip(0, 255).astype(np.uint8)
    blocks = {"sites": sites, "by_block": {"3": grow, "17": grow / 2}, "median_by_block": np.full(12, 0.8)}
    levels = np.linspace(1, 0.05, 10)
    noise = {"sigmas": levels, "by_sigma": {"3": 40 - 9 * levels, "17": 20 - 9 * levels}, "at": "11",
             "median_by_sigma": np.full(10, 0.8), "onset": {"3": 2, "17": 4}}  # fmt: skip
    amount = [
        {"name": "massive channels", "role": "massive", "rho": rhos, "middle": [0.6, 0.3, 0, -0.9, -1.5, -1.2],
         "low": [0.5, 0.2, 0, -1.1, -1.7, -1.6], "high": [0.7, 0.4, 0, -0.7, -1.3, -0.8]},
        {"name": "largest others", "role": "control", "rho": rhos, "middle": [0.05, 0.02, 0, -0.03, -0.02, 0.04]},
        {"name": "gain alone", "role": "other", "rho": rhos, "middle": [0.2, 0.1, 0, -0.1, -0.2, None]},
    ]  # fmt: skip
    kept = [{"name": "massive channels", "role": "massive", "rho": rhos, "middle": [0.98, 0.99, 1, 0.98, 0.96, 0.9]}]
    scan = [
        {"block": b, "rho": r, "score": (r - 1) * b / 14, "score_low": (r - 1) * b / 14 - 0.1,
         "score_high": (r - 1) * b / 14 + 0.1, "eligible": r > 1 and b > 3}
        for b in (1, 3, 5, 8, 11) for r in (0.0, 0.5, 1.5, 2.0)
    ]  # fmt: skip
    gate = np.abs(rng.normal(0, 0.3, 96))
    gate[[3, 17]] = 3, 1.7
    sizes = {"image stream": grow * 100, "text stream": [*np.full(11, 900.0), None], "MLP's output": grow * 400}
    tones = [picture // (1 + i % 3) for i in range(8)]
    passes = [f"{i} passes" for i in PASSES]
    names = ["cond", "weak model", "DG", "Gain", "CFG 3", "CFG 3 + DG", "control", "knob, rho 1.5"]
    drawn = figures.drawn
    return {
        "channels": [
            drawn("channels", "Massive channels and the median one.", plots.channels_figure, {**blocks, **noise}),
            drawn("surface", "Every token and channel of one block.", plots.surface_figure,
                  {"massive": [3, 17], "at": "after block 11, sigma 0.5"}, hidden=hidden),
            drawn("maps", f"Over the picture of {EVIL}.", plots.maps_figure,
                  {"maps": {"3": np.abs(hidden[:, 3]).reshape(6, 8), "17": np.abs(hidden[:, 17]).reshape(6, 8)}},
                  picture=picture),
        ],
        "gates": [drawn("gates", "The gate that writes them.", plots.gates_figure,
                        {"gate": gate, "massive": [3, 17], "at": "2", "part": "the MLP"})],
        "headroom": [drawn("headroom", "Largest numbers by block.", plots.headroom_figure,
                           {"sites": sites, "largest": sizes, "limit": 65504.0, "dtype": "float16"})],
        "dose": [drawn("dose", "The dose curve.", report_dose.dose_curve_figure, {"amount": amount, "low": kept})],
        "weak_model": [drawn("choice", "Where a weak model lacks detail.", report_dose.choice_figure,
                             {"scan": scan, "chosen": {"block": 5, "rho": 2.0}, "asked": 0.15})],
        "strip": [figures.strip("strip", f"From the same noise: {EVIL}", tones, names, passes)],
    }  # fmt: skip


def run() -> KeptRun:
    """Numbers of a run on 6 x 8 tokens, 12 blocks, 96 channels, at four steps; two channels grow by block."""
    rng = np.random.default_rng(1)
    grow = np.geomspace(1, 40, 12)[None, :, None]
    hidden = np.stack([30 * grow, -18 * grow], -1) * (1 + 0.2 * rng.random((4, 12, 48, 2)))
    size = rng.random((4, 12, 96))
    size[..., [3, 17]] = np.abs(hidden).mean(2)
    values = {"abs_mean": size, "token_norm": np.sqrt((hidden**2).sum(-1) + 96), "top_value": hidden.max((2, 3)),
              "median_abs_mean": np.median(size, -1), "hidden": hidden}  # fmt: skip
    arrays = {name: torch.from_numpy(value).bfloat16() for name, value in values.items()}
    tones = (np.add.outer(np.arange(48), np.arange(64))[..., None] * [1, 1.5, 2]).clip(0, 255).astype(np.uint8)
    about = {"prompt": EVIL, "seed": 0, "sites": [f"double.{i}" for i in range(12)], "steps": [0, 9, 18, 27],
             "sigmas": [1.0, 0.7, 0.4, 0.05], "grid": [6, 8], "massive": [3, 17], "kept_channels": [3, 17],
             "opens_at": {"step": 2, "block": 11, "channel": 3, "token": 20}}  # fmt: skip
    return KeptRun(about, {**arrays, "picture": torch.from_numpy(tones)})


def report(model: str = "tiny-sd3", gates: bool = False) -> Report:
    """The report; without `gates` that section says why it shows nothing."""
    drawn = drawings()
    tables = {
        "facts": [Table("The model", ["what", "value"], [["parameters", "2,084 M"], ["first prompt", EVIL]])],
        "channels": [Table("By block", ["block", "channel", "ratio", "stability"],
                           [[i, 3, 22.0347 + i, float("nan") if i == 4 else 1.0] for i in range(20)])],
        "cost": [Table("Forecast and measured", ["what", "forecast", "measured"],
                       [["forwards", 480, 482], ["seconds", 61.5, 58.2], ["peak memory, MiB", None, 812.25]])],
        "provenance": [Table("Versions", ["package", "version"], [["torch", "2.11.0"], ["diffusers", "0.42.1"]])],
    }  # fmt: skip
    if not gates:
        drawn.pop("gates")
    sections = [
        Section(key, TITLES[key], WORDS.get(key, ""), tables.get(key, ()), drawn.get(key, ()),
                WHY_NOT if key == "gates" and not gates else "")
        for key in KEYS
    ]  # fmt: skip
    settings = {"size": "quick", "height": 48, "width": 64, "steps": 4, "prompts": [EVIL, "red apple"], "offload": None}
    profile = {"channels": [3, 17], "block": 5, "mode": "scale", "rho": 2.0, "source": "by hand"}
    about = {"weights": "00ff", "nan": np.nan}
    return Report(model, settings, sections, claims(), profile, {"seconds": 58.2}, about, run())
