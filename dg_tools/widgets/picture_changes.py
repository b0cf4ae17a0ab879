"""What changed between a picture and others: differences, spectra and a table of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dg_tools.metrics import contrast, radial_spectrum
from dg_tools.metrics.cell_bands import NAMED, amount_change, cell_correlation, cell_power
from dg_tools.plots.explorers import difference, spectra
from dg_tools.widgets.chart import Curves
from dg_tools.widgets.edit_settings import NAMES
from dg_tools.widgets.png import picture_png

TIMES = 5  # a difference is shown this much larger
POWER = "high-band power"
DETAIL = "detail at equal contrast (doublings)"


@dataclass(frozen=True)
class PictureChanges:
    """Pictures against the first of them. A figure is drawn where it is read.

    Attributes:
        arrays: (H, W, 3) in 0..1, by name.
        rows: a table of numbers, its head first.
        curves: power by spatial frequency of all.
    """

    arrays: dict[str, np.ndarray]
    rows: list[list[str]]
    curves: Curves

    @property
    def differences(self) -> list[Figure]:
        """One figure per picture after the first, on one colour scale."""
        (first, clean), *others = self.arrays.items()
        most = max([float(np.abs((a - clean).mean(-1)).max()) for _, a in others] + [1e-3])
        return [difference(a, clean, most=most, title=f"{name} - {first}") for name, a in others]

    @cached_property
    def spectrum(self) -> Figure:
        """Power by spatial frequency of all."""
        assert self.curves.x is not None
        return spectra(self.curves.x, self.curves.lines, title="power by spatial frequency")


def compare_pictures(images: Sequence[Any], cell: int, names: Sequence[str] = NAMES) -> PictureChanges:
    """Compare pictures (PIL, or (H, W, 3) uint8) with the first of them; `cell`: pixels of a latent cell."""
    names = names[: len(images)]
    arrays = [np.asarray(image, np.float32) / 255 for image in images]
    stack = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    powers = [radial_spectrum(x[None], min(16, min(x.shape[1:]) // 4)) for x in stack]
    curves = Curves(
        {n: p.power.numpy() for n, p in zip(names, powers, strict=True)},
        "Power by spatial frequency",
        "cycles per pixel (0.5: every other pixel)",
        "power",
        "cycles per pixel",
        x=powers[0].frequency.numpy(),
        log=True,
    )
    return PictureChanges(dict(zip(names, arrays, strict=True)), table_of(stack, names, cell), curves)


def difference_png(picture: np.ndarray, reference: np.ndarray, times: float = TIMES) -> bytes:
    """PNG of `times` the difference of two pictures (H, W, 3) in 0..1; grey where nothing changed."""
    return picture_png((np.clip(0.5 + times * (picture - reference), 0, 1) * 255).round().astype(np.uint8))


def table_of(stack: torch.Tensor, names: Sequence[str], cell: int) -> list[list[str]]:
    """Numbers of pictures (N, 3, H, W) in [0, 1], the first as reference. A band that this size has not is left out."""
    first, reference = names[0], stack[:1]
    rms = (stack - reference).square().mean((1, 2, 3)).sqrt()
    measures = [("root mean square change (0..1)", rms, "{:.3f}")]
    alike = cell_correlation(stack, reference.expand_as(stack), cell, NAMED)
    measures += [(f"correlation with {first}, {b} band", alike[b], "{:.3f}") for b in ("low", "high") if b in alike]
    if "high" in alike:
        power = cell_power(stack, cell, NAMED)["high"]
        measures.append((f"{POWER} / {first}", power / power[0].clamp_min(1e-12), "{:.2f}"))
    if {"low", "high"} <= alike.keys():
        measures.append((DETAIL, amount_change(stack, reference.expand_as(stack), cell), "{:+.2f}"))
    measures.append(("contrast", contrast(stack), "{:.3f}"))
    return [["", *names], *([name, *(form.format(float(v)) for v in values)] for name, values, form in measures)]
