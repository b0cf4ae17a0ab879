"""EVIDENCE.md, from the stored results alone: claim by claim, model by model, every number from a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dg_tools.experiments.result import Result, open_result
from dg_tools.models.files import DEFAULT
from evidence import across, growth, store
from evidence.cells import WORDS, Results, claim_row, controls, effect, find, number, table
from evidence.claims import CLAIMS, PAPER
from evidence.plan import PLAN, run_at

INTRODUCTION = """# Evidence

Made by `make evidence` from the results in [evidence/results](evidence/results); no number here is typed. Which
sentence is tested by which number stands in [evidence/claims.py](evidence/claims.py), which experiment runs on what in
[evidence/plan.py](evidence/plan.py).

How to read a row: the claim, the bound that was set beforehand with its unit, and what the controls are; then, model
by model, the verdict, the effect with its 95% interval (bootstrap over whole prompts), the median of the control
draws and how many of them are less extreme than the effect. A claim *holds* where the whole interval is past the
bound and at most 5% of the null distribution is as extreme; an equivalence (±) where the whole interval lies inside.
*Does not hold*: the whole interval is on the other side. *Undecided*: it covers the bound. Channels are detected on
one part of the pictures, the block is chosen on a second, and everything else is measured on a third or on held-out
pairs; no name is in two parts. A verdict is about this model, these channels and this block, where the choice favours
the paper's claim; how other blocks compare, and other doses, stands under [subject](#subject) and
[denoise](#denoise); whether it holds for other weights, under [across models and seeds](#across-models-and-seeds).
"""


def load_all(folder: Path) -> Results:
    """Stored results by model, the default one first, and part, in the plan's order.

    Raises:
        FileNotFoundError: nothing is stored there.
    """
    order = ["subject", *(p.name for p in PLAN)]
    results: Results = {}
    for model in sorted((p for p in folder.glob("*") if p.is_dir()), key=lambda p: (p.name != DEFAULT, p.name)):
        parts = {name: open_result(model / name) for name in order if (model / name / "result.json").is_file()}
        if "subject" in parts:
            results[model.name] = parts
    if not results:
        raise FileNotFoundError(f"no evidence in {folder}: run `make evidence`")
    return results


def models_table(results: Results) -> str:
    """What was measured on what."""
    rows = []
    for model, parts in results.items():
        subject = parts["subject"].settings
        run, origin = subject["evidence"], subject["provenance"]
        host = run["machine"]
        seconds, cpu = (sum(r.settings["evidence"][k] for r in parts.values()) for k in ("seconds", "cpu_seconds"))
        rows.append(
            [
                f"`{model}`",
                f"{origin['transformer']}, weights `{origin['weights']}`",
                f"{subject['channels']}" + ("" if subject["massive"] else " (outliers, not massive)"),
                f"{subject['block']}",
                f"{seconds / 60:.0f} min ({cpu / 60:.0f} min of CPU), size `{run['size']}`",
                f"{host['threads']} threads of {host['cores']} cores, {host['architecture']}, {host['system']}",
                ", ".join(f"{k} {v}" for k, v in origin["versions"].items()) + f", Python {host['python']}",
            ]
        )
    return table(["model", "transformer", "channels", "block", "time", "machine", "versions"], rows)


def inconsistencies(results: Results) -> list[str]:
    """Sentences about results of one model that were not made alike."""
    sentences = []
    for model, parts in results.items():
        for what in ("size", "weights"):
            values = Counter(str(r.settings["evidence"][what]) for r in parts.values())
            if len(values) > 1:
                sentences.append(
                    f"`{model}`: results of more than one {what}: {dict(values)}; run `make evidence` again."
                )
        missing = [p.name for p in run_at(parts["subject"].settings["evidence"]["size"]) if p.name not in parts]
        if missing:
            sentences.append(f"`{model}`: not run: {', '.join(missing)}.")
    return sentences


def disagreements(results: Results) -> str:
    """The paper's claims that did not come out, by model: those that do not hold, then those that were not shown."""
    lines = []
    for model, parts in results.items():
        claims = [(c, find(c, parts)) for c in CLAIMS if c.source == PAPER]
        against = [(c, o) for c, o in claims if o is not None and o.status == "fails"]
        open_ = [(c, o) for c, o in claims if o is not None and o.status not in ("fails", "holds")]
        for words, rows in (("disagrees with the paper", against), ("neither agrees nor disagrees", open_)):
            lines += [f"**`{model}` {words}** in {len(rows)} of {len(claims)} claims:", ""]
            lines += [
                f"- {c.section}: *{c.text}* {WORDS[o.status].capitalize()}: {effect(o)}. Controls: {controls(o)}."
                for c, o in rows
            ] + [""]
    return "\n".join(lines).rstrip()


def trained_and_held_out(results: Results) -> str:
    """Outcomes that were measured on trained and on held-out pairs, side by side."""
    pairs = [
        (p.name, q.name)
        for p in PLAN
        for q in PLAN
        if p.experiment == q.experiment and (p.split, q.split) == ("test", "held_out")
    ]
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


def beside(file: Path, page: Path) -> str:
    """A file's place as the page links it."""
    return Path(*file.parts[len(page.parent.parts) :]).as_posix()


def experiment(name: str, results: Results, figures: Path, page: Path) -> str:
    """One experiment: question, verdict, figure, all outcomes, how it was made."""
    lines = [f"### {name}", ""]
    for model, parts in results.items():
        if name not in parts:
            continue
        result = parts[name]
        run = result.settings["evidence"]
        lines += [f"**{result.question}** `{model}`: {result.verdict}", ""]
        picture = figures / model / f"{name}.png"
        if picture.is_file():
            lines += [f"![{name}, {model}]({beside(picture, page)})", ""]
        rows = [
            [o.name + (" (primary)" if o.primary else ""), o.claim, WORDS[o.status], effect(o), controls(o)]
            for o in result.outcomes
        ]
        lines += [table(["outcome", "claim", "verdict", "effect", "controls"], rows), ""]
        lines += unjudged(result)
        lines += [f"- {note}" for note in result.notes]
        pictures = f"{run['pictures']} pictures of `{run['split']}`, {run['seeds']} seed(s), " if "split" in run else ""
        lines += [f"- {pictures}{run['seconds']:.0f} s, of CPU {run['cpu_seconds']:.0f} s: `{run['command']}`", ""]
    return "\n".join(lines)


def unjudged(result: Result) -> list[str]:
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


def page_text(results: Results, figures: Path, page: Path, seeds: Path) -> str:
    """The whole page; `seeds` is the folder of digests of small models."""
    parts = [INTRODUCTION, "## What was measured", "", models_table(results), ""]
    parts += [f"- {sentence}" for sentence in inconsistencies(results)] + [""]
    for source in dict.fromkeys(c.source for c in CLAIMS):
        rows = [claim_row(claim, results) for claim in CLAIMS if claim.source == source]
        parts += [f"## {source}", "", table(["", "claim", "experiment", *(f"`{m}`" for m in results)], rows), ""]
    parts += ["## Where a model disagrees with the paper", "", disagreements(results), ""]
    parts += ["## Across models and seeds", "", across.section(across.load(seeds), results), ""]
    parts += [growth.section(growth.logs(seeds, results), beside(figures / growth.FIGURE, page)), ""]
    parts += ["## Recalled and invented detail", ""]
    parts += ["The embedded models memorise their training pictures; on held-out pairs they must invent.", ""]
    parts += [trained_and_held_out(results), "", "## Experiments", ""]
    names = [n for n in ("subject", *(p.name for p in PLAN)) if any(n in p for p in results.values())]
    parts += [experiment(name, results, figures, page) for name in names]
    return "\n".join(parts).rstrip() + "\n"


def write(results: Path, figures: Path, page: Path, seeds: Path) -> str:
    """Draw how outlier channels grow, write the page and return its text.

    Raises:
        FileNotFoundError: nothing is stored.
    """
    stored = load_all(results)
    if logs := growth.logs(seeds, stored):
        store.save_figure(growth.draw(logs), figures / growth.FIGURE)
    text = page_text(stored, figures, page, seeds)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return text
