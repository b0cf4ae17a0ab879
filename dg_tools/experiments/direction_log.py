"""A log of the guidances' directions at the same z_t: cosines, norms, spectra and maps, step by step.

It follows the trajectory of a rule that the directions do not steer, so that all of them are compared at the same z_t.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from dg_tools.experiments.directions import cosine, direction, norms
from dg_tools.experiments.sampling_step import SamplingStep
from dg_tools.metrics import radial_spectrum

SIDE = 16  # cells along a map's side, at most


class DirectionLog:
    """An observer for `sample` that records each step's directions c - name.

    Args:
        names: predictions whose direction is recorded; `u` is CFG's.
        pairs: of names for whose directions the cosine is recorded.
        blur_sigma: of `blur`.
        fields: keep spectra and maps too.
    """

    def __init__(
        self,
        names: Sequence[str],
        pairs: Sequence[tuple[str, str]],
        blur_sigma: float = 1.0,
        fields: bool = True,
    ) -> None:
        self.names = list(names)
        self.pairs = list(pairs)
        self.blur_sigma = blur_sigma
        self.fields = fields
        self.rows: list[dict] = []
        self._spectra: dict[tuple[int, float, str], list[tuple[torch.Tensor, torch.Tensor, int]]] = {}
        self._maps: dict[tuple[int, float, str], list[tuple[torch.Tensor, int]]] = {}

    def __call__(self, at: SamplingStep, velocity: torch.Tensor) -> None:
        """One step of one batch."""
        directions = {name: direction(at, name, self.blur_sigma).float() for name in self.names}
        sizes = {name: norms(x) for name, x in directions.items()} | {"c": norms(at["c"])}
        for i, picture in enumerate(at.pictures):
            common = {"picture": picture, "step": at.step, "sigma": at.sigma}
            for name, value in sizes.items():
                self.rows.append({**common, "quantity": "norm", "of": name, "with": "", "value": float(value[i])})
        for one, other in self.pairs:
            for picture, value in zip(at.pictures, cosine(directions[one], directions[other]).tolist(), strict=True):
                common = {"picture": picture, "step": at.step, "sigma": at.sigma}
                self.rows.append({**common, "quantity": "cosine", "of": one, "with": other, "value": value})
        if not self.fields:
            return
        for name, x in directions.items():
            key = (at.step, at.sigma, name)
            spectrum = radial_spectrum(x.cpu(), max(1, min(x.shape[-2:]) // 4))
            self._spectra.setdefault(key, []).append((spectrum.frequency, spectrum.power, len(x)))
            field = x.square().mean((0, 1)).cpu()
            cells = (min(SIDE, field.shape[0]), min(SIDE, field.shape[1]))
            small = torch.nn.functional.adaptive_avg_pool2d(field[None, None], cells)
            self._maps.setdefault(key, []).append((small[0, 0], len(x)))

    def table(self, prompts: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
        """Cosines and norms: prompt, seed, step, sigma, quantity, of, with, value (one row per picture and step)."""
        frame = pd.DataFrame(self.rows)
        picture = frame.pop("picture")
        frame.insert(0, "prompt", [prompts[i] for i in picture])
        frame.insert(1, "seed", [seeds[i] for i in picture])
        return frame

    def spectra(self) -> pd.DataFrame:
        """Mean power of each direction by step and radial frequency (cycles per latent pixel)."""
        rows = []
        for (step, sigma, name), parts in self._spectra.items():
            total = sum(n for _, _, n in parts)
            power = sum((p * n for _, p, n in parts), torch.zeros(())) / total
            for frequency, value in zip(parts[0][0].tolist(), power.tolist(), strict=True):
                rows.append({"step": step, "sigma": sigma, "of": name, "frequency": frequency, "power": value})
        return pd.DataFrame(rows)

    def maps(self) -> pd.DataFrame:
        """Mean power of each direction by step and place (rows y and columns x of at most 16 x 16 cells)."""
        rows = []
        for (step, sigma, name), parts in self._maps.items():
            field = np.asarray(sum(x * n for x, n in parts) / sum(n for _, n in parts))
            for (y, x), value in np.ndenumerate(field):
                rows.append({"step": step, "sigma": sigma, "of": name, "y": y, "x": x, "power": float(value)})
        return pd.DataFrame(rows)
