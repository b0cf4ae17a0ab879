"""What a verification found: one line for each check, as words, as numbers and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

State = Literal["ok", "failed", "not applicable"]


class Measured(NamedTuple):
    """What one check measured: a difference, the most that is allowed, and what was compared."""

    difference: float
    allowed: float
    words: str


class NotApplicable(Exception):
    """A check has no meaning for this model; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what is checked.
        state: `ok`, `failed` or `not applicable`.
        words: what was compared; for `failed` what was wrong, for `not applicable` why.
        difference: what was measured; None where nothing was.
        allowed: the most that it may be; 0 means bit-equal.
    """

    name: str
    state: State
    words: str
    difference: float | None = None
    allowed: float | None = None

    @property
    def figure(self) -> str:
        """The difference beside what is allowed, in a few characters."""
        if self.difference is None or self.allowed is None:
            return ""
        return f"{self.difference:.2g} of {self.allowed:.2g}" if self.allowed else f"{self.difference:.2g} of 0"

    def __str__(self) -> str:
        return f"{self.state:14}  {self.name:22}  {self.figure:18}  {self.words}"


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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: `about`, `ok` and the checks."""
        return {**self.about, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        return "\n".join(str(check) for check in self.checks)


def checked(name: str, measure: Callable[[], Measured]) -> Check:
    """One check, whatever comes of it: an error inside is a check that failed, with the error's own words."""
    try:
        measured = measure()
    except NotApplicable as reason:
        return Check(name, "not applicable", str(reason))
    except Exception as error:
        return Check(name, "failed", f"{type(error).__name__}: {error}")
    state: State = "ok" if measured.difference <= measured.allowed else "failed"  # NaN fails
    return Check(name, state, measured.words, measured.difference, measured.allowed)
