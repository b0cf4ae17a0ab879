"""EVIDENCE.md and its pages, from what is kept alone: no number is typed."""

from __future__ import annotations

from pathlib import Path

from dg_tools.metrics import bootstrap_interval
from dg_tools.report import rules
from dg_tools.report.cells import cell, interval, table
from dg_tools.report.kept import Column
from evidence import figure, growth, pages, summary
from evidence.across import load as load_seeds
from evidence.kept import Columns, load_all, models

ROOT = Path(__file__).parents[1]
LIMIT = 25_000  # bytes of EVIDENCE.md
FIGURE = "evidence.png"

HEAD = """# Evidence

What do massive activations do on both embedded models, and what does Detail Guidance (DG) made from them buy? Made
by `make evidence` from [evidence/results](evidence/results); no number here is typed. The rules were committed before
the first run, and amended once: [evidence/rules.md](evidence/rules.md).

## The result in ten lines
"""

WORDS = """*amt_c*: the amount of detail, in doublings of high-band over low-band power (at equal contrast). *right*,
*low*: change of the correlation with the reference, in the high and the low band. *margin*: change of the retrieval
margin, in "What DG buys" as a share of the base's. In brackets: 95% intervals over captions.
"""

CLAIMS = f"""A claim **holds** where the whole interval is past its bound and at most one of {rules.DRAWS} controls is
as extreme. It **does not hold** where the whole interval is on the other side. It is **undecided** between. It is **not
tested** where the model cannot do the task, the edit does not act, or the base lacks no detail; the number says so.
*Exploratory*: after a primary of the same weak model that does not hold. `emoji-sd3-planted` is the positive control:
the default model, trained so that zeroing its massive channel blurs the picture. `null` has random weights. The claims
are about the other two.
"""

LIMITS = """## What none of this says

- **SD3.5 and FLUX.1**: nothing. Both embedded models are small, share one VAE and one data set of drawings. On a real
  model `dg.dose(dit, prompt)` shows the curve, and `disrupt="auto"` says whether a weak model there lacks detail.
- **Text-to-image models in general**: right detail needs a reference for each prompt. Without one, amount against
  clean, the low band and the margin are left.
- **The published zeroing elsewhere**: its sign may be another one in other weights.
- The claims about channels and the gates are one test each at 95%, not corrected for their number.
"""


def claims_table(columns: Columns, sections: tuple[str, ...]) -> str:
    """The rows of some sections, one column per model."""
    keys = dict.fromkeys(key for c in columns.values() for key, row in c.rows.items() if row.section in sections)
    lines = []
    for key in keys:
        rows = [column.rows.get(key) for column in columns.values()]
        some = next(row for row in rows if row is not None)
        bound = next((row.bound for row in rows if row is not None and row.bound), "")
        unit = next((row.unit for row in rows if row is not None and row.bound), "")
        text = f"`{key}` {some.text}" + (f" *Required: {bound} {unit}*" if bound else "")
        lines.append([text, *(cell(row) for row in rows)])
    return table(["claim", *(f"`{name}`" for name in columns)], lines)


def made_table(columns: Columns) -> str:
    """What was measured, on what, in which time."""
    lines = []
    for name, column in columns.items():
        record, facts = column.record, column.record["facts"]
        about = record["about"]
        lines.append(
            [
                f"`{name}`",
                f"`{about['weights'][:16]}`",
                f"{facts['channels']}",
                record["weak"]["zero"],
                record["weak"]["auto"],
                f"{len(about['captions'])}",
                f"{about['size']}, {record['seconds'][1] / 60:.0f} min of CPU",
            ]
        )
    return table(["column", "weights", "massive channels", "zero", "auto", "captions", "size, time"], lines)


def notes(columns: Columns) -> list[str]:
    """Sentences about what was measured at less than the full size, and about margins that say nothing."""
    small = [name for name, column in columns.items() if column.record["about"]["size"] != rules.FULL.name]
    said = [f"`{name}` was measured at size `{columns[name].record['about']['size']}`." for name in small]
    for name, column in models(columns).items():
        margin = bootstrap_interval(column.tables["cond"]["margin"])
        if margin[1] <= 0:
            said.append(
                f"`{name}`: the base's mean margin is {interval(margin)}, near 0. A share of it has an interval that "
                "says nothing, and (b) is undecided for it."
            )
    return [f"- {sentence}" for sentence in said]


def page_text(columns: Columns, figures: str = "docs/evidence") -> str:
    """EVIDENCE.md."""
    parts = [HEAD, *summary.lines(columns), "", WORDS]
    parts += [f"![Detail over the dose, and what each guidance buys]({figures}/{FIGURE})", ""]
    parts += ["## The claims", "", CLAIMS, "### What they are, and where they come from", ""]
    parts += [claims_table(columns, ("1", "2")), "", "### What they do, and what guidance buys", ""]
    parts += [claims_table(columns, ("", "3", "4")), "", LIMITS, "## How it was made", "", made_table(columns), ""]
    parts += [*notes(columns), ""]
    parts += ["Versions: " + versions(next(iter(columns.values()))) + ".", "", "The rest, one page per experiment:", ""]
    parts += [f"- [{title}]({figures}/{name})" for name, title in pages.TITLES.items()]
    parts += [
        "- [DG from auto's weak model on other captions, trained and held out](evidence/results-weak-model/README.md)",
        "",
    ]
    return "\n".join(parts)


def versions(column: Column) -> str:
    """Of what made the numbers."""
    return ", ".join(f"{name} {version}" for name, version in column.record["provenance"]["versions"].items())


def texts(columns: Columns, seeds: Path) -> dict[str, str]:
    """Every page by its path from the repository's root."""
    small = load_seeds(seeds)
    made = {f"docs/evidence/{name}": text for name, text in pages.texts(columns, small, seeds).items()}
    return {"EVIDENCE.md": page_text(columns), **made}


def write(results: Path, seeds: Path, root: Path = ROOT) -> None:
    """Pages and figures below `root`.

    Raises:
        ValueError: EVIDENCE.md is longer than it may be.
    """
    columns = load_all(results)
    for path, text in texts(columns, seeds).items():
        if path == "EVIDENCE.md" and len(text.encode()) > LIMIT:
            raise ValueError(f"EVIDENCE.md has {len(text.encode())} bytes; at most {LIMIT} are allowed")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    figure.save(figure.draw(columns), root / "docs" / "evidence" / FIGURE)
    if logs := growth.logs(seeds, list(models(columns))):
        figure.save(growth.draw(logs), root / "docs" / "evidence" / growth.FIGURE)
