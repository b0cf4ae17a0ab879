"""Pictures noised once and predicted many times: every edit of the one-step experiment gets the same z_t.

z_t = (1 - sigma) x + sigma noise is the same for every edit. So two predictions of the same picture, seed and sigma
differ by the edit alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.datasets.examples import Items, axes_of, examples, masks_of, pictures_of
from dg_tools.datasets.references import References
from dg_tools.interventions import Disrupt
from dg_tools.metrics import axis_share, band_error, coherent_error, region_error
from dg_tools.metrics.cell_bands import named_bands
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import encode
from dg_tools.models.pictures import pictures as decoded
from dg_tools.onestep import conditions, velocity


class NoisedPictures:
    """Pictures x seeds under noise, on one DiT.

    Attributes:
        prompts, truth, axis, masks: of the pictures; `masks` is None where no foreground is known.
        picture, seed: (items,) which picture and which noise seed each item is; pictures change slowest.
    """

    def __init__(
        self,
        dit: DiT,
        items: Items,
        seeds: Sequence[int],
        *,
        folder: References | None = None,
        batch: int = 32,
        **kwargs: Any,
    ) -> None:
        items = examples(dit, items, folder, truth=True)
        self.dit = dit
        self.batch = batch
        self.prompts = [x.prompt for x in items]
        self.truth = pictures_of(items)
        self.axis = axes_of(items)
        self.masks = masks_of(items)
        self.height, self.width = dit.size(*self.truth.shape[-2:])
        kwargs = {k: v for k, v in kwargs.items() if k not in ("height", "width")}  # the pictures' own
        self.picture = np.repeat(np.arange(len(items)), len(seeds))
        self.seed = np.tile(np.asarray(list(seeds)), len(items))
        latents = torch.cat([encode(dit, part) for part in self.truth.split(batch)])
        noise = [torch.randn(latents.shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
        self.latents = latents
        self.noise = torch.stack(noise, 1).flatten(0, 1).to(latents)  # item order: pictures slowest
        self.inputs = [
            conditions(dit, [self.prompts[p] for p in self.picture[part]], self.height, self.width, **kwargs)
            for part in self.parts()
        ]

    def __len__(self) -> int:
        return len(self.picture)

    def parts(self) -> Iterator[slice]:
        """The batches."""
        for begin in range(0, len(self), self.batch):
            yield slice(begin, min(begin + self.batch, len(self)))

    def noised(self, sigma: float, part: slice) -> torch.Tensor:
        """z_t of these items."""
        return (1 - sigma) * self.latents[self.picture[part]] + sigma * self.noise[part]

    @torch.no_grad()
    def predict(
        self, sigma: float, edits: Sequence[Disrupt] = (), batches: int | None = None, pictures: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Velocity (items, C, h, w) and x0 as pictures (items, 3, H, W) in [-1, 1], of the first `batches`, or all.

        `pictures=False` leaves the decoding out, and gives no pictures.
        """
        velocities, shown = [], []
        with self.dit.running():
            for part, inputs in list(zip(self.parts(), self.inputs, strict=True))[:batches]:
                noised = self.noised(sigma, part)
                predicted = velocity(self.dit, noised, sigma, inputs, edits)
                velocities.append(predicted.cpu().float())
                if pictures:
                    shown.append(decoded(self.dit, noised - sigma * predicted, batch=self.batch))
        return torch.cat(velocities), torch.cat(shown) if pictures else torch.empty(0)

    def error(self, pictures: torch.Tensor) -> np.ndarray:
        """Mean-square error against the truth, (items,), pixels in [-1, 1]."""
        truth = self.truth[self.picture[: len(pictures)]]
        return (pictures - truth).double().square().mean((1, 2, 3)).numpy()

    def measure(self, predicted: torch.Tensor, clean: torch.Tensor, **labels: Any) -> pd.DataFrame:
        """One row per item and band: error, its parts and regions, and how far the change goes along shaded - flat.

        Bands: `metrics.cell_bands.NAMED`, in cycles per latent cell, without the mean. `total`, the same in the rows of
        each band, is the error of the whole picture, its mean too.

        Args:
            predicted: x0 as pictures, of all items or the first of them.
            clean: the clean run's, of the same.
            **labels: constant columns.
        """
        picture = self.picture[: len(predicted)]
        truth, axis = self.truth[picture], self.axis[picture]
        along, bands = axis_share(predicted - clean, axis), named_bands(self.dit.vae_scale_factor)
        splits = coherent_error(predicted, truth, bands)
        regions: dict[str, dict[str, torch.Tensor]] = {}
        if self.masks is not None:
            inside = self.masks[picture]
            regions = {
                "foreground": region_error(predicted, truth, inside, bands),
                "background": region_error(predicted, truth, 1 - inside, bands),
            }
        tables = []
        for band, error in band_error(predicted, truth, bands).items():
            columns = {
                "picture": picture,
                "prompt": [self.prompts[p] for p in picture],
                "seed": self.seed[: len(predicted)],
                "band": band,
                "error": error.numpy(),
                "coherent": splits[band].coherent.numpy(),
                "incoherent": splits[band].incoherent.numpy(),
                "total": self.error(predicted),
                **{name: errors[band].numpy() for name, errors in regions.items()},
                "style_axis": along.projection.numpy(),
                "style_cosine2": along.cosine2.numpy(),
            }
            tables.append(pd.DataFrame({**labels, **columns}))
        return pd.concat(tables, ignore_index=True)

    @torch.no_grad()
    def hidden(self, sigma: float, block: int) -> torch.Tensor:
        """Image-stream output of a block, (items, tokens, channels), of the first batch."""
        outputs: list[torch.Tensor] = []
        at = self.dit.blocks[block]

        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            tokens = self.dit.family.image_tokens(self.dit.transformer, self.latents)
            hidden = at.record.get(output, "image", tokens)
            assert hidden is not None  # every block has an image stream
            outputs.append(hidden.detach().cpu().float())

        handle = at.module.register_forward_hook(hook)
        try:
            self.predict(sigma, batches=1, pictures=False)
        finally:
            handle.remove()
        return outputs[0]
