"""EVIDENCE.md, from the stored results alone: claim by claim, model by model, every number from a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from dg_tools.experiments.result import Outcome, Result, open_result
from evidence.claims import CLAIMS, PAPER, Claim
from evidence.plan import PLAN

WORDS = {
    "holds": "holds",
    "fails": "does not hold",
    "undecided": "undecided",
    "no more than controls": "not shown: controls do the same",
    "too few controls": "not shown: too few controls",
}
BOUND = {"above": ">", "below": "<", "within": "within ±"}

Results = dict[str, dict[str, Result]]  # model -> part -> result

INTRODUCTION = """# Evidence

Made by `make evidence` from the results in [evidence/results](evidence/results); no number here is typed. Which
sentence is tested by which number stands in [evidence/claims.py](evidence/claims.py), which experiment runs on what in
[evidence/plan.py](evidence/plan.py).

How to read an entry: the verdict; the effect with its unit and 95% interval (bootstrap over whole prompts); the bound
that was set beforehand; then the control draws, their median and how many of them are less extreme than the effect.
A claim *holds* where the whole interval is past the bound and at most 5% of the null distribution is as extreme; an
equivalence (±) where the whole interval lies inside. *Does not hold*: the whole interval is on the other side.
*Undecided*: it covers the bound. Channels are detected on one part of the pictures, the block is chosen on a second,
and everything else is measured on a third or on held-out pairs; no name is in two parts. A verdict is about this model,
these channels and this block, where the choice favours the paper's claim; how other blocks compare, and other doses,
stands under [subject](#subject) and [denoise](#denoise).
"""


def load_all(folder: Path) -> Results:
    """Stored results by model and part, in the plan's order.

    Raises:
        FileNotFoundError: nothing is stored there.
    """
    order = ["subject", *(p.name for p in PLAN)]
    found: Results = {}
    for model in sorted(p for p in folder.glob("*") if p.is_dir()):
        parts = {name: open_result(model / name) for name in order if (model / name / "result.json").is_file()}
        if "subject" in parts:
            found[model.name] = parts
    if not found:
        raise FileNotFoundError(f"no evidence in {folder}: run `make evidence`")
    return found


def number(value: float) -> str:
    """Three digits, a real minus sign left out for plain text."""
    return "-" if not np.isfinite(value) else f"{value:.3g}"


def effect(outcome: Outcome) -> str:
    """Effect, unit, interval and bound."""
    return (
        f"{number(outcome.estimate)} {outcome.unit} ({number(outcome.low)} to {number(outcome.high)}); "
        f"asked {BOUND[outcome.direction]}{' ' if outcome.direction != 'within' else ''}{number(outcome.margin)}"
    )


def controls(outcome: Outcome) -> str:
    """Null distribution and rank."""
    if not outcome.null:
        return f"no draws ({outcome.control.removeprefix('none: ')})" if outcome.control != "none" else "none"
    less = f"{outcome.rank} of {len(outcome.null)} less extreme"
    return f"{outcome.control}: median {number(float(np.median(outcome.null)))}; {less}"


def cell(claim: Claim, parts: dict[str, Result]) -> str:
    """A model's entry for a claim."""
    outcome = find(claim, parts)
    if outcome is None:
        return "not measured"
    return f"**{WORDS[outcome.status]}**. {effect(outcome)}. Controls: {controls(outcome)}"


def find(claim: Claim, parts: dict[str, Result]) -> Outcome | None:
    """A claim's outcome, None where its part was not run.

    Raises:
        KeyError: the part was run and has no such outcome.
    """
    return parts[claim.part].outcome(claim.outcome) if claim.part in parts else None


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    clean = [[c.replace("|", "\\|").replace("\n", " ") for c in row] for row in rows]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in clean])


def models_table(results: Results) -> str:
    """What was measured on what."""
    rows = []
    for model, parts in results.items():
        subject = parts["subject"].settings
        made, origin = subject["evidence"], subject["provenance"]
        host = made["machine"]
        seconds, cpu = (sum(r.settings["evidence"][k] for r in parts.values()) for k in ("seconds", "cpu_seconds"))
        rows.append(
            [
                f"`{model}`",
                f"{origin['transformer']}, weights `{origin['weights']}`",
                f"{subject['channels']}" + ("" if subject["massive"] else " (outliers, not massive)"),
                f"{subject['block']}",
                f"{seconds / 60:.0f} min ({cpu / 60:.0f} min of CPU), size `{made['size']}`",
                f"{host['threads']} threads of {host['cores']} cores, {host['architecture']}, {host['system']}",
                ", ".join(f"{k} {v}" for k, v in origin["versions"].items()) + f", Python {host['python']}",
            ]
        )
    return table(["model", "transformer", "channels", "block", "time", "machine", "versions"], rows)


def mixed(results: Results) -> list[str]:
    """Sentences about results of one model that were not made alike."""
    found = []
    for model, parts in results.items():
        for what in ("size", "weights"):
            values = Counter(str(r.settings["evidence"][what]) for r in parts.values())
            if len(values) > 1:
                found.append(f"`{model}`: results of more than one {what}: {dict(values)}; run `make evidence` again.")
        missing = [p.name for p in PLAN if p.name not in parts]
        if missing:
            found.append(f"`{model}`: not run: {', '.join(missing)}.")
    return found


def disagreements(results: Results) -> str:
    """The paper's claims that did not come out, by model: those that do not hold, then those that were not shown."""
    lines = []
    for model, parts in results.items():
        found = [(c, find(c, parts)) for c in CLAIMS if c.source == PAPER]
        against = [(c, o) for c, o in found if o is not None and o.status == "fails"]
        open_ = [(c, o) for c, o in found if o is not None and o.status not in ("fails", "holds")]
        for words, rows in (("disagrees with the paper", against), ("neither agrees nor disagrees", open_)):
            lines += [f"**`{model}` {words}** in {len(rows)} of {len(found)} claims:", ""]
            lines += [
                f"- {c.section}: *{c.text}* {WORDS[o.status].capitalize()}: {effect(o)}. Controls: {controls(o)}."
                for c, o in rows
            ] + [""]
    return "\n".join(lines).rstrip()


def apart(results: Results) -> str:
    """Outcomes that were measured on trained and on held-out pairs, side by side."""
    pairs = [(p.name, q.name) for p in PLAN for q in PLAN
             if p.experiment == q.experiment and (p.split, q.split) == ("test", "held_out")]  # fmt: skip
    rows = []
    for model, parts in results.items():
        for trained, held_out in pairs:
            if trained not in parts or held_out not in parts:
                continue
            for outcome in parts[trained].outcomes:
                other = next((o for o in parts[held_out].outcomes if o.name == outcome.name), None)
                if other is not None:
                    row = [f"`{model}`", trained, outcome.name]
                    rows.append(row + [f"{effect(o)}: {WORDS[o.status]}" for o in (outcome, other)])
    return table(["model", "experiment", "outcome", "trained pairs (recalled)", "held-out pairs (invented)"], rows)


def experiment(name: str, results: Results, figures: Path, page: Path) -> str:
    """One experiment: question, verdict, figure, all outcomes, how it was made."""
    lines = [f"### {name}", ""]
    for model, parts in results.items():
        if name not in parts:
            continue
        result = parts[name]
        made = result.settings["evidence"]
        lines += [f"**{result.question}** `{model}`: {result.verdict}", ""]
        picture = figures / model / f"{name}.png"
        if picture.is_file():
            place = Path(*picture.parts[len(page.parent.parts) :]).as_posix()
            lines += [f"![{name}, {model}]({place})", ""]
        rows = [
            [o.name + (" (primary)" if o.primary else ""), o.claim, WORDS[o.status], effect(o), controls(o)]
            for o in result.outcomes
        ]
        lines += [table(["outcome", "claim", "verdict", "effect", "controls"], rows), ""]
        lines += beside(result)
        lines += [f"- {note}" for note in result.notes]
        pictures = (
            f"{made['pictures']} pictures of `{made['split']}`, {made['seeds']} seed(s), " if "split" in made else ""
        )
        lines += [f"- {pictures}{made['seconds']:.0f} s, of CPU {made['cpu_seconds']:.0f} s: `{made['command']}`", ""]
    return "\n".join(lines)


def beside(result: Result) -> list[str]:
    """Tables that answer a question without a verdict: the sweep over blocks, and the dose."""
    if result.experiment == "subject":
        shown = result.tables["by_block"]
        title = (
            "Selectivity of zeroing (log high-band over low-band error ratio) by block, on the development pictures:"
        )
    elif "variants" in result.tables and (result.tables["variants"]["role"] == "dose").any():
        shown = result.tables["variants"].query("role == 'dose'")[["variant", "low", "mid", "high", "total"]]
        title = "Dose (question 5.7): log of x0 error over clean error, by band, for channels x layers zeroed:"
    else:
        return []
    rows = [[x if isinstance(x, str) else number(float(x)) for x in row] for row in shown.itertuples(index=False)]
    return [title, "", table([str(c).replace("_", " ") for c in shown], rows), ""]


def page_text(results: Results, figures: Path, page: Path) -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## What was measured", "", models_table(results), ""]
    parts += [f"- {sentence}" for sentence in mixed(results)] + [""]
    for source in dict.fromkeys(c.source for c in CLAIMS):
        rows = [
            [claim.section, claim.text, f"[{claim.part}](#{claim.part})", *(cell(claim, p) for p in results.values())]
            for claim in CLAIMS
            if claim.source == source
        ]
        parts += [f"## {source}", "", table(["", "claim", "experiment", *(f"`{m}`" for m in results)], rows), ""]
    parts += ["## Where a model disagrees with the paper", "", disagreements(results), ""]
    parts += ["## Recalled and invented detail", ""]
    parts += ["The embedded models memorise their training pictures; on held-out pairs they must invent.", ""]
    parts += [apart(results), "", "## Experiments", ""]
    names = [n for n in ("subject", *(p.name for p in PLAN)) if any(n in p for p in results.values())]
    parts += [experiment(name, results, figures, page) for name in names]
    return "\n".join(parts).rstrip() + "\n"


def write(results: Path, figures: Path, page: Path) -> str:
    """Write the page and return its text.

    Raises:
        FileNotFoundError: nothing is stored.
    """
    text = page_text(load_all(results), figures, page)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return text
