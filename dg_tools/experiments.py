"""The paper's claims as functions, each with its controls and its interval.

`denoise_error` is the first and cleanest: noise a picture to sigma, predict once with and once without an edit from the
*same* z_t, and compare the two x0 predictions with the truth, band by band. No trajectory drifts, and thousands of
pairs take minutes. Every perturbation of a denoiser hurts high frequencies most, so an effect is only what controls of
the same size do not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.emoji import Reference, References
from dg_tools.emoji import references as embedded_references
from dg_tools.interventions import Disrupt, attached
from dg_tools.metrics import axis_share, bootstrap_interval, coherent_error
from dg_tools.models import DiT
from dg_tools.sampling import decode, encode, progress_bar
from dg_tools.steps import Call

SIGMAS = (0.3, 0.5, 0.7, 0.9)


@dataclass
class DenoiseError:
    """What edits do to one denoising step.

    Attributes:
        table: one row for each edit, sigma, picture and band: `error` (mean square, pixels in [-1, 1]), its `coherent`
            part (along the reference: a wrong amount) and `incoherent` rest, and `detail_axis`, the share of the change
            from the clean prediction along shaded - flat.
        edits: sentences in the order given; the clean run is `clean`.
    """

    table: pd.DataFrame = field(repr=False)
    edits: list[str]
    roles: dict[str, str] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """The table, a copy."""
        return self.table.copy()

    def ratios(self) -> pd.DataFrame:
        """Error relative to the clean run's by edit, sigma and band (ratio of means over pictures)."""
        mean = self.table.groupby(["edit", "sigma", "band"], sort=False)["error"].mean()
        clean = mean.xs("clean")
        rows = [
            {"edit": e, "role": self.roles[e], "sigma": s, "band": b, "ratio": mean[e, s, b] / clean[s, b]}
            for e, s, b in mean.index
            if e != "clean"
        ]
        return pd.DataFrame(rows, columns=["edit", "role", "sigma", "band", "ratio"])

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """For each edit that is no control and each band: extra error relative to clean, interval, rank among controls.

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
        from dg_tools.plots import band_errors

        return band_errors(self.ratios())


def denoise_error(
    dit: DiT,
    references: References | Sequence[Reference],
    edits: Sequence[Disrupt],
    *,
    pictures: int = 64,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    batch: int = 32,
    folder: References | None = None,
    progress: bool = True,
) -> DenoiseError:
    """One-step, paired error of x0 with and without each edit, at the same z_t.

    Args:
        dit: an embedded model, or any DiT for references of your own.
        references: what to denoise; from a `References`, `pictures` are drawn with `seed`.
        edits: edits and controls; `Disrupt.controls` marks its own.
        sigmas: noise levels, 0 to 1.
        folder: where a list of `Reference` has its pictures (default: the embedded ones).
        batch: pictures a forward.

    Raises:
        ValueError: no edits or the same one twice, a sigma outside 0..1, an edit restricted to steps (there is one).
    """
    if not edits:
        raise ValueError("no edits: pass at least one Disrupt, with its controls")
    if not all(0 < s < 1 for s in sigmas):
        raise ValueError(f"sigmas={list(sigmas)}; each must lie between 0 and 1")
    source = references if isinstance(references, References) else folder or embedded_references(dit)
    chosen = source.sample(pictures, seed=seed) if isinstance(references, References) else list(references)
    height = width = source.size
    for edit in edits:
        edit.check(dit, None, height, width)
        if edit.steps is not None:
            raise ValueError(f"{edit.sentence()}: denoise_error has sigmas, not steps")
    names = ["clean", *(e.sentence() for e in edits)]
    if len(set(names)) != len(names):
        raise ValueError("two edits are the same: " + next(n for n in names if names.count(n) > 1))
    truth = source.pictures(chosen)
    axis = truth - source.pictures([r.twin for r in chosen])
    for i, reference in enumerate(chosen):
        if reference.style == "flat":
            axis[i] = -axis[i]  # always shaded minus flat
    rows: list[dict[str, Any]] = []
    bar = progress_bar(progress, total=len(sigmas) * len(names) * -(-len(chosen) // batch), desc="denoise")
    with dit.running(), torch.no_grad():
        for begin in range(0, len(chosen), batch):
            part = slice(begin, begin + batch)
            latents = encode(dit, truth[part])
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + begin))
            noise = noise.to(latents)
            inputs = prompt_inputs(dit, [r.prompt for r in chosen[part]])
            for sigma in sigmas:
                noised = (1 - sigma) * latents + sigma * noise
                call = Call(None, 1000 * sigma, sigma, "cond", slice(None), slice(0, 0))
                clean: torch.Tensor | None = None
                for name, group in zip(names, [[], *([e] for e in edits)], strict=True):
                    with attached(dit.transformer, dit.family, group, call):
                        velocity = predict(dit, noised, sigma, inputs)
                    picture = decode(dit, noised - sigma * velocity, output_type="pt").cpu().float() * 2 - 1
                    clean = picture if clean is None else clean
                    rows += measure(picture, clean, truth[part], axis[part], name, sigma, begin)
                    bar.update()
    bar.close()
    roles = {"clean": "clean"} | {e.sentence(): "control" if e.control else "edit" for e in edits}
    return DenoiseError(pd.DataFrame(rows), names[1:], roles)


def measure(
    picture: torch.Tensor,
    clean: torch.Tensor,
    truth: torch.Tensor,
    axis: torch.Tensor,
    name: str,
    sigma: float,
    begin: int,
) -> list[dict[str, Any]]:
    """Rows of the table for one batch."""
    splits = coherent_error(picture, truth)
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
            "detail_axis": along[i],
        }
        for band, (coherent, incoherent) in ((b, [part.tolist() for part in split]) for b, split in splits.items())
        for i in range(len(picture))
    ]


def prompt_inputs(dit: DiT, prompts: list[str]) -> dict[str, torch.Tensor]:
    """The transformer's text inputs for a batch of prompts, as the pipeline makes them."""
    if dit.family.name != "sd3":
        raise NotImplementedError(f"denoise_error knows the text inputs of sd3, not yet those of {dit.family.name}")
    embeds, _, pooled, _ = dit.pipeline.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, **dit.call
    )
    return {"encoder_hidden_states": embeds, "pooled_projections": pooled}


def predict(dit: DiT, noised: torch.Tensor, sigma: float, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The velocity at one noise level."""
    level = torch.full((len(noised),), sigma * dit.family.timestep_scale, device=noised.device)
    return dit.transformer(hidden_states=noised.to(dit.dtype), timestep=level, **inputs, return_dict=False)[0]
