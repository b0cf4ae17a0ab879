"""What is measured where prompts have no pictures: each sample against the clean one from the same noise.

Without a reference nothing says how much detail is right. So a change of detail is reported with its sign, not as right
or wrong: by band, in cycles per latent cell and without the mean, at equal contrast (`metrics.amount_change`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dg_tools.experiments.result import Outcome
from dg_tools.experiments.semantics import basis, rests_on
from dg_tools.metrics import (
    amount_change,
    band_changes,
    contrast,
    laplacian_variance,
    low_correlation,
    normalised_laplacian_variance,
)
from dg_tools.metrics.cell_bands import HIGH, LOW, band_name

UNIT = "doublings at equal contrast"
AMOUNT = 0.1  # doublings: seven percent of the power


def changes(pictures: torch.Tensor, clean: torch.Tensor, cell: int) -> dict[str, np.ndarray]:
    """Each picture against its clean sample, and its own statistics; each (N,).

    Columns: amount (amt_c, doublings), `amount <band>` for each of `CELL_BANDS` that this size has, low_band
    (correlation, -1..1), contrast, laplacian_variance, normalised_laplacian_variance.
    """
    columns = {"amount": amount_change(pictures, clean, cell)}
    columns |= {f"amount {band}": value for band, value in band_changes(pictures, clean, cell).items()}
    columns |= {"low_band": low_correlation(pictures, clean, cell), "contrast": contrast(pictures)}
    columns["laplacian_variance"] = laplacian_variance(pictures)
    columns["normalised_laplacian_variance"] = normalised_laplacian_variance(pictures)
    return {name: value.double().numpy() for name, value in columns.items()}


def note(cell: int) -> str:
    """What the columns are, for the notes of a result."""
    return (
        "no reference pictures: every sample is compared with the clean one from the same noise, so that more or less "
        f"detail is told, and not which is right. amount: log2(power, {band_name(HIGH, cell)} / power, "
        f"{band_name(LOW, cell)}), without the mean, of the sample minus of the clean one"
    )


def verdict(outcomes: Sequence[Outcome], base: str) -> str:
    """Detail, then semantics, each with what it rests on; `base` is the sample that all are compared with."""
    named = {o.name: o for o in outcomes}
    meaning = rests_on(named)
    return (
        f"{named['amount'].sentence()} It rests on the change of amount from the {base} sample, in cycles per latent "
        f"cell. Semantics rests on {basis(meaning)}. {named[meaning].sentence()}"
    )
