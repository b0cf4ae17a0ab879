"""What happens inside while a picture is made? One traced sampling run after another."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from diffusers.guiders import BaseGuidance

from dg_tools.activations.raw import Raw, Stream, raw_of
from dg_tools.activations.recorder import Recorder
from dg_tools.activations.result import Activations
from dg_tools.activations.store import RawStore
from dg_tools.forward.clock import Clock, after_each_step
from dg_tools.generation._generate import as_list
from dg_tools.generation.sampling import guidance_scale, windowed
from dg_tools.interventions import Disrupt, attached
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode, spatial
from dg_tools.models.provenance import provenance
from dg_tools.progress import progress_bar


class CaptureInterrupted(KeyboardInterrupt):
    """A capture stopped by the user; `kept` has the Activations of the runs that were finished, or None."""

    def __init__(self, kept: Activations | None, done: int, asked: int) -> None:
        super().__init__(f"interrupted: {done} of {asked} runs are kept in this exception's .kept")
        self.kept = kept


def capture(
    dit: DiT,
    prompts: str | Sequence[str],
    *,
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    guidance: BaseGuidance | None = None,
    edits: Disrupt | Sequence[Disrupt] | None = None,
    rows: Literal["cond", "all"] = "cond",
    quantiles: Sequence[float] = (),
    raw: Sequence[int] = (),
    raw_steps: Sequence[int] | None = None,
    raw_tokens: Sequence[int] | None = None,
    raw_channels: Sequence[int] | None = None,
    raw_stream: Stream = "image",
    store: str | Path | None = None,
    cap: int = 2**30,
    progress: bool = True,
    **kwargs: Any,
) -> Activations:
    """Activations of every prompt and seed, one sampling run each.

    Args:
        dit: from `load`.
        prompts, seeds: one or several.
        steps, height, width: the pipeline's defaults where None.
        guidance: None (s = 1) or `CFG(s)`. Inside `with dg.detail_guidance(dit, guider):` the clean passes are
            captured, and the disrupted ones let through.
        edits: applied during the run; what is captured is after the edit.
        rows: the conditional rows, or both halves of classifier-free guidance (dim `branch`).
        quantiles: of |x| at each place, such as (0.5, 0.999), from a histogram of 32 bins an octave: exact to 1.6 %.
        raw: blocks whose hidden states are kept whole, as `hidden_states`.
        raw_steps, raw_tokens, raw_channels, raw_stream: steps, tokens, channels and stream of these; None for all.
        store: a folder for them, written chunk by chunk while the runs go; a killed run leaves a store that
            `open_activations` reads and that says which steps it has. Without one they are kept in memory.
        cap: most bytes of raw hidden states, in memory or in the store.
        progress: show a bar.
        **kwargs: passed to the pipeline's call. Calls of the transformer by a `callback_on_step_end` are let through.

    Raises:
        MemoryError: raw hidden states over the cap, before the run, with the size.
        ValueError, IndexError: settings that this model cannot take, before the run.
        FileExistsError: `store` holds something else.
        StoreStopped: the store could not be written further (a full disk); says what is kept.
        RuntimeError: an edit that touched nothing, or a run that ended early.
        CaptureInterrupted: on Ctrl-C; the finished runs are in `.kept`.
    """
    prompts, seeds, group = as_list(prompts), as_list(seeds), [e for e in as_list(edits) if e is not None]
    if not prompts or not seeds:
        raise ValueError("an empty list of prompts or seeds: nothing to capture")
    if windowed(guidance) is not None:
        raise ValueError(
            "capture runs with plain CFG(s) or without guidance: a disrupted pass would be mixed in (pass edits= "
            "instead, or capture inside `with dg.detail_guidance(...)`), and a window or a rescale would not be seen"
        )
    if rows not in ("cond", "all"):
        raise ValueError(f"rows={rows!r}; allowed: cond, all")
    check_quantiles(quantiles)
    scale = guidance_scale(guidance)
    height, width = dit.size(height, width)
    steps = dit.default_steps if steps is None else steps
    for edit in group:
        edit.check(dit, steps, height, width)
    branches = ["cond", "uncond"] if rows == "all" and scale > 1 else ["cond"]
    runs = f"{len(prompts)} prompts x {len(seeds)} seeds x {len(branches)} branches"
    text_call = {k: v for k, v in kwargs.items() if not k.startswith(("callback", "skip_"))}
    whole = raw_of(
        dit, raw, raw_steps, raw_tokens, raw_channels, raw_stream, available=steps, size=(height, width), runs=runs,
        count=len(prompts) * len(seeds) * len(branches), cap=cap, **text_call,
    )  # fmt: skip
    attrs = settings(dit, height, width, group) | {"steps": steps, "guidance_scale": scale}
    attrs["call"] = {k: v if isinstance(v, str | int | float | bool) else repr(type(v)) for k, v in kwargs.items()}
    writer = open_store(dit, store, whole, prompts, seeds, branches, attrs)
    made: list[xr.Dataset] = []
    jobs = list(itertools.product(enumerate(prompts), enumerate(seeds)))
    arguments = {"steps": steps, "height": height, "width": width, "guidance_scale": scale, **kwargs}
    for (p, prompt), (s, seed) in progress_bar(progress, jobs, desc="runs"):
        recorder = Recorder(dit, group, branches, whole, quantiles, writer, (p, s))
        try:
            final = trace_run(dit, prompt, recorder, {"seed": seed, **arguments})
            recorder.finish(len(dit.pipeline.scheduler.timesteps))
            pictures = decode(dit, spatial(dit, final, height, width), output_type="np")
            made.append(recorder.dataset().assign(picture=picture_of(pictures)))
        except (Exception, KeyboardInterrupt) as error:
            kept = finished(made, prompts, seeds, attrs)
            if recorder.full is not None and writer is not None:
                raise writer.stopped(recorder.full, kept, prompts, seeds) from recorder.full
            if isinstance(error, KeyboardInterrupt):
                raise CaptureInterrupted(kept, len(made), len(jobs)) from None
            raise
    data = combined(made, prompts, seeds)
    data.attrs = {**attrs, "steps": data.sizes["step"]}
    return Activations(finished_store(writer, data, prompts, seeds))


def check_quantiles(quantiles: Sequence[float]) -> None:
    """Raise ValueError for what is no share."""
    if not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"quantiles={tuple(quantiles)}; each is a share, 0 to 1")


def settings(dit: DiT, height: int, width: int, edits: Sequence[Disrupt]) -> dict[str, Any]:
    """What a capture is a capture of: model, weights, precision, versions, size, edits."""
    made = provenance(dit)
    versions = {**made["versions"], "dg_tools": importlib.metadata.version("dg-tools")}
    flat = {p: versions[p] for p in ("torch", "diffusers", "nnsight")}
    size = {"grid": list(dit.grid(height, width)), "height": height, "width": width}
    return {**made, "versions": versions, **flat, **size, "edits": [e.sentence() for e in edits]}


def open_store(
    dit: DiT,
    folder: str | Path | None,
    raw: Raw,
    prompts: Sequence[str],
    seeds: Sequence[int],
    branches: Sequence[str],
    attrs: dict[str, Any],
) -> RawStore | None:
    """The store of raw hidden states that was asked for.

    Raises:
        ValueError: a store without anything to put in it.
    """
    if folder is None:
        return None
    if not raw.blocks:
        raise ValueError("store= keeps raw hidden states: name the blocks, raw=[...]; statistics are saved by .save")
    coords: dict[str, Sequence[Any]] = {"prompt": prompts, "seed": seeds, "branch": branches, **raw.coords(dit)}
    return RawStore(folder, coords, raw, attrs)


def finished_store(
    writer: RawStore | None, data: xr.Dataset, prompts: Sequence[str], seeds: Sequence[int]
) -> xr.Dataset:
    """The data, completed by what is in the store, and the store by the data."""
    if writer is None:
        return data
    try:
        return writer.finish(data)
    except OSError as error:
        raise writer.stopped(error, Activations(data), prompts, seeds) from error


def combined(made: Sequence[xr.Dataset], prompts: Sequence[str], seeds: Sequence[int]) -> xr.Dataset:
    """Runs in the order of their prompts, then seeds, as one dataset."""
    table = [list(made[i : i + len(seeds)]) for i in range(0, len(made), len(seeds))]
    data = xr.combine_nested(table, concat_dim=["prompt", "seed"], combine_attrs="override", join="exact")
    return data.assign_coords(prompt=list(prompts), seed=list(seeds)).transpose("prompt", "seed", ...)


def finished(
    made: Sequence[xr.Dataset], prompts: Sequence[str], seeds: Sequence[int], attrs: dict[str, Any]
) -> Activations | None:
    """What there is of a capture that was stopped: NaN, and no picture, for runs that were not made."""
    if not made:
        return None
    blank = made[0].map(lambda v: xr.full_like(v, np.nan if v.dtype.kind == "f" else 0))
    rows = -(-len(made) // len(seeds))
    data = combined([*made, *[blank] * (rows * len(seeds) - len(made))], prompts[:rows], seeds)
    data.attrs = {**attrs, "finished": False}
    return Activations(data)


def picture_of(pictures: np.ndarray) -> Any:
    """The first of pictures (N, H, W, 3) in [0, 1] as a variable of bytes."""
    return ("y", "x", "rgb"), (pictures[0] * 255).round().astype(np.uint8)


def trace_run(dit: DiT, prompt: str, recorder: Recorder, arguments: dict[str, Any]) -> torch.Tensor:
    """One traced run; its final latents. Edits of gates and LayerNorms act through hooks, the others in the trace."""
    final: list[torch.Tensor] = []
    clock = Clock(dit.pipeline, dit.family).read

    def keep(step: int, latents: torch.Tensor) -> None:
        final[:] = [latents.clone()]

    with (
        attached(dit.transformer, dit.family, recorder.edits, clock, outputs=False),
        after_each_step(dit.pipeline, keep),
    ):
        with dit.trace(prompt, output_type="latent", **arguments) as run:
            for step in run.calls:
                recorder.look(step)
    return final[-1]
