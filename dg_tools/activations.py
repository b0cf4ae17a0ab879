"""What does a DiT compute at every block, step and token? One traced sampling run after another, as labelled arrays.

Read through nnsight, in execution order, with the step taken from the timestep. Statistics are computed while the run
goes, so memory grows with steps x blocks x (channels + tokens); raw hidden states are kept only where asked for, after
a size estimate and under a cap.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from diffusers.guiders import BaseGuidance

from dg_tools.generation import as_list
from dg_tools.interventions import Disrupt
from dg_tools.models import DiT
from dg_tools.pictures import decode, spatial
from dg_tools.progress import progress_bar
from dg_tools.sampling import guidance_scale, windowed

TOP = 3  # how many of the largest values are kept with channel and token
STREAMS = ("image", "text")


@dataclass
class Activations:
    """Captured activations.

    Attributes:
        data: an xarray.Dataset. Dims are among prompt, seed, branch (cond, uncond), step (with sigma), site, stream
            (image, text), token, channel, rank, part. Variables: `mean`, `abs_mean`, `variance`, `positive` (share of
            tokens above 0), `abs_max` over tokens, by channel; `token_norm`, `token_max` over channels, by token (NaN
            beyond a stream's end); `top_value`, `top_channel`, `top_token` of the largest |x|; `median_abs_mean`;
            `clipped` (values at the dtype's limit or not finite); `gate`, `shift`, `scale` of AdaLN by part;
            `attn_write`, `mlp_write` (mean |gated output| by channel); `hidden_states` (raw_step, raw_site, raw_token)
            where raw was asked for; `picture`.
    """

    data: xr.Dataset

    def __repr__(self) -> str:
        sizes = ", ".join(f"{k} {v}" for k, v in self.data.sizes.items())
        return f"Activations({sizes}; {self.data.nbytes / 2**20:.1f} MiB)"

    @property
    def grid(self) -> tuple[int, int]:
        """Image tokens as (rows, columns)."""
        return tuple(self.data.attrs["grid"])  # type: ignore[return-value]

    def save(self, folder: str | Path) -> None:
        """Write a zarr store."""
        self.data.to_zarr(folder, mode="w", consolidated=False, zarr_format=2)  # version 3 has no strings yet

    def to_dataframe(self, variable: str) -> Any:
        """One variable as a tidy pandas table."""
        return self.data[variable].to_dataframe().reset_index()


def open_activations(folder: str | Path) -> Activations:
    """Activations from `Activations.save`.

    Raises:
        FileNotFoundError: no such store.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no activations at {folder}: pass the folder that Activations.save wrote")
    return Activations(xr.open_zarr(folder, consolidated=False))


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
    raw: Sequence[int] = (),
    raw_steps: Sequence[int] | None = None,
    cap: int = 2**30,
    progress: bool = True,
    **kwargs: Any,
) -> Activations:
    """Activations of every prompt and seed, one sampling run each.

    Args:
        dit: from `load`.
        prompts, seeds: one or several.
        steps, height, width: the pipeline's defaults where None.
        guidance: None (s = 1) or `CFG(s)`; `DetailGuidance` reruns blocks and is not captured.
        edits: applied during the run; what is captured is after the edit.
        rows: the conditional rows, or both halves of classifier-free guidance (dim `branch`).
        raw: blocks whose image hidden states are kept whole.
        raw_steps: steps of these; None for all.
        cap: most bytes of raw hidden states.
        **kwargs: passed to the pipeline's call.

    Raises:
        MemoryError: raw hidden states over the cap, before the run, with the size.
        ValueError, IndexError: settings that this model cannot take, before the run.
        RuntimeError: an edit that touched nothing, or a run that ended early.
    """
    prompts, seeds, group = as_list(prompts), as_list(seeds), [e for e in as_list(edits) if e is not None]
    if not prompts or not seeds:
        raise ValueError("an empty list of prompts or seeds: nothing to capture")
    if windowed(guidance) is not None:
        raise ValueError(
            "capture runs with plain CFG(s) or without guidance: a disrupted pass would be mixed in (pass edits= "
            "instead), and a window or a rescale would not be seen"
        )
    if rows not in ("cond", "all"):
        raise ValueError(f"rows={rows!r}; allowed: cond, all")
    scale = guidance_scale(guidance)
    height, width = dit.size(height, width)
    steps = dit.default_steps if steps is None else steps
    for edit in group:
        edit.check(dit, steps, height, width)
    branches = ["cond", "uncond"] if rows == "all" and scale > 1 else ["cond"]
    tokens = int(np.prod(dit.grid(height, width)))
    for block in raw:
        dit.block(block)
    if raw_steps is not None and not all(0 <= s < steps for s in raw_steps):
        raise IndexError(f"raw_steps={list(raw_steps)} asked for; there are 0 to {steps - 1}")
    count = len(raw_steps) if raw_steps is not None else steps
    size = len(prompts) * len(seeds) * len(branches) * len(raw) * count * tokens * dit.width * 4
    if size > cap:
        raise MemoryError(
            f"raw hidden states would take {size / 2**20:,.0f} MiB ({len(prompts)} prompts x {len(seeds)} seeds x "
            f"{len(branches)} branches x {count} steps x {len(raw)} blocks x {tokens} tokens x {dit.width} "
            f"channels x 4 bytes); "
            f"the cap is {cap / 2**20:,.0f} MiB: ask for fewer, or raise cap="
        )
    runs = []
    jobs = list(itertools.product(prompts, seeds))
    for prompt, seed in progress_bar(progress, jobs, desc="runs"):
        recorder = Recorder(dit, group, branches, set(raw), None if raw_steps is None else set(raw_steps))
        arguments = {"seed": seed, "steps": steps, "height": height, "width": width, "guidance_scale": scale, **kwargs}
        final = trace_run(dit, prompt, recorder, arguments)
        recorder.finish(len(dit.pipeline.scheduler.timesteps))
        made = recorder.dataset()
        picture = decode(dit, spatial(dit, final, height, width), output_type="np")[0]
        made["picture"] = (("y", "x", "rgb"), (picture * 255).round().astype(np.uint8))
        runs.append(made)
    steps_run = len(dit.pipeline.scheduler.timesteps)
    table = [runs[i : i + len(seeds)] for i in range(0, len(runs), len(seeds))]
    data = xr.combine_nested(table, concat_dim=["prompt", "seed"], combine_attrs="override", join="exact")
    data = data.assign_coords(prompt=list(prompts), seed=list(seeds)).transpose("prompt", "seed", ...)
    data.attrs = {
        "model": str(getattr(dit.pipeline, "name_or_path", "")) or type(dit.pipeline).__name__,
        "transformer": type(dit.transformer).__name__,
        "family": dit.family.name,
        "dtype": str(dit.dtype).removeprefix("torch."),
        "grid": list(dit.grid(height, width)),
        "height": height,
        "width": width,
        "steps": steps_run,
        "guidance_scale": scale,
        "edits": [e.sentence() for e in group],
        **{p: importlib.metadata.version(p) for p in ("torch", "diffusers", "nnsight")},
    }
    return Activations(data)


def trace_run(dit: DiT, prompt: str, recorder: Recorder, arguments: dict[str, Any]) -> torch.Tensor:
    """One traced run; the only trace body of the library. Sites in execution order; edit, then record."""
    final: list[Any] = []
    with dit.trace(prompt, output_type="latent", callback_on_step_end=keep_latents(final), **arguments) as run:
        for step in run.steps:
            for block in dit.blocks:
                recorder.modulation(step, block, block.modulation)
                if block.record.attn is not None:
                    recorder.write(step, block, "attn", block.attn)
                recorder.write(step, block, "mlp", block.mlp)
                edited = recorder.edit(step, block, block.output)
                if edited is not None:
                    block.output = edited
                recorder.streams(step, block, block.output if edited is None else edited)
    return final[-1]


def keep_latents(into: list[Any]) -> Any:
    """A pipeline callback that keeps the latest latents."""

    def after(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        into[:] = [tensors["latents"].clone()]
        return tensors

    return after


class Recorder:
    """Reduces what a traced run passes by, and keeps it in memory until `dataset()`."""

    def __init__(self, dit: DiT, edits: list[Disrupt], branches: list[str], raw: set[int], raw_steps: set[int] | None):
        self.dit, self.edits, self.branches, self.raw, self.raw_steps = dit, edits, branches, raw, raw_steps
        self.values: dict[
            tuple[str, str, int, int, str], np.ndarray
        ] = {}  # variable, branch, step, block, stream or part
        self.sigmas: dict[int, float] = {}
        self.touched = [0] * len(edits)
        self._gates: dict[str, torch.Tensor] = {}

    def rows(self, step: Any) -> list[tuple[str, int]]:
        """(branch, row) pairs of this call that are wanted and not yet recorded for this step."""
        if step.branch == "other":
            return []
        found = [(b, getattr(step, b)) for b in self.branches]
        return [(b, part.start) for b, part in found if part.stop > part.start]

    def put(self, variable: str, branch: str, step: Any, block: Any, part: str, value: torch.Tensor) -> None:
        self.sigmas[int(step)] = step.sigma
        # a copy: on a CPU, .cpu() of a tensor is the tensor, and later edits would show
        self.values.setdefault(
            (variable, branch, int(step), block.index, part), value.detach().float().cpu().numpy().copy()
        )

    def modulation(self, step: Any, block: Any, chunks: dict[str, torch.Tensor]) -> None:
        """AdaLN chunks `gate_msa`, ... as variable `gate`, part `msa`."""
        self._gates = chunks
        for name, value in chunks.items():
            kind, _, part = name.partition("_")
            for branch, row in self.rows(step):
                self.put(kind, branch, step, block, part or "all", value[row])

    def write(self, step: Any, block: Any, which: str, output: torch.Tensor) -> None:
        """What a branch adds to the stream: gate x output, mean |.| over tokens."""
        gate = self._gates[getattr(block.record, f"{which}_gate")]
        for branch, row in self.rows(step):
            size = (gate[row] * output[row]).float().abs().mean(0)
            self.put(f"{which}_write", branch, step, block, "", size)

    def edit(self, step: Any, block: Any, output: tuple) -> tuple | None:
        """The block's output after the edits, or None where no edit is concerned."""
        changed = None
        for i, edit in enumerate(self.edits):
            if edit.block != block.index:
                continue
            new = edit.edit(output, block.record, step.call)
            if new is not None:
                self.touched[i] += 1
                output = changed = new
        return changed

    def streams(self, step: Any, block: Any, output: tuple) -> None:
        """Statistics of both streams, and the image stream itself where raw was asked for."""
        for stream in STREAMS:
            hidden = output[getattr(block.record, stream)]
            if hidden is None:
                continue
            for branch, row in self.rows(step):
                for variable, value in statistics(hidden[row]).items():
                    self.put(variable, branch, step, block, stream, value)
                wanted = self.raw_steps is None or int(step) in self.raw_steps
                if stream == "image" and block.index in self.raw and wanted:
                    self.put("hidden_states", branch, step, block, stream, hidden[row])

    def finish(self, steps: int) -> None:
        """Raise where the run did not give what it should have."""
        if sorted(self.sigmas) != list(range(steps)):
            raise RuntimeError(f"the run gave steps {sorted(self.sigmas)} of {steps}: it ended early or skipped steps")
        for edit, count in zip(self.edits, self.touched, strict=True):
            if count == 0:
                raise RuntimeError(f"this edit touched nothing: {edit.sentence()}; check its steps and rows")

    def dataset(self) -> xr.Dataset:
        """Everything as labelled arrays; NaN where a value does not exist (no text after SD3's last block)."""
        steps, sites = sorted(self.sigmas), self.dit.sites
        variables: dict[str, Any] = {}
        by_variable: dict[str, dict[tuple, np.ndarray]] = {}
        for (variable, *key), value in self.values.items():
            by_variable.setdefault(variable, {})[tuple(key)] = value
        for variable, entries in by_variable.items():
            raw = variable == "hidden_states"
            at_steps = sorted({k[1] for k in entries}) if raw else steps
            at_blocks = sorted({k[2] for k in entries}) if raw else list(range(len(sites)))
            parts = list(dict.fromkeys(k[3] for k in entries))
            longest = tuple(max(v.shape[d] for v in entries.values()) for d in range(next(iter(entries.values())).ndim))
            array = np.full(
                (len(self.branches), len(at_steps), len(at_blocks), len(parts), *longest), np.nan, np.float32
            )
            for (branch, step, block, part), value in entries.items():
                index = (self.branches.index(branch), at_steps.index(step), at_blocks.index(block), parts.index(part))
                inside: Any = (*index, *(slice(0, n) for n in value.shape))
                array[inside] = value
            dims = ["branch", "raw_step", "raw_site"] if raw else ["branch", "step", "site"]
            inner = INNER.get(variable, ("channel",))
            if variable in ("gate", "shift", "scale"):
                variables[variable] = xr.DataArray(array, dims=[*dims, "part", *inner], coords={"part": parts})
            elif variable in INNER or variable in ("mean", "abs_mean", "variance", "positive", "abs_max"):
                kept = array[:, :, :, parts.index("image")] if raw else array
                names = [*dims, *inner] if raw else [*dims, "stream", *inner]
                coords = {"raw_step": at_steps, "raw_site": [sites[b] for b in at_blocks]} if raw else {"stream": parts}
                variables[variable] = xr.DataArray(kept, dims=names, coords=coords)
            else:
                variables[variable] = xr.DataArray(array[:, :, :, 0], dims=[*dims, *inner])
        data = xr.Dataset(variables)
        sigma = ("step", [self.sigmas[s] for s in steps])
        return data.assign_coords(branch=self.branches, step=steps, site=sites, sigma=sigma)


INNER = {
    "token_norm": ("token",),
    "token_max": ("token",),
    "top_value": ("rank",),
    "top_channel": ("rank",),
    "top_token": ("rank",),
    "median_abs_mean": (),
    "clipped": (),
    "hidden_states": ("raw_token", "channel"),
}


def statistics(hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    """Reductions of one row's hidden states (tokens, channels)."""
    x = hidden.float()
    size = x.abs()
    abs_mean = size.mean(0)
    index = size.flatten().topk(min(TOP, size.numel())).indices
    limit = torch.finfo(hidden.dtype).max
    return {
        "mean": x.mean(0),
        "abs_mean": abs_mean,
        "variance": x.var(0, unbiased=False),
        "positive": (x > 0).float().mean(0),
        "abs_max": size.amax(0),
        "token_norm": x.norm(dim=1),
        "token_max": size.amax(1),
        "top_value": x.flatten()[index],
        "top_channel": index % x.shape[1],
        "top_token": index // x.shape[1],
        "median_abs_mean": abs_mean.median(),
        "clipped": ((size >= limit) | ~torch.isfinite(x)).sum(),
    }
