"""The sections about doses, weak models, samples, claims and cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.experiments.dose_outcomes import clusters, per_picture
from dg_tools.guidance.auto.scan import RULE
from dg_tools.metrics import bootstrap_interval
from dg_tools.models.pictures import pictures
from dg_tools.plots.report_dose import choice_figure, dose_curve_figure
from dg_tools.report import own_rows, rules
from dg_tools.report.figures import bytes_of, drawn, strip
from dg_tools.report.findings import Findings
from dg_tools.report.own_samples import OwnSamples
from dg_tools.report.parts import Figure, Section, Table
from dg_tools.report.plan import ALONE, TRIES, lasting
from dg_tools.report.verdict import NOT_TESTED, tally

INTERVAL = ("mean", "low", "high")
RULE_WORDS = {  # thresholds of `metrics.WeakModelRule`
    "score": "detail lost, in doublings, surely more than",
    "high": "high-band power ratio below",
    "low_correlation": "correlation of the low bands at least",
    "change": "relative change of the prediction at least",
    "kept": "share of the edit left after the last block at least",
    "gain": "gain above",
}


def dose(of: Findings) -> Section:
    """The dose curve in one step with its controls, and in samples."""
    title = "The dose"
    if of.dose is None:
        return Section("dose", title, missing=of.why_no_dose)
    table, settings = of.dose.table, of.dose.settings
    step = table[(table["kind"] == "step") & (table["block"] == settings["block"])]
    names = {"massive": "massive, one step", "largest others": "largest others", "gain alone": "its gain alone"}
    amount = [curve(step[step["who"] == who], name, who) for who, name in names.items()]
    random = [who for who in step["who"].unique() if str(who).startswith("control ")]
    amount.append(curve(step[step["who"].isin(random)], "random others", "control"))
    low = [curve(step[step["who"] == "massive"], "one step", "massive", "low correlation")]
    sampled = {rho: of.drawn.tables.get("cond" if rho == 1 else f"rho {rho:g}") for rho in rules.RHOS}
    runs = {rho: run for rho, run in sampled.items() if run is not None}
    if len(runs) == len(rules.RHOS):
        amount.append(of_runs(runs, "massive, samples", "amt_c"))
        low.append(of_runs(runs, "samples", "low"))
    rows = [
        [line["name"], rho, middle, a, b]
        for line in amount
        for rho, middle, a, b in zip(*(line[k] for k in ("rho", "middle", "low", "high")), strict=True)
    ]
    blocks = table[(table["kind"] == "step") & (table["who"] == "massive")]
    each = blocks.groupby(["block", "rho"])[["amount", "low correlation"]].mean().reset_index()
    by_block = [[of.dit.sites[int(b)], rho, x, y] for b, rho, x, y in each.itertuples(index=False)]
    tables = [
        Table("Detail against clean, in doublings at equal contrast", ["run", "rho", *INTERVAL], rows),
        Table("One step by block", ["block", "rho", "amount", "low band kept"], by_block),
    ]
    figure = drawn("dose", "Detail over the dose.", dose_curve_figure, {"amount": amount, "low": low})
    notes = [note for note in of.dose.notes if not note.startswith("block ")]  # the block was given
    return Section("dose", title, "\n\n".join([of.dose.words, *notes]), tables, [figure])


def curve(rows: pd.DataFrame, name: str, who: str, column: str = "amount") -> dict[str, Any]:
    """One line of the figure, from rows of one step; the clean model is at rho 1."""
    wide = per_picture(rows, column) if len(rows) else pd.DataFrame()
    clean = 1.0 if column == "low correlation" else 0.0
    points = {1.0: (clean, clean, clean)}
    points |= {float(rho): bootstrap_interval(wide[rho].to_numpy(), clusters(wide.index)) for rho in wide.columns}
    return line(points, name, "massive" if who == "massive" else "other" if who == "gain alone" else "control")


def of_runs(runs: Mapping[float, pd.DataFrame], name: str, column: str) -> dict[str, Any]:
    """One line of the figure, from samples."""
    return line({rho: bootstrap_interval(run[column].to_numpy()) for rho, run in runs.items()}, name, "samples")


def line(points: Mapping[float, tuple[float, float, float]], name: str, role: str) -> dict[str, Any]:
    """A line as `dose_curve_figure` takes it."""
    order = sorted(points)
    numbers = np.array([points[rho] for rho in order])
    return {
        "name": name,
        "role": role,
        "rho": order,
        "middle": numbers[:, 0],
        "low": numbers[:, 1],
        "high": numbers[:, 2],
    }


def weak_model(of: Findings) -> Section:
    """What `auto` chose and why; zeroing by block."""
    title, chosen = "The weak model", of.chosen
    if chosen.profile is None and not chosen.effects:
        why = "; ".join(dict.fromkeys(weak.why for weak in chosen.weak if weak.why))
        return Section("weak_model", title, missing=f"{why[:1].upper()}{why[1:]}.")
    words: list[str] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    if chosen.profile is not None:
        profile = chosen.profile
        words.append(f"`auto`: {profile['verdict']}")
        words.append(f"Its objective: {objective_words(profile['objective'])}.")
        asked: dict[str, Any] = {"chosen": None, "scan": profile["scan"], "asked": RULE.score}
        if profile["block"] is not None:
            asked["chosen"] = {"block": profile["block"], "rho": profile["rho"]}
        if profile["scan"]:
            figure = drawn("choice", "Detail that a weak model lacks in one step.", choice_figure, asked)
            figures.append(figure)
            tables.append(frame("Blocks and doses that auto scanned", profile["scan"]))
        if profile["samples"]:
            tables.append(frame("Finalists of auto, by guided samples", profile["samples"]))
    if chosen.effects:
        words += [f"Weak model `{weak.name}`: {weak.text or weak.why}." for weak in chosen.weak]
        rows: list[list[Any]] = [[of.dit.sites[b], e["acts"], e["amount"], e["low"]] for b, e in chosen.effects.items()]
        header = ["block", "acts: median ||v_d - v|| / ||v||", "change of amt_c", "low band kept"]
        tables.append(Table("Zeroing, one step by block", header, rows))
    if chosen.weights:
        kept = [[float(w), low] for w, low in chosen.weights.items()]
        tables.append(Table("Guidance away from zeroing, by w", ["w", "low band kept"], kept))
    return Section("weak_model", title, "\n\n".join(words), tables, figures)


def objective_words(text: str) -> str:
    """An objective with the thresholds of its rule in words."""

    def said(rule: re.Match[str]) -> str:
        bounds = dict(pair.split("=") for pair in rule[1].split(", "))
        return ", ".join(f"{RULE_WORDS.get(name, name)} {value}" for name, value in bounds.items())

    return re.sub(r"WeakModelRule\(([^()]*)\)", said, text)


def frame(title: str, records: Sequence[Mapping[str, Any]]) -> Table:
    """A table of records; lists and truths as text."""

    def plain(x: Any) -> Any:
        if isinstance(x, bool):
            return "yes" if x else "no"
        if isinstance(x, list | tuple):
            return ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in x)
        return x

    columns = list(dict.fromkeys(key for record in records for key in record))
    if "misses" in columns:  # sentences: beside what they are about, not out of sight
        columns.remove("misses")
        columns.insert(3, "misses")
    return Table(title, columns, [[plain(record.get(c)) for c in columns] for record in records])


def shown(of: Findings) -> dict[str, str]:
    """The runs of the strip, with their titles; those that were drawn."""
    main, drawn = of.chosen.main, of.drawn
    runs = {"cond": "cond", f"weak, {main}": "weak model", f"DG, {main}": "DG", f"its gain, {main}": "its gain alone"}
    runs |= {own_rows.CFG: own_rows.CFG, f"{own_rows.CFG} and DG, {main}": f"{own_rows.CFG} + DG"}
    control = next((run for run in drawn.first if run.startswith("control ") and run.endswith(f"DG, {main}")), "")
    runs[control] = "DG, other channels"
    knobs = [rho for rho in rules.RHOS if f"rho {rho:g}" in drawn.tables]
    if knobs:
        finest = max(knobs, key=lambda rho: float(drawn.tables[f"rho {rho:g}"]["amt_c"].mean()))
        runs[f"rho {finest:g}"] = f"knob, rho {finest:g}"
    return {run: title for run, title in runs.items() if run in drawn.first}


def samples_strip(of: Findings) -> Section:
    """One prompt under every guidance, from the same noise; and the numbers of every run."""
    runs, drawn = shown(of), of.drawn
    latents = torch.cat([drawn.first[run] for run in runs]).to(of.dit.device)
    images = [bytes_of(picture) for picture in pictures(of.dit, latents, batch=1)]
    notes = [note(drawn, run) for run in runs]
    title = (
        f"{drawn.prompts[0]!r}, {drawn.steps} steps, the same noise. Under each picture: how much detail it has "
        "against the run that is named there, in doublings."
    )
    figure = strip("strip", title, images, list(runs.values()), notes)
    rows: list[list[Any]] = []
    for run, table in drawn.tables.items():
        if run.startswith("control ") or run.endswith(", base"):
            continue
        numbers = [bootstrap_interval(table[column].to_numpy())[i] for column in ("amt_c", "low") for i in range(3)]
        rows.append([run, drawn.against[run], len(table), *numbers, drawn.price[run]["passes"] / drawn.steps])
    ends = ("", ", low end", ", high end")
    header = [
        "run",
        "against",
        "prompts",
        *(f"{name}{end}" for name in ("detail, doublings", "low band kept, correlation") for end in ends),
    ]
    header.append("passes per step")
    words = (
        "Mean over prompts with 95% intervals, each against the sample of the run in the column `against`, from the "
        "same noise."
    )
    if len(runs) <= 2:
        words += f" No other run was drawn: {of.chosen.weak[0].why or 'there is no weak model'}."
    return Section("strip", "The same noise under every guidance", words, [Table("Every run", header, rows)], [figure])


def note(drawn: OwnSamples, run: str) -> str:
    """What stands under a picture of the strip: its detail, and against which run."""
    base = drawn.against[run]
    return "the base" if base == run else f"{drawn.tables[run]['amt_c'][0]:+.2f} against {base}"


def claims(of: Findings) -> Section:
    """How many claims hold; the page lists them."""
    said = tally(row.status for row in of.claims)
    reasons = sorted({row.why for row in of.claims if row.status == NOT_TESTED and row.why})
    words = (
        f"{len(of.claims)} claims: {said}. A claim holds where its whole 95% interval over prompts is past a bound set "
        "beforehand, and at most one of 39 controls is as extreme (none of 19)."
    )
    if reasons:
        words += " Not tested: " + "; ".join(reasons) + "."
    return Section("claims", "Claims", words)


def cost(of: Findings) -> Section:
    """Forecast against measured, by stage."""
    expected = of.expected
    rows: list[list[Any]] = []
    spent = grouped(of.costs)
    for stage in expected.stages:
        forwards, decodes = expected.stages[stage]
        own = spent.get(stage, {})
        measured = [own.get(k, 0.0) for k in ("forwards", "decodes", "seconds")]
        rows.append([stage, forwards, decodes, expected.stage_seconds(stage), *measured])
    sums = totals(of.costs)
    rows.append(
        [
            "all",
            expected.forwards,
            expected.decodes,
            expected.seconds,
            sums["forwards"],
            sums["decodes"],
            sums["seconds"],
        ]
    )
    memory: list[list[Any]] = [
        ["one forward of one picture, s", expected.forward_seconds, None],
        ["one decode, s", expected.decode_seconds, None],
        ["memory, GB", expected.memory / 1e9, sums["memory"] / 1e9],
    ]
    words = (
        f"Forecast: at most {expected.forwards:.0f} forwards, {lasting(expected.seconds)}. Measured: "
        f"{sums['forwards']:.0f} forwards, {lasting(sums['seconds'])}, the sum over all processes and starts. A "
        "forward is of one picture through the whole transformer; one that starts at a block counts in part. The "
        f"forecast is for one process without a stop, for at most {ALONE} massive channels, and for controls whose "
        f"dose is found in {TRIES} forwards on average; pictures decoded for this page alone are in neither."
    )
    header = ["stage", "forwards, at most", "decodes, at most", "seconds, forecast", "forwards", "decodes", "seconds"]
    tables = [Table("Cost by stage", header, rows), Table("Time and memory", ["what", "forecast", "measured"], memory)]
    return Section("cost", "Cost", words, tables)


GROUPS = {  # how units are named -> stage of the forecast
    "test cond": "base", "choice cond": "base", "channels": "channels", "gates": "gates", "hidden": "channels",
    "drawing": "drawing", "headroom": "headroom", "zeroing": "zeroing", "weak model": "zeroing",
    "choice DG, zero": "w of zeroing", "auto": "auto", "dose": "dose", "matching": "controls",
    "test control": "controls", "test": "samples",
}  # fmt: skip


def grouped(costs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What was measured, by stage of the forecast."""
    sums: dict[str, dict[str, float]] = {}
    for name, own in costs.items():
        stage = next(group for beginning, group in GROUPS.items() if name.startswith(beginning))
        total = sums.setdefault(stage, {})
        for key in ("forwards", "decodes", "seconds"):
            total[key] = total.get(key, 0.0) + own.get(key, 0.0)
    return sums


def totals(costs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Sums over stages; of the memory the most."""
    sums = {key: sum(own.get(key, 0.0) for own in costs.values()) for key in ("forwards", "decodes", "seconds")}
    return {**sums, "memory": max((own.get("memory", 0.0) for own in costs.values()), default=0.0)}


def provenance(about: Mapping[str, Any]) -> Section:
    """What made the numbers."""
    rows = [[name, str(about[name])] for name in ("model", "transformer", "family", "weights", "dtype")]
    rows += [[name, str(version)] for name, version in about["versions"].items()]
    words = (
        "The weights are named by a hash of those that act. Rules, bounds and code are those of this dg_tools version."
    )
    return Section("provenance", "Provenance", words, [Table("Model and versions", ["what", "value"], rows)])
