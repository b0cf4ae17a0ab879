"""Which claims hold on every set of weights? One row per claim, one column per model: seeds, a variant, shipped ones.

A small model's results are kept as one digest, `NAME.json`: every outcome with its control draws, no tables. Beside it
lies `NAME.csv`, the outlier channels that its training logged (`evidence.growth`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dg_tools.experiments.result import Outcome, Result
from dg_tools.models.files import ZOO
from evidence.cells import WORDS, Results, bound, find, number, table
from evidence.claims import CLAIMS, PAPER, QUESTIONS, Claim

SYMBOLS = {"holds": "●", "fails": "○", "undecided": "◐", "no more than controls": "≈", "too few controls": "?"}
KEPT = ("channels", "block", "massive", "provenance")  # of a subject's settings
INTRODUCTION = """Intervals over prompts say nothing about models. `make seeds` trains a small model from different
first weights, batches and noise on the same pictures, and a variant of it, and tests every claim on each, with the
bounds and the number of controls that the shipped models have, on fewer pictures. Digests of the results lie in
[evidence/results-seeds](evidence/results-seeds); the weights are not kept. The shipped models' columns are those of
the tables above."""

FOUND = """*Found*: the nearest reference of a clean sample is its own. A model that finds little does not draw yet what
it is asked for; *What is drawn stays the same* says little about it."""


@dataclass(frozen=True)
class Small:
    """A small model's digest.

    Attributes:
        name: such as `small-1`.
        recipe, seed, steps, seconds: of its training; `dual`: with SD3.5-medium's second attention.
        validation: last loss on trained and held-out pairs.
        found: share of clean samples whose nearest reference is their own; None where `detail` was not run.
        parts: results without tables.
    """

    name: str
    recipe: str
    seed: int
    steps: int
    seconds: float
    dual: bool
    validation: dict[str, float]
    found: float | None
    parts: dict[str, Result]


def digest(name: str, parts: dict[str, Result], training: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a model's results as plain JSON; `training` has `Small`'s fields of that kind."""
    contents: dict[str, Any] = {}
    for part, result in parts.items():
        settings = {k: v for k, v in result.settings.items() if k in KEPT and part == "subject"}
        settings["evidence"] = {k: v for k, v in result.settings["evidence"].items() if k not in ("splits", "command")}
        outcomes = [rounded(asdict(o)) for o in result.outcomes]
        contents[part] = {
            "experiment": result.experiment,
            "question": result.question,
            "settings": settings,
            "outcomes": outcomes,
            "notes": result.notes,
        }
    return {"name": name, **training, "found": share_found(parts), "parts": contents}


def share_found(parts: dict[str, Result]) -> float | None:
    """Share of the clean samples of `detail` whose nearest reference is their own."""
    if "detail" not in parts:
        return None
    return round(float(parts["detail"].table.query("role == 'clean'")["found"].mean()), 4)


def rounded(value: Any) -> Any:
    """Floats to six digits, all the way down."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def load(folder: Path) -> list[Small]:
    """Digests, recipe by recipe and seed by seed; empty where nothing is stored."""
    digests = []
    for file in folder.glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        parts = {}
        for name, part in record.pop("parts").items():
            outcomes = [Outcome(**{**o, "null": tuple(o["null"])}) for o in part["outcomes"]]
            texts = part["experiment"], part["question"]
            parts[name] = Result(*texts, pd.DataFrame(), outcomes, part["settings"], notes=part["notes"])
        digests.append(Small(**record, parts=parts))
    return sorted(digests, key=lambda s: (s.recipe, s.seed))


def section(small: Sequence[Small], shipped: Results) -> str:
    """The section's text: what was measured, the table, and what it says."""
    if not small:
        return "No small model was trained here: `make seeds` does it."
    seeds, variants = groups(small)
    lines = [INTRODUCTION, "", models_table(small, shipped), ""]
    legend = ", ".join(f"{symbol} {WORDS[status]}" for status, symbol in SYMBOLS.items())
    lines += [FOUND, ""]
    lines += [f"{legend}. Beside it the effect and its 95% interval; the bound stands with the claim.", ""]
    header = ["", "claim", *(f"`{s.name}`" for s in small), *(f"`{m}`" for m in shipped), "holds on"]
    rows = [row(claim, small, len(seeds), shipped) for claim in CLAIMS]
    return "\n".join([*lines, table(header, rows), "", *conclusions(seeds, variants, shipped)])


def groups(small: Sequence[Small]) -> tuple[list[Small], list[Small]]:
    """The seeds of the first recipe, and what was trained by others."""
    first = small[0].recipe
    return [s for s in small if s.recipe == first], [s for s in small if s.recipe != first]


def models_table(small: Sequence[Small], shipped: Results) -> str:
    """What was trained for how long, and what was found in it; shipped models as their folders say."""
    rows = []
    for s in small:
        recipe = f"`{s.recipe}`, seed {s.seed}{', dual attention' * s.dual}"
        training = training_cells(s.steps, s.seconds, s.validation, s.found)
        rows.append([f"`{s.name}`", recipe, *training, *subject_cells(s.parts)])
    for name, parts in shipped.items():
        if (ZOO / name / "training.json").is_file() and (ZOO / name / "validation.jsonl").is_file():
            record = json.loads((ZOO / name / "training.json").read_text(encoding="utf-8"))
            last = json.loads((ZOO / name / "validation.jsonl").read_text(encoding="utf-8").splitlines()[-1])
            how = training_cells(record["steps"], sum(r["seconds"] for r in record["runs"]), last, share_found(parts))
            rows.append([f"`{name}`", f"`{record['recipe']['name']}`", *how, *subject_cells(parts)])
    header = ["model", "recipe", "steps", "loss, trained / held-out pairs", "found", "channels", "block", "evidence"]
    return table(header, rows)


def training_cells(steps: int, seconds: float, validation: dict[str, float], found: float | None) -> list[str]:
    """Length and last loss of a training, and how often its samples are found."""
    losses = f"{number(validation['trained'])} / {number(validation['held_out'])}"
    return [f"{steps} in {seconds / 60:.0f} min", losses, "-" if found is None else f"{found:.0%}"]


def subject_cells(parts: dict[str, Result]) -> list[str]:
    """Channels, block, and how the evidence was made."""
    subject, runs = parts["subject"].settings, [r.settings["evidence"] for r in parts.values()]
    massive = "" if subject["massive"] else " (outliers, not massive)"
    minutes = sum(e["seconds"] for e in runs) / 60
    how = f"`{runs[0]['size']}`, {minutes:.0f} min on {runs[0]['machine']['threads']} thread(s)"
    return [f"{subject['channels']}{massive}", f"{subject['block']}", how]


def row(claim: Claim, small: Sequence[Small], seeds: int, shipped: Results) -> list[str]:
    """A claim's row; the first `seeds` of `small` are seeds of one recipe."""
    outcomes = [find(claim, parts) for parts in (*(s.parts for s in small), *shipped.values())]
    some = next((o for o in outcomes if o is not None), None)
    words = claim.text + (f" ({bound(some)} {some.unit})" if some else "")
    return [claim.section, words, *(cell(o) for o in outcomes), holds_on(outcomes[:seeds], outcomes)]


def cell(outcome: Outcome | None) -> str:
    """Symbol, effect, interval."""
    if outcome is None:
        return "-"
    return f"{SYMBOLS[outcome.status]} {number(outcome.estimate)} [{number(outcome.low)}, {number(outcome.high)}]"


def holds_on(seeds: Sequence[Outcome | None], every: Sequence[Outcome | None]) -> str:
    """The last column: how many seeds, then how many models in all."""
    count = sum(o is not None and o.status == "holds" for o in seeds)
    total = sum(o is not None and o.status == "holds" for o in every)
    if total in (0, len(every)):
        return f"all {len(every)}" if total else "none"
    return f"{count} of {len(seeds)} seeds, {total} of {len(every)} models"


def statuses(claim: Claim, models: Sequence[dict[str, Result]]) -> list[str]:
    """A claim's verdicts, `not measured` where there is none."""
    return [o.status if (o := find(claim, parts)) is not None else "not measured" for parts in models]


def conclusions(seeds: Sequence[Small], variants: Sequence[Small], shipped: Results) -> list[str]:
    """Counts over the table, in sentences."""
    parts = [s.parts for s in seeds]
    massive = sum(s.parts["subject"].settings["massive"] for s in (*seeds, *variants))
    count = f"{massive} of {len(seeds) + len(variants)} small models"
    lines = [f"- Channels are massive by the detection's rule in {count}; elsewhere the largest outliers stand in."]
    for model in (*seeds, *variants):
        if absent := [c for c in CLAIMS if find(c, model.parts) is None]:
            notes = [n for p in dict.fromkeys(c.part for c in absent) if p in model.parts for n in model.parts[p].notes]
            why = "; ".join(note for note in notes if note.startswith("no "))
            lines.append(
                f"- `{model.name}` has no entry in {len(absent)} rows{listing(absent)}. Its notes: {why or 'none'}."
            )
    for source, name in ((PAPER, "claims of the paper"), (QUESTIONS, "further questions")):
        claims = [c for c in CLAIMS if c.source == source]
        verdicts = {c: statuses(c, parts) for c in claims}
        every = [c for c in claims if set(verdicts[c]) == {"holds"}]
        none = [c for c in claims if "holds" not in verdicts[c]]
        some = [c for c in claims if c not in every and c not in none]
        lines.append(
            f"- Of {len(claims)} {name}, {len(every)} hold on all {len(seeds)} seeds, {len(none)} on none and "
            f"{len(some)} on some{listing(some)}."
        )
    agreed = [c for c in CLAIMS if len(verdict := set(statuses(c, parts))) == 1 and verdict != {"not measured"}]
    lines.append(f"- The seeds have one and the same verdict on {len(agreed)} of {len(CLAIMS)} rows.")
    for name, other in [*((s.name, s.parts) for s in variants), *shipped.items()]:
        other_verdict = [c for c in agreed if statuses(c, [other]) != statuses(c, parts[:1])]
        same = f"has the seeds' verdict on {len(agreed) - len(other_verdict)}"
        lines.append(f"- Of these, `{name}` {same}, another one on {len(other_verdict)}{listing(other_verdict)}.")
    return lines


def listing(claims: Sequence[Claim]) -> str:
    """`: 1, *claim*; 2, *claim*`, or nothing."""
    return ": " * bool(claims) + "; ".join(f"{c.section}, *{c.text.rstrip('.?')}*" for c in claims)
