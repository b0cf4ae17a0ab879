"""An edit and its control as settings, as code, and as what they did to the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dg_tools.interventions import MODES, Disrupt
from dg_tools.metrics import describe, radial_spectrum
from dg_tools.plots.explorers import difference, spectra
from dg_tools.widgets.run_fields import Asked

OWN = [m for m in MODES if m not in ("shift", "shift_direction", "random", "transport")]  # edits that need no more
CONTROL_KINDS = ("shift", "shift_direction", "random")
NAMES = ("clean", "disrupted", "control")


@dataclass(frozen=True)
class Plan:
    """An edit and its control, as settings; `steps` and `tokens` None for all."""

    channels: tuple[int, ...]
    block: int
    mode: str = "zero"
    rho: float = 0.5
    steps: tuple[int, int] | None = None
    tokens: tuple[int, ...] | None = None
    kind: str = "shift"
    draw: int = 0

    def settings(self) -> dict[str, Any]:
        """What `Disrupt` is given, without its defaults."""
        made: dict[str, Any] = {"channels": list(self.channels), "block": self.block}
        if self.mode != "zero":
            made["mode"] = self.mode
        if self.mode == "scale":
            made["rho"] = self.rho
        if self.tokens is not None:
            made["tokens"] = list(self.tokens)
        if self.steps is not None:
            made["steps"] = list(range(self.steps[0], self.steps[1] + 1))
        return made

    def edits(self) -> tuple[Disrupt, Disrupt]:
        """The edit, and its control."""
        off = Disrupt(**self.settings())
        return off, off.controls(1, self.kind, seed=self.draw)[0]  # type: ignore[arg-type]


def code(plan: Plan, asked: Asked) -> str:
    """The same three pictures in the library's own words."""
    given = {**plan.settings()}
    if plan.steps is not None:
        given["steps"] = f"range({plan.steps[0]}, {plan.steps[1] + 1})"
    settings = ", ".join(f"{k}={v if k == 'steps' else repr(v)}" for k, v in given.items())
    guidance = f", guidance=dg.CFG({asked.scale:g})" if asked.scale > 1 else ""
    return (
        f"off = dg.Disrupt({settings})\n"
        f"control = off.controls(1, {plan.kind!r}, seed={plan.draw})[0]\n"
        f"made = dg.generate({asked.code()}{guidance}, "
        "edits=[None, off, control])\n"
        "made.grid()"
    )


@dataclass(frozen=True)
class Comparison:
    """Clean against disrupted and control.

    Attributes:
        differences: figures, one a picture that is not clean; one colour scale.
        spectrum: power by spatial frequency of all.
        rows: a table of numbers, its head first.
    """

    differences: list[Figure]
    spectrum: Figure
    rows: list[list[str]]


def render(images: Sequence[Any]) -> Comparison:
    """Compare pictures (PIL, or (H, W, 3) uint8) with the first of them, the clean one."""
    arrays = [np.asarray(image, np.float32) / 255 for image in images]
    stack = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    clean = stack[:1]
    most = max([float(np.abs((a - arrays[0]).mean(-1)).max()) for a in arrays[1:]] + [1e-3])
    names = NAMES[: len(images)]
    spectra_by_name = {
        n: radial_spectrum(x[None], min(16, min(x.shape[1:]) // 4)) for n, x in zip(names, stack, strict=True)
    }
    found = describe(stack, clean.expand_as(stack))
    rms = (stack - clean).square().mean((1, 2, 3)).sqrt()
    power = found["high_power"] / found["high_power"][0].clamp_min(1e-12)
    rows = [["", *names]]
    for name, values, form in (
        ("root mean square change (0..1)", rms, "{:.3f}"),
        ("correlation with clean, low band", found["low_correlation"], "{:.3f}"),
        ("correlation with clean, high band", found["high_correlation"], "{:.3f}"),
        ("high-band power / clean", power, "{:.2f}"),
        ("contrast", found["contrast"], "{:.3f}"),
    ):
        rows.append([name, *(form.format(float(v)) for v in values)])
    return Comparison(
        [difference(a, arrays[0], most=most, title=f"{n} - clean") for n, a in zip(names[1:], arrays[1:], strict=True)],
        spectra(
            spectra_by_name["clean"].frequency.numpy(),
            {n: s.power.numpy() for n, s in spectra_by_name.items()},
            title="power by spatial frequency",
        ),
        rows,
    )
