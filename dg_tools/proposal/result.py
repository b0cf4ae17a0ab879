"""A proposed record: as an object, as Python to paste, and with sentences on what could not be found."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, fields
from typing import Any

from dg_tools.families import BlockList, Family
from dg_tools.families.inputs import Inputs
from dg_tools.families.latents import PACKED, PLAIN, Latents
from dg_tools.families.records import Defaults
from dg_tools.verification.result import Check


@dataclass(frozen=True, repr=False)
class Proposal:
    """A proposed record; prints as a file of `dg_tools/families`, with what could not be found.

    Attributes:
        family: the record; `dg.load(pipeline, family=proposal.family)` takes it.
        unknown: sentences on facts that could not be found, or that no record can hold.
        checks: what was checked, as by `dg.load` and `dg-tools verify`.
    """

    family: Family
    unknown: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if no check failed."""
        return not any(check.state == "failed" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the record as Python, the sentences and the checks."""
        checks = [asdict(check) for check in self.checks]
        return {"ok": self.ok, "record": self.source, "unknown": list(self.unknown), "checks": checks}

    @property
    def source(self) -> str:
        """The record as a Python file."""
        family = self.family
        imports = [
            *imported(family.latents),
            *imported(family.inputs),
            "from dg_tools.families.records import BlockList, Defaults, Family",
        ]
        lines = [
            f'"""{family.transformer}, as proposed from a run of {family.pipelines[0]}."""',
            "",
            *sorted(imports),
            "",
        ]
        return "\n".join([*lines, f"FAMILY = {written(family)}", ""])

    def __repr__(self) -> str:
        notes = [f"# {line}" for words in self.unknown for line in wrapped(words)]
        checks = [f"# {check}" for check in self.checks]
        told = ["", "# Not told, or not for a record to say:", *notes] if notes else []
        return "\n".join([self.source.rstrip(), *told, "", "# Checked:", *checks])


def wrapped(words: str) -> list[str]:
    """A sentence as lines of a list."""
    return textwrap.wrap(words, 112, initial_indent="- ", subsequent_indent="  ")


def imported(part: Latents | Inputs | None) -> list[str]:
    """The import of a layout that is not the plain one, or of a way to call."""
    if part is PLAIN or part is None:
        return []
    name = "PACKED" if part is PACKED else type(part).__name__
    return [f"from {type(part).__module__} import {name}"]


def written(value: Any, indent: str = "") -> str:
    """A value as Python; for records, only the fields that differ from their defaults."""
    inner = indent + "    "
    if isinstance(value, Latents | Inputs):
        return "PACKED" if value is PACKED else f"{type(value).__name__}()"
    if isinstance(value, Family | BlockList):
        kind, bare = type(value), blank(type(value))
        stated = [f.name for f in fields(kind) if f.name in bare or getattr(value, f.name) != default(kind, f.name)]
        stated = [name for name in stated if not (name == "latents" and value.latents is PLAIN)]  # type: ignore[union-attr]
        lines = [f"{inner}{name}={written(getattr(value, name), inner)}," for name in stated]
        return "\n".join([f"{kind.__name__}(", *lines, f"{indent})"])
    if isinstance(value, tuple) and any(isinstance(one, BlockList) for one in value):
        return "\n".join(["(", *(f"{inner}{written(one, inner)}," for one in value), f"{indent})"])
    if isinstance(value, Defaults):
        stated = [f.name for f in fields(Defaults) if getattr(value, f.name) != getattr(Defaults(), f.name)]
        return f"Defaults({', '.join(f'{name}={getattr(value, name)!r}' for name in stated)})"
    plain = repr(value)
    return plain if '"' in plain else plain.replace("'", '"')


def blank(kind: type) -> set[str]:
    """Fields without a default."""
    return {"path"} if kind is BlockList else REQUIRED


def default(kind: type, name: str) -> Any:
    """The default of a field."""
    return getattr(BLANK[kind], name)


REQUIRED = {"name", "transformer", "lists", "rows", "timestep_scale", "packing"}
REQUIRED |= {"partial_forward", "guidance_argument", "row_inputs"}
BLANK: dict[type, Any] = {
    BlockList: BlockList(""),
    Family: Family("", "", (), "sequential", 1.0, None, True, "", ()),
}
