"""What do your own edits do to one denoising step?

Noise a picture to sigma, predict once with and once without an edit from the *same* z_t, and compare the two x0
predictions with the truth, band by band, in cycles per latent cell and without the mean. There is no trajectory that
could drift, and thousands of pairs take minutes. Every perturbation of a denoiser hurts high frequencies most, so an
effect counts only beyond controls of the same size. `denoise` scales controls to the same harm and gives a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.datasets.examples import Items, axes_of, examples, pictures_of
from dg_tools.datasets.references import References
from dg_tools.generation.sampling import check_names
from dg_tools.interventions import Disrupt
from dg_tools.kinds import kind_of
from dg_tools.metrics import Bands, axis_share, bootstrap_interval, coherent_error
from dg_tools.metrics.cell_bands import check_size, named_bands, named_words
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded
from dg_tools.models.pictures import encode
from dg_tools.models.pictures import pictures as decoded
from dg_tools.numbers import is_several, number
from dg_tools.onestep import conditions, velocity
from dg_tools.progress import progress_bar

SIGMAS = (0.3, 0.5, 0.7, 0.9)


@dataclass
class DenoiseError:
    """What edits do to one denoising step.

    Attributes:
        table: one row for each edit, sigma, picture and band (low, mid, high: `metrics.cell_bands.NAMED`): `error`
            (mean square, pixels in [-1, 1]), its `coherent` part (along the reference: a wrong amount) and `incoherent`
            rest, and `style_axis`, the share of the change from the clean prediction along shaded - flat.
        edits: sentences in the order given; the clean run is `clean`.
        cell: pixels of a latent cell, to say what a band is; None: not known.
    """

    table: pd.DataFrame = field(repr=False)
    edits: list[str]
    roles: dict[str, str] = field(repr=False)
    cell: int | None = None

    def to_frame(self) -> pd.DataFrame:
        """The table, a copy."""
        return self.table.copy()

    def ratios(self) -> pd.DataFrame:
        """Error divided by the clean run's, by edit, sigma and band (ratio of means over pictures)."""
        mean = self.table.groupby(["edit", "sigma", "band"], sort=False)["error"].mean()
        clean = mean.xs("clean")
        rows = [
            {"edit": e, "role": self.roles[e], "sigma": s, "band": b, "ratio": mean[e, s, b] / clean[s, b]}
            for e, s, b in mean.index
            if e != "clean"
        ]
        return pd.DataFrame(rows, columns=["edit", "role", "sigma", "band", "ratio"])

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """For each edit (without controls) and band: error relative to clean, interval, rank among controls.

        Columns: edit, band, ratio (error / clean error, over all sigmas), low, high (95% interval of that ratio,
        clustered by picture), controls, rank (how many controls do less harm), selectivity (high-band ratio / low-band
        ratio).
        """
        wide = self.table.groupby(["edit", "band", "picture"], sort=False)["error"].mean().unstack("picture")
        rows = []
        for edit in self.edits:
            if self.roles[edit] != "edit":
                continue
            for band in wide.loc["clean"].index:
                ours, clean = wide.loc[(edit, band)].to_numpy(), wide.loc[("clean", band)].to_numpy()
                controls = [e for e in self.edits if self.roles[e] == "control"]
                null = [wide.loc[(e, band)].mean() / clean.mean() for e in controls]
                _, low, high = bootstrap_interval((ours - clean) / clean.mean(), level=level)
                value = ours.mean() / clean.mean()
                rows.append(
                    {
                        "edit": edit,
                        "band": band,
                        "ratio": value,
                        "low": 1 + low,
                        "high": 1 + high,
                        "controls": len(null),
                        "rank": int(np.sum(np.array(null) < value)),
                        "control_median": float(np.median(null)) if null else float("nan"),
                    }
                )
        return pd.DataFrame(rows)

    def plot(self) -> Any:
        """Relative error by band and sigma, the edit against its controls."""
        from dg_tools.plots import denoise_error_figure

        return denoise_error_figure(self.ratios(), words=named_words(self.cell))


def denoise_error(
    dit: DiT,
    references: References | Items,
    edits: Sequence[Disrupt],
    *,
    pictures: int = 64,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    batch: int = 32,
    folder: References | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> DenoiseError:
    """Measure the error of x0 in one denoising step with and without each edit, at the same z_t.

    Args:
        dit: any DiT.
        references: what to denoise: a `References`, from which `pictures` are drawn with `seed`, a list of `Reference`,
            or for a model of your own a list of (prompt, picture) or of `Example`s, pictures of one size: PIL, paths
            or tensors (3, H, W) in [-1, 1]; without a second style `style_axis` is NaN.
        edits: edits and their controls, which `Disrupt.controls` makes and marks.
        sigmas: noise levels, 0 to 1.
        folder: where a list of `Reference` has its pictures (default: the embedded ones).
        batch: pictures per forward.
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError: no edits or the same one twice, a sigma outside 0..1, an edit restricted to steps (there is one),
            pictures of at most 8 latent cells per side, which have no low band.

    Example:
        >>> off = dg.Disrupt([55], 6)
        >>> found = dg.denoise_error(dit, dg.references(dit), [off, *off.controls(2)], pictures=4, sigmas=[0.5])
        >>> found.summary()[["band", "controls"]]
           band  controls
        0   low         2
        1   mid         2
        2  high         2
    """
    check_loaded(dit, "denoise_error")
    check_names(dit, kwargs, "denoise_error", denoise_error)
    if not edits:
        raise ValueError("no edits: pass at least one Disrupt, with its controls")
    for edit in edits:
        if not isinstance(edit, Disrupt):
            raise TypeError(f"an edit is {kind_of(edit)}; pass a list of Disrupts")
    if not is_several(sigmas):
        raise TypeError(f"sigmas={sigmas!r}; several numbers are needed, such as (0.3, 0.5)")
    if not all(0 < number(s, "sigmas") < 1 for s in sigmas):
        raise ValueError(f"sigmas={list(sigmas)}; each must lie between 0 and 1")
    if isinstance(references, References):
        items = examples(dit, references.sample(pictures, seed=seed), references, truth=True)
    else:
        items = examples(dit, references, folder, truth=True)
    if not items:
        raise ValueError("no references: pass at least two pictures")
    prompts, truth, axis = [x.prompt for x in items], pictures_of(items), axes_of(items)
    height, width = dit.size(*truth.shape[-2:])
    check_size(height, width, dit.vae_scale_factor)
    for edit in edits:
        edit.check(dit, None, height, width)
        if edit.steps is not None:
            raise ValueError(f"{edit.sentence()}: denoise_error has sigmas, not steps")
    names = ["clean", *(e.sentence() for e in edits)]
    if len(set(names)) != len(names):
        raise ValueError("two edits are the same: " + next(n for n in names if names.count(n) > 1))
    rows: list[dict[str, Any]] = []
    bands = named_bands(dit.vae_scale_factor)
    bar = progress_bar(progress, total=len(sigmas) * len(names) * -(-len(prompts) // batch), desc="denoise")
    with dit.running(), torch.no_grad():
        for begin in range(0, len(prompts), batch):
            part = slice(begin, begin + batch)
            latents = encode(dit, truth[part])
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + begin))
            noise = noise.to(latents)
            inputs = conditions(dit, prompts[part], height, width, **kwargs)
            for sigma in sigmas:
                noised = (1 - sigma) * latents + sigma * noise
                clean: torch.Tensor | None = None
                for name, group in zip(names, [[], *([e] for e in edits)], strict=True):
                    predicted = velocity(dit, noised, sigma, inputs, group)
                    picture = decoded(dit, noised - sigma * predicted, batch=batch)
                    clean = picture if clean is None else clean
                    rows += measure(picture, clean, truth[part], axis[part], name, sigma, begin, bands)
                    bar.update()
    bar.close()
    roles = {"clean": "clean"} | {e.sentence(): "control" if e.control else "edit" for e in edits}
    return DenoiseError(pd.DataFrame(rows), names[1:], roles, dit.vae_scale_factor)


def measure(
    picture: torch.Tensor,
    clean: torch.Tensor,
    truth: torch.Tensor,
    axis: torch.Tensor,
    name: str,
    sigma: float,
    begin: int,
    bands: Bands,
) -> list[dict[str, Any]]:
    """Rows of the table for one batch."""
    splits = coherent_error(picture, truth, bands)
    along = axis_share(picture - clean, axis).projection.tolist()
    return [
        {
            "edit": name,
            "sigma": sigma,
            "picture": begin + i,
            "band": band,
            "error": coherent[i] + incoherent[i],
            "coherent": coherent[i],
            "incoherent": incoherent[i],
            "style_axis": along[i],
        }
        for band, (coherent, incoherent) in ((b, [part.tolist() for part in split]) for b, split in splits.items())
        for i in range(len(picture))
    ]
