"""A family record for a pipeline whose transformer has none, from forwards of the loaded model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dg_tools.kinds import kind_of
from dg_tools.models.check import check_pipeline
from dg_tools.models.sizes import parameters
from dg_tools.proposal.assembled import ALWAYS, assemble
from dg_tools.proposal.cfg import Cfg, find_cfg
from dg_tools.proposal.layout import TIME, packing_of, scale_factor
from dg_tools.proposal.proven import check_proposal, partial_ways
from dg_tools.proposal.result import Proposal
from dg_tools.proposal.runs import SIZE, Forward, Run, Runs
from dg_tools.proposal.streams import find_chains, read_text
from dg_tools.proposal.watched import moved, watch
from dg_tools.verification.result import Check

PROMPTS = ("red apple", "two blue pears")
LATENTS = "hidden_states"
FAILED = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, ImportError, AssertionError)


def propose(
    pipeline: Any,
    *,
    prompts: tuple[Any, Any] | None = None,
    height: int | None = None,
    width: int | None = None,
    **kwargs: Any,
) -> Proposal:
    """A family record for a loaded diffusers pipeline, found by some thirty forwards of its transformer.

    It finds the lists of blocks and their streams, the AdaLN chunks and what each of them does, the branches and their
    gates, the rows of classifier-free guidance, the timestep, and the layout of latents and positions. A record that
    already exists for the class is ignored; only the known layouts of latents are tried. The record is checked as
    `dg_tools.load` checks it, and by the first checks of `dg-tools verify`. Facts that a run cannot show are listed as
    sentences: read them before you use the record.

    Args:
        pipeline: a diffusers pipeline with a transformer.
        prompts: two prompts, or two class numbers; None: two of its own.
        height, width: in pixels, not equal; None: 256 x 384, or what the model's positions hold, where the pipeline
            takes a size.
        **kwargs: passed to the pipeline's call.

    Returns:
        A `Proposal`. Printed, it is a file for `dg_tools/families`; `.family` is the record, `.unknown` the sentences,
        `.checks` what was checked.

    Raises:
        TypeError: anything but a diffusers pipeline.
        ValueError: a pipeline without a transformer, a pipeline that cannot be called with these arguments, or no list
        of blocks that image tokens pass through.

    Example:
        >>> proposal = dg.families.propose(pipe)  # doctest: +SKIP
        >>> dit = dg.load(pipe, family=proposal.family)  # doctest: +SKIP
    """
    if not hasattr(pipeline, "components"):
        raise TypeError(f"{kind_of(pipeline)} was given; a loaded diffusers pipeline is needed")
    check_pipeline(pipeline)
    takes = parameters(type(pipeline))  # type: ignore[arg-type]  # mypy on `cache` and classes
    if not {"prompt", "class_labels"} & set(takes):
        raise ValueError(f"{type(pipeline).__name__} takes neither a prompt nor class_labels: write its record by hand")
    words: list[str] = []
    two = prompts or (PROMPTS if "prompt" in takes else (0, 1))
    size = default_size(pipeline)
    runs = Runs(pipeline, two, (height or size[0], width or size[1]), kwargs)
    cfg = guidance_of(runs, words)
    one = cfg.off.forwards[0]
    latents = latents_name(one, cfg.off)
    base = watch(runs.transformer, one.inputs)
    found = find_chains(base, watch(runs.transformer, moved(one.inputs, latents)), type(runs.transformer).__name__)
    both = of_two_rows(runs, cfg)
    pair = None if both is None else watch(runs.transformer, both.inputs)
    if pair is not None:
        found = read_text(found, pair)
    words += [f"lists: {left_out}: not in the record" for left_out in found.other]
    family = assemble(runs, cfg, latents, found.chains, base, pair, both, words)
    words += ALWAYS
    if needs_inputs(one, latents, family.row_lists, words):
        family = replace(family, fork=False)
        words.append("fork, partial_forward: not told without an `inputs`; fork is False, which is right, and slower")
        unable = "no run: the record needs an `inputs` first, which names the transformer's inputs as elsewhere"
        return Proposal(family, tuple(words), (Check("record", "not applicable", unable),))
    family = partial_ways(family, runs.transformer, (both or one).inputs, words)
    return Proposal(family, tuple(words), check_proposal(family, runs))


def default_size(pipeline: Any) -> tuple[int, int]:
    """Height and width in pixels: `SIZE`, or less where the model has fewer positions."""
    most = getattr(pipeline.transformer.config, "pos_embed_max_size", None)
    side = scale_factor(pipeline) * (packing_of(pipeline.transformer) or 1)
    if not most or most * side >= SIZE[1]:
        return SIZE
    return max(1, most * 2 // 3) * side, most * side


def guidance_of(runs: Runs, words: list[str]) -> Cfg:
    """The pipeline's guidance, from its first runs.

    Raises:
        ValueError: it cannot be called with these arguments.
    """
    try:
        return find_cfg(runs, words)
    except FAILED as error:
        given = ", ".join(name for name in runs.arguments(1, False))
        raise ValueError(
            f"{type(runs.pipeline).__name__} cannot be called with {given} ({type(error).__name__}: {error}): pass "
            "what its call needs by name, or another height and width"
        ) from error


def latents_name(one: Forward, run: Run) -> str:
    """The transformer's input with the latents.

    Raises:
        ValueError: no input has the size of the latents.
    """
    if isinstance(one.inputs.get(LATENTS), torch.Tensor):
        return LATENTS
    size = run.samples[0][:1].numel()
    for name, value in one.inputs.items():
        parts = value if isinstance(value, list) else [value]
        if all(isinstance(x, torch.Tensor) for x in parts) and parts and sum(x.numel() for x in parts) == size:
            return name
    raise ValueError(
        f"none of the transformer's inputs {', '.join(one.inputs)} has the size of the latents, {size} numbers"
    )


def of_two_rows(runs: Runs, cfg: Cfg) -> Forward | None:
    """A forward of two prompts from the same noise; None where the pipeline takes one prompt only."""
    try:
        made = runs.run(cfg.quiet, rows=2)
    except FAILED:
        return None
    return made.forwards[0] if made.rows == 2 else None


def needs_inputs(one: Forward, latents: str, row_lists: tuple[str, ...], words: list[str]) -> bool:
    """Whether the transformer needs anything but `hidden_states` and `timestep` in and one tensor out.

    Lists of tensors that are not `row_lists`, such as a list of positions for each axis, do not count.
    """
    names = [] if latents == LATENTS else [f"the latents are in {latents!r}, not {LATENTS!r}"]
    names += [] if TIME in one.inputs else [f"there is no {TIME!r}"]
    names += [f"{' and '.join(row_lists)} are lists with a tensor for each row"] if row_lists else []
    names += ["it returns a list"] if isinstance(one.prediction, list) else []
    if names:
        words.append(
            f"inputs: {'; '.join(names)}: the record needs an `inputs` (families/inputs.py), which brings that into "
            "the usual form"
        )
    return bool(names)
