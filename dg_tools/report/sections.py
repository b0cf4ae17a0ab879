"""A report as it is kept: its sections, its claims, and the three files that hold them.

`report.json` holds every number that is shown, `figures/` the drawings, `index.html` the page, and `profile.json` the
choice that `DetailGuidance(disrupt="report/profile.json")` takes, where one was made.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from dg_tools.cards import card
from dg_tools.models.files import read_json
from dg_tools.models.profiles import profile_words
from dg_tools.paths import check_folder, whole
from dg_tools.report.kept_run import FILE, KeptRun
from dg_tools.report.page import html
from dg_tools.report.page_claims import GROUPS
from dg_tools.report.parts import Figure, Section, Table, jsonable
from dg_tools.report.verdict import Row, tally

__all__ = ["KEYS", "Figure", "Report", "Section", "Table", "anchor", "check_target"]

KEYS = (
    "facts",
    "channels",
    "gates",
    "headroom",
    "dose",
    "weak_model",
    "strip",
    "claims",
    "cost",
    "provenance",
)
FORMAT = 1
BEGUN = "stages/about.json"  # what `Stages` writes first: a report that stopped has no report.json


@dataclass(frozen=True)
class Report:
    """A report on one model.

    Attributes:
        model: its name. settings: what was requested, by name.
        sections: one for each of `KEYS`, in order; each with a table or a figure (`claims`: with claims), or with the
            reason why there is nothing to show.
        claims: verdicts; each is `claims/ID` in report.json, where ID is `anchor(row.key)`.
        profile: of the weak model that was chosen; None where none was.
        cost: forecast and measured, by name. provenance: see `dg_tools.models.provenance`.
        run: what the page shows at any step, block, channel and token; None: the page has no such figure.
        folder: where it was opened; None: not from a folder.

    Raises:
        ValueError: a section is missing, twice, empty without a reason, or out of order; two claims or figures share a
            name.

    Example:
        >>> report = Report.open("report")                                      # doctest: +SKIP
        >>> report.claims[0].status, report.section("headroom").tables[0].rows  # doctest: +SKIP
    """

    model: str
    settings: Mapping[str, Any]
    sections: Sequence[Section]
    claims: Sequence[Row]
    profile: Mapping[str, Any] | None
    cost: Mapping[str, Any]
    provenance: Mapping[str, Any]
    run: KeptRun | None = None
    folder: Path | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Report({'; '.join(f'{name}: {words}' for name, words in self.facts().items())})"

    def _repr_html_(self) -> str:
        groups = [f"{GROUPS.get(section, section)}: {words}" for section, words in self.verdicts().items()]
        lines = "".join(f"<div>{escape(words)}</div>" for words in groups)
        facts = self.facts()
        return card(f"Report on {facts.pop('model')}", facts, lines)

    def __post_init__(self) -> None:
        for name in ("settings", "profile", "cost", "provenance"):
            object.__setattr__(self, name, jsonable(getattr(self, name), name))
        object.__setattr__(self, "sections", tuple(self.sections))
        object.__setattr__(self, "claims", tuple(self.claims))
        keys = tuple(section.key for section in self.sections)
        if keys != KEYS:
            raise ValueError(f"a report has the sections {', '.join(KEYS)}, in this order; these are {', '.join(keys)}")
        for section in self.sections:
            shown = bool(section.tables or section.figures or (section.key == "claims" and self.claims))
            if shown == bool(section.missing):
                what = "shows something and says that it is missing" if shown else "shows nothing and gives no reason"
                raise ValueError(f"section {section.key!r} {what}: pass a table or a figure, or `missing`")
        names = {"figure": [f.name for s in self.sections for f in s.figures], "claim": [*map(anchor, self.keys)]}
        for kind, used in names.items():
            if twice := sorted({name for name in used if used.count(name) > 1}):
                raise ValueError(f"two {kind}s of a report are named {', '.join(twice)}")

    def facts(self) -> dict[str, str]:
        """Model, prompts, sections, verdicts, weak model and page, by name, each in a few words."""
        shown = sum(not section.missing for section in self.sections)
        choice, test = (len(self.settings.get(part) or ()) for part in ("choice", "test"))
        page = "not written; .save(folder) writes it" if self.folder is None else str(self.folder / "index.html")
        return {
            "model": self.model,
            "prompts": f"{choice} to choose on, {test} to measure on",
            "sections with results": f"{shown} of {len(self.sections)}",
            "claims": tally(row.status for row in self.claims) or "none",
            "weak model": "none chosen" if self.profile is None else profile_words(self.profile),
            "page": page,
        }

    def verdicts(self) -> dict[str, str]:
        """How many claims have which verdict, by section of the paper."""
        sections = sorted({row.section for row in self.claims})
        return {name: tally(row.status for row in self.claims if row.section == name) for name in sections}

    @property
    def keys(self) -> list[str]:
        """Of the claims."""
        return [row.key for row in self.claims]

    def section(self, key: str) -> Section:
        """One section.

        Raises:
            KeyError: an unknown key.
        """
        if key not in KEYS:
            raise KeyError(f"no section {key!r}; there are {', '.join(KEYS)}")
        return self.sections[KEYS.index(key)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the text of the drawings."""
        return {
            "format": FORMAT,
            "model": self.model,
            "settings": self.settings,
            "sections": [section.to_json() for section in self.sections],
            "claims": {anchor(row.key): jsonable(row.to_json(), row.key) for row in self.claims},
            "profile": self.profile,
            "cost": self.cost,
            "provenance": self.provenance,
            "run": None if self.run is None else self.run.to_json(),
        }

    def html(self) -> str:
        """The page."""
        named = [(anchor(row.key), row) for row in self.claims]
        return html(self.model, self.settings, self.sections, named, self.run)

    def save(self, folder: str | Path) -> Path:
        """Write report.json, run.safetensors, figures/, index.html, and profile.json; `index.html`'s path.

        Without a run or a profile, its file is not written, and one that is there is taken away.

        Each file is whole or not there. A report of the same model is replaced.

        Raises:
            NotADirectoryError, FileExistsError: as in `check_target`.
        """
        folder = Path(folder)
        check_target(folder, self.model)
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        drawings = {f"figures/{f.name}.svg": f.svg for s in self.sections for f in s.figures}
        texts = {**drawings, "report.json": dumped(self.to_json())}
        if self.profile is not None:
            texts["profile.json"] = dumped(self.profile)
        else:
            (folder / "profile.json").unlink(missing_ok=True)
        if self.run is not None:
            with whole(folder / FILE) as draft:
                draft.write_bytes(self.run.file())
        else:
            (folder / FILE).unlink(missing_ok=True)
        for name, text in {**texts, "index.html": self.html()}.items():
            with whole(folder / name) as draft:
                draft.write_text(text, encoding="utf-8")
        return folder / "index.html"

    @classmethod
    def open(cls, folder: str | Path) -> Report:
        """A report from the folder that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no report there; a file that is missing or damaged.
        """
        folder = Path(folder)
        if not (folder / "report.json").is_file():
            raise FileNotFoundError(f"no report in {folder}: `dg-tools report MODEL -o {folder}` writes one")
        record = read_json(folder / "report.json")
        if record.get("format") != FORMAT:
            raise ValueError(f"{folder / 'report.json'}: its format is {record.get('format')!r}, {FORMAT} is read here")
        sections = [opened(section, folder) for section in record["sections"]]
        claims = [Row.from_json(with_nan(row)) for row in record["claims"].values()]
        rest = {name: record[name] for name in ("profile", "cost", "provenance")}
        run = KeptRun.open(record["run"], folder) if record.get("run") else None  # older ones have none
        return cls(record["model"], record["settings"], sections, claims, **rest, run=run, folder=folder)


def anchor(key: str) -> str:
    """The id of a claim, of letters, digits and hyphens: `zero b, CFG 1.5` is `zero-b-cfg-1-5`."""
    return re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")


def check_target(folder: Path, model: str) -> None:
    """Raise where a report of this model cannot be written.

    Raises:
        NotADirectoryError: a file has this name.
        FileExistsError: a report of another model is there, or one that was begun.
        ValueError: a file of that report is not valid JSON.
    """
    check_folder(folder, "pass a folder for the report")
    for file in (folder / "report.json", folder / BEGUN):
        if file.is_file() and (other := read_json(file).get("model")) != model:
            raise FileExistsError(
                f"{folder} holds a report on {other!r}, and this is one on {model!r}: pass another folder"
            )


def dumped(value: Any) -> str:
    """JSON that every reader takes: no NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def opened(record: Mapping[str, Any], folder: Path) -> Section:
    """A section from report.json, with the texts of its drawings."""
    figures = []
    for figure in record["figures"]:
        file = folder / figure["file"]
        if not file.is_file():
            raise FileNotFoundError(f"{folder} lacks {figure['file']}, which its report.json names")
        svg = file.read_text(encoding="utf-8")
        figures.append(Figure(figure["name"], figure["title"], svg, figure["numbers"], figure["words"]))
    tables = [Table(**table) for table in record["tables"]]
    words = {name: record[name] for name in ("key", "title", "words", "missing")}
    return Section(**words, tables=tables, figures=figures)


def with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """A claim of report.json with NaN again where JSON has null."""

    def numbers(values: Sequence[float | None]) -> list[float]:
        return [math.nan if x is None else x for x in values]

    number = None if row["number"] is None else numbers(row["number"])
    return {**row, "number": number, "parts": {name: numbers(values) for name, values in row["parts"].items()}}
