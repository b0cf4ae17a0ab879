"""Activations of given pictures: each is noised to a chosen level, as in DiTF, and read in one forward.

One forward of the transformer for each picture, seed and noise level, at z = (1 - sigma) x + sigma noise, read by
the same recorder as a sampling run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dg_tools._as_list import as_list
from dg_tools.activations.raw import Stream, select_raw
from dg_tools.activations.reading import reading
from dg_tools.activations.recorder import Recorder
from dg_tools.activations.result import Activations
from dg_tools.activations.runs import check_quantiles, combined, settings
from dg_tools.activations.store import create_store
from dg_tools.datasets.pictures import as_pictures
from dg_tools.forward.call import Call
from dg_tools.forward.refusals import check_cache
from dg_tools.interventions import Edit, attached
from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded
from dg_tools.models.pictures import encode, packed
from dg_tools.numbers import is_several, number
from dg_tools.onestep import conditions
from dg_tools.progress import progress_bar


def capture_image(
    dit: DiT,
    image: Any,
    *,
    sigma: float | Sequence[float] = 0.5,
    prompt: str | Sequence[str] = "",
    span: tuple[float, float] | None = None,
    seeds: int | Sequence[int] = 0,
    edits: Edit | Sequence[Edit] | None = None,
    quantiles: Sequence[float] = (),
    raw: Sequence[int] = (),
    raw_steps: Sequence[int] | None = None,
    raw_tokens: Sequence[int] | None = None,
    raw_channels: Sequence[int] | None = None,
    raw_stream: Stream = "image",
    store: str | Path | None = None,
    overwrite: bool = False,
    cap: int = 2**30,
    progress: bool = True,
    **kwargs: Any,
) -> Activations:
    """Capture activations of given pictures under noise: z = (1 - sigma) x + sigma noise, with x the picture's latents.

    The variables and dims are those of `capture`: `step` counts noise levels, the highest first, with `sigma` beside
    it; `prompt` counts pictures, with the coordinate `picture_index` beside it; `picture` is the picture itself.

    Args:
        dit: from `load`.
        image: one picture or a list, all of one size: PIL, a path, an array or a tensor, see
            `datasets.pictures.as_picture`.
        sigma: noise level, or several: 0 < sigma <= 1 (1 is noise alone).
        prompt: one for all pictures, or one each; empty by default.
        span: the values of black and white in arrays and tensors; None: `as_picture` infers them from the values.
        seeds: of the noise; every picture and level gets the same noise for the same seed.
        edits, quantiles, raw, raw_steps, raw_tokens, raw_channels, raw_stream, store, overwrite, cap, progress: as in
            `capture`.
        **kwargs: passed to the pipeline's call, from which the text embeddings are read.

    Returns:
        Activations, the conditional branch.

    Raises:
        TypeError, ValueError: something other than pictures, pictures of different sizes or of a size that this model
            cannot take, sigma outside (0, 1], a model that predicts no velocity, before any forward.
        MemoryError, IndexError, FileExistsError, StoreStopped: as in `capture`.
        RuntimeError: an edit that touched nothing.

    Example:
        >>> known = dg.references(dit)
        >>> apple = known.picture(known.reference("red apple"))
        >>> acts = dg.capture_image(dit, apple, sigma=[0.3, 0.7], prompt="red apple")
        >>> acts.data["sigma"].values.tolist()
        [0.7, 0.3]
    """
    check_loaded(dit, "capture_image")
    if dit.family.prediction != "velocity":
        raise ValueError(
            f"family {dit.family.name!r} predicts {dit.family.prediction}; sigma is a level of flow matching"
        )
    check_cache(dit.transformer)
    pictures = as_pictures(image, span)
    height, width = dit.size(pictures.shape[2], pictures.shape[3])
    levels: Any = sigma if is_several(sigma) else [sigma]
    sigmas = sorted({number(s, "sigma") for s in levels}, reverse=True)
    if not sigmas or not all(0 < s <= 1 for s in sigmas):
        raise ValueError(f"sigma={sigma} requested; noise levels lie above 0 and up to 1")
    count, seeds = len(pictures), as_list(seeds)
    prompts = as_list(prompt) * (count if isinstance(prompt, str) else 1)
    if len(prompts) != count:
        raise ValueError(
            f"{counted(len(prompts), 'prompt')} for {counted(count, 'picture')}: pass one, or one for each picture"
        )
    if not seeds:
        raise ValueError("an empty list of seeds: nothing to capture")
    check_quantiles(quantiles)
    disruptions = [e for e in as_list(edits) if e is not None]
    for disruption in disruptions:
        disruption.check(dit, len(sigmas), height, width)
    selection = select_raw(
        dit,
        raw,
        raw_steps,
        raw_tokens,
        raw_channels,
        raw_stream,
        available=len(sigmas),
        size=(height, width),
        runs=f"{counted(count, 'picture')} x {counted(len(seeds), 'seed')}",
        count=count * len(seeds),
        cap=cap,
        **kwargs,
    )
    attrs = settings(dit, height, width, disruptions) | {"steps": len(sigmas), "guidance_scale": 1.0}
    writer = create_store(dit, store, selection, prompts, seeds, ["cond"], attrs, overwrite=overwrite)
    latents = encode(dit, pictures).to(dit.device)
    inputs = {p: conditions(dit, [p], height, width, **kwargs) for p in dict.fromkeys(prompts)}
    runs = []
    bar = progress_bar(progress, total=count * len(seeds) * len(sigmas), desc="forwards")
    try:
        for (i, words), (j, seed) in itertools.product(enumerate(prompts), enumerate(seeds)):
            recorder = Recorder(dit, ["cond"], selection, quantiles, writer, (i, j), len(sigmas))
            noise = torch.randn(latents[:1].shape, generator=torch.Generator("cpu").manual_seed(seed)).to(latents)
            for k, level in enumerate(sigmas):
                noised = packed(dit, (1 - level) * latents[i : i + 1] + level * noise)
                try:
                    recorded_forward(dit, disruptions, recorder, k, level, {**inputs[words], "hidden_states": noised})
                except Exception:
                    if recorder.store_error is not None and writer is not None:
                        raise writer.stopped(recorder.store_error, None) from recorder.store_error
                    raise
                bar.update()
            recorder.finish()
            runs.append(recorder.dataset().assign(picture=(("y", "x", "rgb"), as_bytes(pictures[i]))))
    finally:
        bar.close()
    data = combined(runs, prompts, seeds).assign_coords(picture_index=("prompt", list(range(count))))
    data.attrs = attrs
    return Activations(data if writer is None else writer.finish(data))


@torch.no_grad()
def recorded_forward(
    dit: DiT, edits: Sequence[Edit], recorder: Recorder, index: int, sigma: float, inputs: dict[str, Any]
) -> None:
    """One forward at one noise level, recorded as step `index`."""
    hidden = inputs["hidden_states"]
    timestep = torch.full((len(hidden),), sigma * dit.family.timestep_scale, device=hidden.device)
    call = Call.at(sigma, step=index, image_tokens=dit.family.image_tokens(dit.transformer, hidden))
    with dit.running(), attached(dit.transformer, dit.family, edits, call), reading(dit, recorder, lambda: call):
        dit.transformer(**inputs, timestep=timestep, return_dict=False)


def as_bytes(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [-1, 1] as (H, W, 3) of bytes."""
    return ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
