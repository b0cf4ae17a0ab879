"""One sampling run of a pipeline, with edits and guidance on, and everything off again afterwards.

`generate`, sweeps, reports and experiments sample through it. The cost is counted in rows: a forward of a batch of two
counts as two forwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

from dg_tools.families import Family
from dg_tools.forward.clock import Clock
from dg_tools.forward.fork import reads_any_rows
from dg_tools.forward.refusals import check_cache
from dg_tools.forward.restart import Stored
from dg_tools.forward.stepping import after_callback, after_each_step
from dg_tools.guidance.base import Guidance
from dg_tools.guidance.classic import detail_guidance
from dg_tools.guidance.report import Report
from dg_tools.interventions import Disrupt, Edit, MaskTokens, attached
from dg_tools.interventions.report import Edited
from dg_tools.kinds import kind_of, nearest
from dg_tools.models.dit import DiT
from dg_tools.numbers import integer, number


@dataclass
class Count:
    """Rows through the transformer and through its blocks; what the guidance and the edits did, where there are any."""

    forwards: int = 0
    block_calls: int = 0
    guided: Report | None = field(default=None, compare=False)
    edited: Edited | None = field(default=None, compare=False)


@contextmanager
def counted(family: Family, transformers: Sequence[torch.nn.Module]) -> Iterator[Count]:
    """Count the rows that go through these transformers inside."""
    count, dimension = Count(), int(family.lists[-1].tokens_first)  # of the rows

    def forward(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        count.forwards += output.shape[dimension]

    @reads_any_rows
    def block_call(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(module, Stored):
            first = output if isinstance(output, torch.Tensor) else next(x for x in output if x is not None)
            count.block_calls += first.shape[dimension]

    with ExitStack() as hooks:
        for transformer in transformers:
            tail = transformer.get_submodule(family.tail)
            hooks.callback(tail.register_forward_hook(forward).remove)
            for _, _, block in family.blocks(transformer):
                hooks.callback(block.register_forward_hook(block_call).remove)
        yield count


def guidance_scale(guidance: BaseGuidance | None) -> float:
    """The usual CFG scale s of a guidance; None is 1.

    Raises:
        TypeError: something other than a guidance known here.
    """
    if guidance is None:
        return 1.0
    if isinstance(guidance, Guidance | ClassifierFreeGuidance):
        if not guidance._enabled and not getattr(guidance, "in_pass", False):
            return 1.0
        original = getattr(guidance, "use_original_formulation", False)  # c + s (c - u): the usual scale less one
        return float(number(guidance.guidance_scale, "guidance_scale")) + bool(original)
    raise TypeError(
        f"guidance is {kind_of(guidance)}; pass None, dg.CFG(s), dg.DetailGuidance(s, w, disrupt=...) or "
        "one of dg.baselines"
    )


def check_call(
    dit: DiT, prompts: Sequence[Any], arguments: Mapping[str, Any], name: str, function: Callable[..., Any]
) -> None:
    """Raise, before the first forward, for prompts or arguments that the pipeline's call cannot take.

    Args:
        dit: the model.
        prompts: what to draw.
        arguments: those that `function` passes on to the pipeline.
        name: of the public function.
        function: the public function; its own arguments are suggested.

    Raises:
        TypeError: a prompt that is not a string (or a class), a setting that has another name here, or one that neither
            the function nor the pipeline knows.
    """
    check_names(dit, arguments, name, function)
    if None in prompts:
        raise TypeError(f'no prompt: pass what to draw, such as dg.{name}(dit, ["red apple", "owl"], steps=10)')
    dit.check_prompts(prompts)


def check_names(dit: DiT, arguments: Mapping[str, Any], name: str, function: Callable[..., Any]) -> None:
    """As `check_call`, of the arguments alone."""
    own = [n for n in inspect.signature(function).parameters if n not in ("dit", "kwargs")]
    for given in arguments:
        if given in ("guidance_scale", dit.family.guidance_argument):
            raise TypeError(
                f"{given}= belongs to the guidance: pass guidance=dg.CFG(s), or dg.DetailGuidance(s, w, ...)"
            )
        other = {"num_inference_steps": "steps", "generator": "seed" if "seed" in own else "seeds"}.get(given)
        if other is not None:
            raise TypeError(f"{given}= is called {other}= here: pass {other}=")
        if given == "output_type":
            raise TypeError(f"dg.{name} sets output_type= itself: leave it out")
        if (given not in dit.takes and given != "negative_prompt") or given == dit.family.prompt:
            known = [n for n in (*own, *dit.takes) if n != given]
            near = nearest(given, known)
            meant = f": did you mean {near}=?" if near else f"; {name} itself takes {', '.join(own)}"
            raise TypeError(f"dg.{name} and {type(dit.pipeline).__name__} have no argument {given}={meant}")


def windowed(guidance: BaseGuidance | None) -> Guidance | None:
    """The guidance that must act inside the pipeline's call: one of ours, or a CFG with a window or a rescale."""
    if isinstance(guidance, ClassifierFreeGuidance):
        settings = {"guidance_rescale": guidance.guidance_rescale, "start": guidance._start, "stop": guidance._stop}
        if guidance._enabled and settings != {"guidance_rescale": 0.0, "start": 0.0, "stop": 1.0}:
            return Guidance(guidance_scale=guidance_scale(guidance), **settings)
        return None
    return guidance if isinstance(guidance, Guidance) else None


def check_rows(edits: Sequence[Any], scale: float) -> None:
    """Raise ValueError for an edit of unconditional rows in a run that has none."""
    for edit in edits:
        if getattr(edit, "rows", None) == "uncond" and not scale > 1:
            raise ValueError(
                f"{edit.sentence()}: without CFG there are no unconditional rows; pass guidance=dg.CFG(s) with s above "
                "1, or leave rows out"
            )


def check(
    dit: DiT, edits: Sequence[Edit], guidance: BaseGuidance | None, steps: int, height: int | None, width: int | None
) -> None:
    """Raise, before the first forward, for edits or guidance that do not fit this run."""
    if integer(steps, "steps") < 1:
        raise ValueError(f"steps={steps} requested; at least 1 is needed")
    check_rows(edits, guidance_scale(guidance))
    for edit in edits:
        if not isinstance(edit, Disrupt | MaskTokens):
            raise TypeError(f"an edit is {kind_of(edit)}; pass None, a Disrupt, a MaskTokens or a list")
        edit.check(dit, steps, height, width)
    if edits or windowed(guidance) is not None:
        check_cache(dit.transformer)
    if isinstance(guidance, Guidance):
        guidance.check_scale(guidance_scale(guidance))
        guidance.check(dit, steps, height, width)


def run(
    dit: DiT,
    prompt: str | list[str],
    *,
    edits: Sequence[Edit] = (),
    guidance: BaseGuidance | None = None,
    on_step: Callable[[int], None] | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, Count]:
    """Latents of one pipeline call, as its scheduler leaves them, and what it cost.

    Args:
        dit: the model; its lock is held, so a second thread waits.
        prompt: one or several.
        edits: on in every pass (a guidance has its own disruption).
        guidance: None (s = 1), `CFG`, `DetailGuidance` or one of `baselines`.
        on_step: called with the step index after each step.
        **arguments: as in `DiT.arguments`.

    Raises:
        RuntimeError: at the end, where the edits make the hidden states overflow.
    """
    if isinstance(guidance, Guidance):
        settings = {k: v for k, v in arguments.items() if k not in ("seed", "generator", "latents")}
        guidance = guidance.resolved(dit, **settings)
    call = dit.arguments(prompt, guidance_scale=guidance_scale(guidance), **arguments)
    steps = call.get("num_inference_steps", dit.default_steps)
    check(dit, edits, guidance, steps, call.get("height"), call.get("width"))
    latents: torch.Tensor | None = None

    def keep(current: torch.Tensor) -> None:
        nonlocal latents
        latents = current

    def after_step(step: int, current: torch.Tensor) -> None:
        keep(current)
        if on_step is not None:
            on_step(step)

    with dit.running(), ExitStack() as stack:
        inside = windowed(guidance)
        transformers = (dit.transformer, *(inside.transformers if inside else ()))
        count = stack.enter_context(counted(dit.family, transformers))
        clock = stack.enter_context(Clock(dit.pipeline, dit.family))
        attachment = stack.enter_context(attached(dit.transformer, dit.family, edits, clock.read))
        guided = stack.enter_context(detail_guidance(dit, inside)) if inside is not None else None
        stack.enter_context(after_each_step(dit.pipeline, after_step))
        output = dit.sample(**after_callback(call, keep), output_type="latent")[0]
    assert latents is not None
    count.edited = attachment.report if edits else None
    if guided is not None and inside is guidance:
        count.guided = guided.report
    attachment.check_finite()
    if isinstance(output, torch.Tensor) and output.shape == latents.shape:
        return output, count  # after a callback of the caller's own
    prompts = call[dit.family.prompt]
    pictures = len(prompts) if isinstance(prompts, list) else 1
    return latents[: pictures * call.get("num_images_per_prompt", 1)], count
