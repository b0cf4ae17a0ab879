"""The capture loop: one sampling run per prompt and seed; a `Recorder` reads each call of the transformer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from diffusers.guiders import BaseGuidance

from dg_tools._as_list import as_list
from dg_tools.activations.raw import Stream, select_raw
from dg_tools.activations.reading import reading
from dg_tools.activations.recorder import Recorder
from dg_tools.activations.result import Activations
from dg_tools.activations.runs import check_quantiles, combined, settings, unfinished
from dg_tools.activations.store import create_store
from dg_tools.activations.text_words import text_words
from dg_tools.datasets.examples import as_items, prompt_of
from dg_tools.families import bind
from dg_tools.forward.call import Call
from dg_tools.forward.clock import Clock
from dg_tools.forward.refusals import check_cache
from dg_tools.forward.stepping import after_callback, after_each_step
from dg_tools.generation.sampling import check_call, check_rows, guidance_scale, windowed
from dg_tools.interventions import Edit, attached
from dg_tools.kinds import counted, kind_of
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded
from dg_tools.models.pictures import decode, spatial
from dg_tools.numbers import is_several
from dg_tools.progress import progress_bar


class CaptureInterrupted(KeyboardInterrupt):
    """A capture stopped by the user; `kept` has the Activations of the runs that were finished, or None."""

    def __init__(self, kept: Activations | None, done: int, total: int) -> None:
        super().__init__(f"interrupted: {done} of {total} runs are kept in this exception's .kept")
        self.kept = kept


def capture(
    dit: DiT,
    prompts: Any = None,
    *,
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    guidance: BaseGuidance | None = None,
    edits: Edit | Sequence[Edit] | None = None,
    rows: Literal["cond", "all"] = "cond",
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
    """Capture activations in one sampling run per prompt and seed.

    Args:
        dit: from `load`.
        prompts: required; one or several: strings, `Reference`s, (prompt, picture) pairs or `Example`s; for a
            class-conditional model also class numbers.
        seeds: one or several.
        steps, height, width: the pipeline's defaults where None.
        guidance: None (s = 1) or `CFG(s)`. Inside `with dg.detail_guidance(dit, guider):` only the clean passes are
            captured.
        edits: applied during the run; the captured values include them.
        rows: `cond`, the conditional rows, or `all`, both halves of classifier-free guidance (dim `branch`).
        quantiles: quantiles of |x| at each place, such as (0.5, 0.999), from a histogram with 32 bins per octave: exact
            to 1.6 %.
        raw: blocks whose hidden states are kept whole, as `hidden_states`.
        raw_steps, raw_tokens, raw_channels, raw_stream: steps, tokens, channels and stream of these; None for all.
        store: a folder for raw hidden states, written chunk by chunk during the runs; None: they are kept in memory. A
            killed run leaves a store that `open_activations` reads and that says which steps it has.
        overwrite: replace activations that `store` already holds.
        cap: largest size of raw hidden states in bytes, in memory or in the store.
        progress: show a bar.
        **kwargs: passed to the pipeline's call. Calls of the transformer inside a `callback_on_step_end` are not
            captured.

    Raises:
        MemoryError: raw hidden states over the cap, before the run, with the size.
        ValueError, IndexError: settings that this model cannot take, before the run.
        FileExistsError: `store` holds something else, or holds activations and `overwrite` is False.
        StoreStopped: the store could not be written further (a full disk); the message says what is kept.
        RuntimeError: an edit that touched nothing or made the hidden states overflow, or a run that ended early.
        CaptureInterrupted: on Ctrl-C; the finished runs are in `.kept`.

    Example:
        >>> acts = dg.capture(dit, ["red apple", "owl"], seeds=range(2), steps=2)
        >>> acts.data["mean"].sel(stream="image").dims
        ('prompt', 'seed', 'branch', 'step', 'site', 'channel')
        >>> acts.data.sizes["site"], acts.data.sizes["channel"], acts.grid
        (12, 144, (8, 8))
    """
    check_loaded(dit, "capture")
    prompts, seeds = prompt_list(prompts), as_list(seeds)
    disruptions = [e for e in as_list(edits) if e is not None]
    check_request(prompts, seeds, guidance, rows, quantiles)
    check_call(dit, prompts, kwargs, "capture", capture)
    check_cache(dit.transformer)
    scale = guidance_scale(guidance)
    height, width = dit.size(height, width)
    steps = dit.default_steps if steps is None else steps
    check_rows(disruptions, scale)
    for disruption in disruptions:
        disruption.check(dit, steps, height, width)
    branches = ["cond", "uncond"] if rows == "all" and scale > 1 else ["cond"]
    selection = select_raw(
        dit,
        raw,
        raw_steps,
        raw_tokens,
        raw_channels,
        raw_stream,
        available=steps,
        size=(height, width),
        runs=f"{counted(len(prompts), 'prompt')} x {counted(len(seeds), 'seed')} x "
        f"{counted(len(branches), 'branch', 'branches')}",
        count=len(prompts) * len(seeds) * len(branches),
        cap=cap,
        **{k: v for k, v in kwargs.items() if not k.startswith(("callback", "skip_"))},
    )
    attrs = settings(dit, height, width, disruptions) | {"steps": steps, "guidance_scale": scale}
    attrs["call"] = {k: v if isinstance(v, str | int | float | bool) else repr(type(v)) for k, v in kwargs.items()}
    writer = create_store(dit, store, selection, prompts, seeds, branches, attrs, overwrite=overwrite)
    arguments = {"steps": steps, "height": height, "width": width, "guidance_scale": scale, **kwargs}
    runs: list[xr.Dataset] = []
    jobs = list(itertools.product(enumerate(prompts), enumerate(seeds)))
    for (p, prompt), (s, seed) in progress_bar(progress, jobs, desc="runs"):
        recorder = Recorder(dit, branches, selection, quantiles, writer, (p, s))
        try:
            reads = functools.partial(reading, dit, recorder)
            latents = recorded_run(dit, prompt, disruptions, reads, {"seed": seed, **arguments})
            recorder.finish()
            pictures = decode(dit, spatial(dit, latents, height, width), output_type="np")
            runs.append(recorder.dataset().assign(picture=picture_variable(pictures)))
        except (Exception, KeyboardInterrupt) as error:
            partial = unfinished(runs, prompts, seeds, attrs)
            if recorder.store_error is not None and writer is not None:
                raise writer.stopped(recorder.store_error, partial) from recorder.store_error
            if isinstance(error, KeyboardInterrupt):
                raise CaptureInterrupted(partial, len(runs), len(jobs)) from None
            raise
    data = combined(runs, prompts, seeds)
    words = text_words(dit, prompts, data)
    data.attrs = {**attrs, "steps": data.sizes["step"], **({"words": words} if words else {})}
    return Activations(data if writer is None else writer.finish(data))


def recorded_run(
    dit: DiT,
    prompt: str,
    edits: Sequence[Edit],
    reads: Callable[[Callable[[], Call]], AbstractContextManager[None]],
    arguments: dict[str, Any],
) -> torch.Tensor:
    """The final latents of one run inside `reads`, which is given a function that returns the call that begins."""
    final: list[torch.Tensor] = []
    calls: list[Call] = []  # the one that runs

    def keep(latents: torch.Tensor) -> None:
        final[:] = [latents.clone()]

    def read(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        calls[:] = [clock.read(bind(module, args, kwargs))]

    call = after_callback(dit.arguments(prompt, **arguments), keep)
    with dit.running(), ExitStack() as stack:
        clock = stack.enter_context(Clock(dit.pipeline, dit.family))
        stack.callback(dit.transformer.register_forward_pre_hook(read, with_kwargs=True).remove)
        edited = stack.enter_context(attached(dit.transformer, dit.family, edits, lambda inputs: calls[-1]))
        stack.enter_context(reads(lambda: calls[-1]))
        stack.enter_context(after_each_step(dit.pipeline, lambda step, latents: keep(latents)))
        dit.sample(**call, output_type="latent")
    edited.check_finite()
    return final[-1]


def prompt_list(prompts: Any) -> list[Any]:
    """The prompts of one item or several, as strings or class numbers."""
    items = as_items(prompts) if isinstance(prompts, str) or is_several(prompts) else [prompts]
    return [item if isinstance(item, int) or item is None else prompt_of(item) for item in items]


def check_request(
    prompts: Sequence[str], seeds: Sequence[int], guidance: BaseGuidance | None, rows: str, quantiles: Sequence[float]
) -> None:
    """Raise ValueError for arguments that are wrong for every model."""
    if not prompts or not seeds:
        raise ValueError("an empty list of prompts or seeds: nothing to capture")
    if windowed(guidance) is not None:
        raise ValueError(
            f"capture takes a plain dg.CFG(s) or None, not {kind_of(guidance)}: a disrupted pass would be mixed in, "
            "and a window or a rescale would not be seen; pass edits= instead, or capture inside `with "
            "dg.detail_guidance(...)`"
        )
    if rows not in ("cond", "all"):
        raise ValueError(f"rows={rows!r}; allowed: cond, all")
    check_quantiles(quantiles)


def picture_variable(pictures: np.ndarray) -> tuple[tuple[str, str, str], np.ndarray]:
    """The first of pictures (N, H, W, 3) in [0, 1] as a variable of bytes."""
    return ("y", "x", "rgb"), (pictures[0] * 255).round().astype(np.uint8)
