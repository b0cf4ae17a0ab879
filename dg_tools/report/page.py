"""The page of a report: one file that opens offline. Text and numbers in, text out.

Everything that comes from a model, a prompt or a folder is escaped, and the page's own policy lets it load nothing, and
run nothing but the one script of `page_live`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dg_tools.report import page_live
from dg_tools.report.figures import themed
from dg_tools.report.kept_run import KeptRun
from dg_tools.report.page_claims import claims_table
from dg_tools.report.parts import Figure, Section, Table, Value
from dg_tools.report.verdict import Row, tally
from dg_tools.widgets import front

CSS = Path(__file__).with_name("page.css")
SHORT = 28  # characters of a cell that is kept on one line
LONG = 90  # characters of a cell that gets a wide column
WIDE = 12  # columns of a table that fits into the column of text; more take the window's width
TALL = 14  # rows of a table that are shown at once; more scroll


def html(
    model: str,
    settings: Mapping[str, Any],
    sections: Sequence[Section],
    claims: Sequence[tuple[str, Row]],
    run: KeptRun | None = None,
) -> str:
    """The page.

    Args:
        model: its name. settings: of the report, by name; short ones are under the title, lists can be unfolded.
        sections: in order.
        claims: each with its id; they stand in the section `claims`.
        run: for the figure that answers in the section `channels`.
    """
    body = "\n".join(
        [
            opening(model, settings, claims),
            contents(sections),
            *(section_text(section, claims if section.key == "claims" else (), run) for section in sections),
        ]
    )
    numbers = " and, of the run, in run.safetensors" if run is not None else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{page_live.policy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="dg_tools">
<title>{escape(model)}: massive activations</title>
<link rel="icon" href="data:,">
<style>
{CSS.read_text(encoding="utf-8")}{front.STYLE}{front.text("column.css")}</style>
</head>
<body>
<main>
{body}
<footer>Every number on this page is in <a href="report.json">report.json</a> beside it{numbers}.</footer>
</main>
{page_live.scripts(sections, run)}
</body>
</html>
"""


def opening(model: str, settings: Mapping[str, Any], claims: Sequence[tuple[str, Row]]) -> str:
    """Title, settings, and how many claims have which verdict."""
    short = {k: v for k, v in settings.items() if v is not None and not isinstance(v, list | dict)}
    about = " · ".join(f"{escape(str(k))} {escape(text_of(v))}" for k, v in short.items())
    lines = ["<header>", f"<h1>{escape(model)}</h1>", f'<p class="about">{about}</p>']
    if claims:
        found = tally(row.status for _, row in claims)
        lines.append(f'<p>Of {len(claims)} claims, {found}: <a href="#claims">see them</a>.</p>')
    for name, values in settings.items():
        if isinstance(values, list | dict) and values:
            items = values if isinstance(values, list) else [f"{k}: {v}" for k, v in values.items()]
            rows = "".join(f"<li>{escape(text_of(x))}</li>" for x in items)
            lines.append(f"<details><summary>{escape(str(name))} ({len(items)})</summary><ul>{rows}</ul></details>")
    return "\n".join([*lines, "</header>"])


def contents(sections: Sequence[Section]) -> str:
    """The list of sections; those that show nothing are pale."""
    rows = (f'<li><a href="#{s.key}"{" class=none" if s.missing else ""}>{escape(s.title)}</a></li>' for s in sections)
    return "\n".join(['<nav aria-label="Contents">', "<ol>", *rows, "</ol>", "</nav>"])


def section_text(section: Section, claims: Sequence[tuple[str, Row]], run: KeptRun | None) -> str:
    """One section."""
    lines = [f'<section id="{section.key}">', f"<h2>{escape(section.title)}</h2>", *paragraphs(section.words)]
    if section.missing:
        lines.append(f'<p class="missing">{inline(section.missing)}</p>')
    if claims:
        lines.append(claims_table(claims))
    live = page_live.slot(section.key, run)
    drawings = [*map(figure_text, section.figures)]
    drawings = [live, *drawings] if section.key == page_live.RUN else [*drawings, live]
    lines += [*filter(None, drawings), *map(table_text, section.tables), "</section>"]
    return "\n".join(lines)


def paragraphs(words: str) -> list[str]:
    """Text as paragraphs."""
    return [f"<p>{inline(part)}</p>" for part in re.split(r"\n\s*\n", words.strip()) if part.strip()]


def inline(text: str) -> str:
    """Escaped text, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.strip()))


def figure_text(figure: Figure) -> str:
    """A drawing with its title."""
    label = escape(figure.words or figure.title)
    return (
        f'<figure id="figure-{figure.name}">\n<div class="drawing" role="img" aria-label="{label}" tabindex="0">\n'
        f"{themed(figure.svg)}</div>\n<figcaption>{inline(figure.title)}</figcaption>\n</figure>"
    )


def table_text(table: Table) -> str:
    """A table; columns of numbers to the right."""
    numeric = [
        any(isinstance(row[i], int | float) for row in table.rows)
        and not any(isinstance(row[i], str) for row in table.rows)
        for i in range(len(table.columns))
    ]
    longest = [max((len(text_of(row[i])) for row in table.rows), default=0) for i in range(len(table.columns))]
    kinds = [
        "number" if n else "text long" if long > LONG else "text" if long > SHORT else "short"
        for n, long in zip(numeric, longest, strict=True)
    ]
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in zip(table.columns, kinds, strict=True)
    )
    rows = [
        "<tr>"
        + "".join(f'<td class="{k}">{escape(text_of(x))}</td>' for x, k in zip(row, kinds, strict=True))
        + "</tr>"
        for row in table.rows
    ]
    kind = "sheet" + " tall" * (len(table.rows) > TALL) + " wide" * (len(table.columns) > WIDE)
    return "\n".join(
        [
            f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(table.title)}">',
            f"<table><caption>{inline(table.title)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody></table></div>",
        ]
    )


def text_of(value: Value) -> str:
    """A value as it is shown: four digits, thousands apart, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1e4):
        return f"{int(value):,}" if abs(value) >= 1e4 else str(int(value))
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
