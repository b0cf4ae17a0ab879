"""An edit and its control, as settings and as code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dg_tools.interventions import MODES, Disrupt
from dg_tools.interventions.modes import at_sigma
from dg_tools.widgets.run_fields import RunSettings

EDIT_MODES = [
    m for m in MODES if m not in ("shift", "shift_direction", "random", "transport")
]  # edits that need no more
MIDDLE = 0.5  # the sigma at which a knob shows a dose that is a schedule
CONTROL_KINDS = ("shift", "shift_direction", "random")
NAMES = ("clean", "disrupted", "control")


@dataclass(frozen=True)
class EditSettings:
    """An edit and its control, as settings; `steps` and `tokens` None for all."""

    channels: tuple[int, ...]
    block: int
    mode: str = "zero"
    rho: float = 0.5
    steps: tuple[int, int] | None = None
    tokens: tuple[int, ...] | None = None
    kind: str = "shift"
    draw: int = 0

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Disrupt` that differ from its defaults."""
        arguments: dict[str, Any] = {"channels": list(self.channels), "block": self.block}
        if self.mode != "zero":
            arguments["mode"] = self.mode
        if self.mode == "scale":
            arguments["rho"] = self.rho
        if self.tokens is not None:
            arguments["tokens"] = list(self.tokens)
        if self.steps is not None:
            arguments["steps"] = list(range(self.steps[0], self.steps[1] + 1))
        return arguments

    def edits(self) -> tuple[Disrupt, Disrupt]:
        """The edit, and its control."""
        off = Disrupt(**self.arguments())
        return off, off.controls(1, self.kind, seed=self.draw)[0]  # type: ignore[arg-type]

    def sentence(self) -> str:
        """The edit, and what its control is matched in."""
        norm = "the same norm" if self.mode in ("zero", "scale") else "the norm of zeroing"
        control = {
            "shift": f"a shift of {norm} on as many other channels",
            "shift_direction": f"a shift of {norm} along a random direction",
            "random": "as many other channels zeroed, whatever their norm",
        }[self.kind]
        return f"{self.edits()[0].sentence()}; control: {control}"


def dose_of(profile: Mapping[str, Any]) -> float:
    """The rho of a profile; 0 where it zeroes, and of a schedule over sigma its value in the middle."""
    return float(at_sigma(profile.get("rho", 0.0), MIDDLE))


def code(settings: EditSettings, run: RunSettings) -> str:
    """The same three pictures in the library's own words."""
    arguments = settings.arguments()
    if settings.steps is not None:
        arguments["steps"] = f"range({settings.steps[0]}, {settings.steps[1] + 1})"
    words = ", ".join(f"{k}={v if k == 'steps' else repr(v)}" for k, v in arguments.items())
    guidance = f", guidance=dg.CFG({run.scale:g})" if run.scale > 1 else ""
    return (
        f"off = dg.Disrupt({words})\n"
        f"control = off.controls(1, {settings.kind!r}, seed={settings.draw})[0]\n"
        f"made = dg.generate({run.code()}{guidance}, "
        "edits=[None, off, control])\n"
        "made.grid()"
    )
