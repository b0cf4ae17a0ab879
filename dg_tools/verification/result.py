"""What a verification found: one line for each check, as words, as numbers and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal, NamedTuple

from dg_tools.cards import card, picture_table

NAME = 20  # characters of a check's name
INDENT = 14 + 2 + NAME + 2  # before a check's sentence
State = Literal["ok", "failed", "not applicable"]


class Measured(NamedTuple):
    """What one check measured.

    Attributes:
        difference, allowed: the difference, and the most that it may be.
        words: what was compared with what, as a sentence of what should be.
        unit: what the difference is, and where it was largest.
    """

    difference: float
    allowed: float
    words: str
    unit: str


class NotApplicable(Exception):
    """A check has no meaning for this model; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what is checked.
        state: `ok`, `failed` or `not applicable`.
        words: what was compared with what; for `not applicable` why it was not, for an error its own words.
        difference: what was measured; None where nothing was.
        allowed: the most that it may be; 0 means bit-equal.
        unit: what the difference is, and where it was largest.
    """

    name: str
    state: State
    words: str
    difference: float | None = None
    allowed: float | None = None
    unit: str = ""

    @property
    def found(self) -> str:
        """What was measured, its unit, and what is allowed; empty where nothing was measured."""
        if self.difference is None or self.allowed is None:
            return ""
        bound = f"at most {self.allowed:.2g}" if self.allowed else "none"
        return f"{self.unit}: {self.difference:.2g} ({bound} allowed)"

    @property
    def sentence(self) -> str:
        """What was compared, and what was found."""
        return f"{self.words} {found[0].upper()}{found[1:]}." if (found := self.found) else self.words

    def __str__(self) -> str:
        return f"{self.state:14}  {self.name:{NAME}}  {self.sentence}"

    def lines(self, width: int) -> str:
        """The same in lines of `width` characters, the sentence in a column of its own."""
        return textwrap.fill(str(self), max(width, INDENT + 30), subsequent_indent=" " * INDENT)


@dataclass(frozen=True)
class Verification:
    """All checks of one model.

    Attributes:
        checks: in the order in which they ran.
        about: the model, its family, weights, precision, size, versions, machine, date and seconds, as plain JSON.
    """

    checks: tuple[Check, ...]
    about: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not any(check.state == "failed" for check in self.checks)

    @property
    def verdict(self) -> str:
        """Which checks failed, in a few words."""
        failed = [check.name for check in self.checks if check.state == "failed"]
        return f"{len(failed) or 'none'} of {len(self.checks)} checks failed" + (
            f": {', '.join(failed)}" * bool(failed)
        )

    def __repr__(self) -> str:
        return f"Verification({self.about['model']}: {self.verdict})"

    def _repr_html_(self) -> str:
        cells = [[escape(check.state), escape(check.words), escape(check.found)] for check in self.checks]
        names = [check.name for check in self.checks]
        table = picture_table(cells, names, ["", "what should be so", "what was found"])
        return card(f"Verification of {self.about['model']}: {self.verdict}", None, table)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: `about`, `ok` and the checks."""
        return {**self.about, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        return "\n".join(str(check) for check in self.checks)


def checked(name: str, measure: Callable[[], Measured]) -> Check:
    """The result of one check: an error inside it is a failed check, with the error's own words."""
    try:
        measured = measure()
    except NotApplicable as reason:
        return Check(name, "not applicable", str(reason))
    except Exception as error:
        return Check(name, "failed", f"{type(error).__name__}: {error}")
    state: State = "ok" if measured.difference <= measured.allowed else "failed"  # NaN fails
    return Check(name, state, measured.words, measured.difference, measured.allowed, measured.unit)
