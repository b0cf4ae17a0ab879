"""What changed between a clean picture and others: differences, spectra and a table of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dg_tools.metrics import contrast, radial_spectrum
from dg_tools.metrics.cell_bands import NAMED, cell_correlation, cell_power
from dg_tools.plots.explorers import difference, spectra
from dg_tools.widgets.edit_settings import NAMES


@dataclass(frozen=True)
class PictureChanges:
    """Clean against disrupted and control.

    Attributes:
        differences: one figure per picture that is not clean, on one colour scale.
        spectrum: power by spatial frequency of all.
        rows: a table of numbers, its head first.
    """

    differences: list[Figure]
    spectrum: Figure
    rows: list[list[str]]


def compare_pictures(images: Sequence[Any], cell: int) -> PictureChanges:
    """Compare pictures (PIL, or (H, W, 3) uint8) with the first of them, the clean one.

    `cell`: pixels of a latent cell.
    """
    arrays = [np.asarray(image, np.float32) / 255 for image in images]
    stack = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    names = NAMES[: len(images)]
    most = max([float(np.abs((a - arrays[0]).mean(-1)).max()) for a in arrays[1:]] + [1e-3])
    differences = [
        difference(a, arrays[0], most=most, title=f"{n} - clean") for n, a in zip(names[1:], arrays[1:], strict=True)
    ]
    powers = {n: radial_spectrum(x[None], min(16, min(x.shape[1:]) // 4)) for n, x in zip(names, stack, strict=True)}
    spectrum = spectra(
        powers["clean"].frequency.numpy(),
        {n: s.power.numpy() for n, s in powers.items()},
        title="power by spatial frequency",
    )
    return PictureChanges(differences, spectrum, table_of(stack, names, cell))


def table_of(stack: torch.Tensor, names: Sequence[str], cell: int) -> list[list[str]]:
    """Numbers of pictures (N, 3, H, W) in [0, 1], the clean one first. A band that this size has not is left out."""
    clean = stack[:1]
    rms = (stack - clean).square().mean((1, 2, 3)).sqrt()
    measures = [("root mean square change (0..1)", rms, "{:.3f}")]
    alike = cell_correlation(stack, clean.expand_as(stack), cell, NAMED)
    measures += [(f"correlation with clean, {b} band", alike[b], "{:.3f}") for b in ("low", "high") if b in alike]
    if "high" in alike:
        power = cell_power(stack, cell, NAMED)["high"]
        measures.append(("high-band power / clean", power / power[0].clamp_min(1e-12), "{:.2f}"))
    measures.append(("contrast", contrast(stack), "{:.3f}"))
    return [["", *names], *([name, *(form.format(float(v)) for v in values)] for name, values, form in measures)]
