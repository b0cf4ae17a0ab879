"""How does a pipeline guide? The argument with the scale, the order of the rows, and the sum of the two predictions."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from dg_tools.families import Rows
from dg_tools.families.records import CONTEXTS
from dg_tools.forward.replaced import replaced
from dg_tools.models.guider import plain_guider
from dg_tools.proposal.runs import Run, Runs

SCALE = 3.0
NONE = "true_cfg_scale"  # what records name where the call has no such argument
CLOSE = 0.02


@dataclass
class Cfg:
    """A record's facts about guidance; the fields are those of `Family`.

    Attributes:
        off: a run without guidance, with the scales `quiet`.
        on: a run with the scale `SCALE`; None where the pipeline has no guidance.
        image_last: the transformer gives further tokens before the image's.
    """

    off: Run
    quiet: dict[str, float]
    on: Run | None = None
    rows: Rows = "sequential"
    guidance_argument: str = NONE
    guiders: tuple[str, ...] = ()
    scale_offset: float = 0.0
    live_scale: str = ""
    prediction: Literal["velocity", "minus velocity", "noise", "v"] = "velocity"
    rescaling: str = ""
    image_last: bool = False
    contexts: dict[str, Literal["cond", "uncond"]] = field(default_factory=lambda: dict(CONTEXTS))


def find_cfg(runs: Runs, words: list[str]) -> Cfg:
    """Runs the pipeline with and without guidance.

    Args:
        runs: calls of the pipeline.
        words: sentences on what was not found; more are appended.
    """
    names = [n for n in (NONE, "guidance_scale", "cfg_scale", "cfg_guidance_scale") if n in runs.takes]
    names += [n for n in runs.takes if n.endswith("guidance_scale") and n not in names]
    guiders = tuple(n for n in runs.pipeline.components if n.endswith("guider"))
    if guiders:
        return by_guiders(runs, guiders, words)
    quiet = {n: 1.0 for n in names if n not in runs.call and runs.takes[n].default is not None}
    off = runs.run(quiet, decode=True)
    if off.work > 1:  # one prompt needs one row in one pass; more means that a scale of 1 still guides
        without = dict.fromkeys(quiet, 0.0)
        other = runs.run(without, decode=True)
        if other.work < off.work:
            quiet, off = without, other
    for name in names:
        on = runs.run({**quiet, name: SCALE}, guided=True)
        if on.work > off.work:
            found = Cfg(off, quiet, on, guidance_argument=name)
            told(found, runs, words)
            found.live_scale = live_scale(runs, found)
            return found
    words.append(
        f"guidance: no argument of the call ({', '.join(names) or 'none has a scale'}) adds a pass or rows, so that "
        f"guidance_argument is {NONE!r} and rows 'sequential', as in records of pipelines without CFG"
    )
    found = Cfg(off, quiet)
    told(found, runs, words)
    return found


def by_guiders(runs: Runs, guiders: tuple[str, ...], words: list[str]) -> Cfg:
    """The same, for a pipeline whose components guide."""
    made = []
    for scale in (1.0, SCALE):
        with ExitStack() as stack:
            for name in guiders:
                stack.enter_context(replaced(runs.pipeline, name, plain_guider(scale)))
            made.append(runs.run({}, guided=scale > 1, decode=scale == 1))
    off, on = made
    found = Cfg(off, {}, on, guidance_argument="guidance_scale", guiders=guiders)
    if on.work == off.work:
        words.append(f"guidance: a guider in {' and '.join(guiders)} adds no pass")
        found.on = None
    told(found, runs, words)
    return found


def told(found: Cfg, runs: Runs, words: list[str]) -> None:
    """Fill in the layout of rows, what is predicted, and how the two predictions are added."""
    off, on = found.off, found.on
    alone = single(off.forwards[0].prediction)
    sign, found.image_last = sign_of(alone, off, words)
    count = off.outputs[0].shape[1]
    kind = getattr(runs.pipeline.scheduler.config, "prediction_type", "flow_prediction")
    flow = "Flow" in type(runs.pipeline.scheduler).__name__ or kind == "flow_prediction"
    if not flow and kind not in ("epsilon", "v_prediction"):
        words.append(
            f"prediction: the scheduler takes {kind!r}; a record knows velocities (flow matching), noise and v"
        )
    found.prediction = (
        ("velocity" if sign > 0 else "minus velocity") if flow else "v" if kind == "v_prediction" else "noise"
    )
    if on is None:
        return
    if on.passes == off.passes:
        first, second = halves(on.forwards[0].prediction)
        cond_first = apart(first, alone) < apart(second, alone)
        found.rows = "batched_cond_first" if cond_first else "batched"
        cond, uncond = (first, second) if cond_first else (second, first)
    else:
        passes = [single(forward.prediction) for forward in on.forwards[: on.passes]]
        names = [forward.name for forward in on.forwards[: on.passes]]
        at = min(range(len(passes)), key=lambda i: apart(passes[i], alone))
        if len(passes) != 2:
            words.append(f"rows: {len(passes)} passes per step with guidance; a record knows two")
        for i, name in enumerate(names[:2]):
            if name is not None:
                found.contexts[name] = "cond" if i == at else "uncond"
        if at != 0 and names[0] is None:
            words.append("rows: the unconditional pass comes first, and the pipeline names none; no record says that")
        cond, uncond = passes[at], next(one for i, one in enumerate(passes) if i != at)
    if apart(cond, alone) > 0.1 * apart(uncond, alone):
        words.append("rows: neither half is the prediction without guidance; which one is conditional is a guess")
    if found.image_last:
        cond, uncond = cond[:, -count:], uncond[:, -count:]
    scale_of(found, sign * cond, sign * uncond, on.outputs[0], words)


def single(prediction: Any) -> torch.Tensor:
    """A prediction of one row, (1, ...)."""
    return torch.stack(prediction) if isinstance(prediction, list) else prediction


def halves(prediction: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The two halves of its rows."""
    middle = len(prediction) // 2
    return single(prediction[:middle]), single(prediction[middle:])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The distance of two predictions; infinite for shapes that differ."""
    return float((one.double() - other.double()).norm()) if one.shape == other.shape else float("inf")


def cut(prediction: torch.Tensor, output: torch.Tensor) -> torch.Tensor | None:
    """The part of a prediction that the scheduler is given: DiT's other half is a variance; extra dimensions of 1."""
    own = prediction
    while own.ndim > output.ndim and 1 in own.shape[1:]:
        own = own.squeeze(1 + own.shape[1:].index(1))
    if own.ndim != output.ndim:
        return own.reshape(output.shape) if own.numel() == output.numel() else None
    if any(a < b for a, b in zip(own.shape[1:], output.shape[1:], strict=True)):
        return own.reshape(output.shape) if own.numel() == output.numel() else None
    return own[tuple(slice(0, n) for n in output.shape)]


def sign_of(alone: torch.Tensor, off: Run, words: list[str]) -> tuple[float, bool]:
    """Whether the scheduler gets the prediction (1) or minus it (-1), and whether only its last tokens."""
    output = off.outputs[0][:1]
    most = CLOSE * float(output.double().norm())
    own = cut(alone, output)
    last = alone[:, -output.shape[1] :] if alone.ndim == output.ndim == 3 else None
    for sign in (1.0, -1.0):
        if own is not None and apart(sign * own, output) <= most:
            return sign, False
        if last is not None and apart(sign * last, output) <= most:
            return sign, True
    words.append(
        f"prediction: the scheduler is given {tuple(output.shape)}, which is neither the transformer's prediction "
        f"{tuple(alone.shape)} nor minus it"
    )
    return 1.0, False


def scale_of(found: Cfg, cond: torch.Tensor, uncond: torch.Tensor, output: torch.Tensor, words: list[str]) -> None:
    """The weight k in u + k (c - u), which the scheduler gets, and what the pipeline does to that sum afterwards."""
    guided = output[:1].double()
    c, u = cut(cond, guided), cut(uncond, guided)
    if c is None or u is None:
        return
    c, u = c.double(), u.double()
    difference = c - u
    if not difference.norm():
        words.append("guidance: the prompt changes nothing in this model's first prediction")
        return
    weight = float(((guided - u) * difference).sum() / difference.square().sum())
    if apart(u + weight * difference, guided) <= CLOSE * float((guided - u).norm()):
        offset = round(weight - SCALE, 2)
        found.scale_offset = 0.0 if abs(offset) <= CLOSE else offset
        return
    for offset in (0.0, 1.0):
        plain = u + (SCALE + offset) * difference
        parallel = torch.cosine_similarity(plain, guided, -1).min() > 1 - CLOSE
        if parallel and (guided.norm(dim=-1) / c.norm(dim=-1) - 1).abs().max() < CLOSE:
            found.scale_offset = offset
            found.rescaling = (
                "the pipeline rescales every token of a guided prediction to the norm of the conditional one"
            )
            words.append(f"rescaling: {found.rescaling}; a report says that sentence")
            return
    words.append("guidance: what the scheduler is given is not u + k (c - u); say in `rescaling` what is done")


def live_scale(runs: Runs, found: Cfg) -> str:
    """The pipeline's attribute with the scale, if another one set there after the first step acts in the second."""
    name = found.guidance_argument
    own = f"_{name}" if f"_{name}" in vars(runs.pipeline) else name
    if own not in vars(runs.pipeline) or found.on is None:
        return ""
    other = runs.run({**found.quiet, name: SCALE}, guided=True, live=own)
    return "" if other.outputs[1].equal(found.on.outputs[1]) else name
