"""Is w = 0 the plain call, bit for bit, and is Detail Guidance a loop written by hand?

The loop replaces the transformer's forward and knows only the formula: it runs the conditional call once
more, with a plain hook that zeroes the channels, and adds w (c - d). It is the same under every way of computing d.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from dg_tools.families import bind
from dg_tools.forward.replaced import replaced
from dg_tools.guidance.classic import detail_guidance
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.guidance.passes import Way
from dg_tools.interventions import Disrupt
from dg_tools.verification.plain import SCALE, WEIGHT, Plain, check_scale, unequal
from dg_tools.verification.result import Measured, NotApplicable

BY_HAND = {torch.float32: 5e-4, torch.bfloat16: 0.15, torch.float16: 0.05}  # of the change that guidance makes
WAYS: tuple[Way, ...] = get_args(Way)


def check_off(plain: Plain, disrupt: Disrupt) -> Measured:
    """Inside a guidance with w = 0 the pipeline's call gives the same latents, computed in each way."""
    differing, runs = 0.0, 0
    for scale in plain.scales:
        clean = plain.latents(scale)
        if unequal(plain.latents(scale), clean):
            raise NotApplicable("the plain call does not give the same latents twice on this device")
        for way in WAYS:
            guider = DetailGuidance(detail_guidance_scale=0.0, disrupt=disrupt)
            with detail_guidance(plain.dit.pipeline, guider, way=way, force=True):
                differing += unequal(plain.latents(scale), clean)
            runs += 1
    words = (
        f"With w = 0 Detail Guidance leaves the plain call's latents as they are, bit for bit, in {runs} runs: each "
        f"way of computing the disrupted pass, without CFG{f' and at CFG {SCALE:g}' if SCALE in plain.scales else ''}."
    )
    return Measured(differing, 0.0, words, "latent values that differ")


def check_by_hand(plain: Plain, disrupt: Disrupt, scale: float, ways: tuple[Way, ...] = WAYS) -> Measured:
    """Guided latents against the loop's, over the change that the guidance makes."""
    check_scale(plain, scale)
    hand = by_hand(plain, disrupt, scale, WEIGHT)
    change = (hand - plain.latents(scale).double()).norm().item()
    if change == 0:
        raise ValueError(f"guidance by hand changes nothing: {disrupt} has no effect on this model's prediction")
    differences = {}
    for way in ways:
        guider = DetailGuidance(detail_guidance_scale=WEIGHT, disrupt=disrupt)
        with detail_guidance(plain.dit.pipeline, guider, way=way):
            differences[way] = (plain.latents(scale).double() - hand).norm().item() / change
    worst = max(differences, key=lambda way: differences[way])
    allowed = BY_HAND.get(plain.dit.dtype, BY_HAND[torch.bfloat16])
    if plain.dit.dtype != torch.float32 and differences[worst] > allowed:
        # a small change may be close to rounding: how far does the loop itself move with w (1 + eps)?
        other = by_hand(plain, disrupt, scale, WEIGHT * (1 + torch.finfo(plain.dit.dtype).eps))
        allowed = max(allowed, 3 * (other - hand).norm().item() / change)
    cfg = f"CFG {scale:g}" if scale > 1 else "without CFG"
    done = "one way" if len(ways) == 1 else f"{len(ways)} ways"
    words = (
        f"Detail Guidance ({disrupt}; w {WEIGHT:g}, {cfg}, {plain.steps} steps) gives the latents of a loop written by "
        f"hand, in {done} of computing it: {', '.join(ways)}."
    )
    return Measured(differences[worst], allowed, words, f"difference over the change that guidance makes ({worst})")


def by_hand(plain: Plain, disrupt: Disrupt, scale: float, weight: float) -> torch.Tensor:
    """Latents (float64) of the pipeline's call with guidance written by hand."""
    with written_by_hand(plain, disrupt, scale, weight):
        return plain.latents(scale).double()


@contextmanager
def written_by_hand(plain: Plain, disrupt: Disrupt, scale: float, weight: float) -> Iterator[None]:
    """The transformer's forward gives, in the pipeline's own sum, w (c - d) more."""
    dit = plain.dit
    transformer, family = dit.transformer, dit.family
    forward, block = transformer.forward, dit.block(disrupt.block)
    two_calls = scale > 1 and family.rows == "sequential" and len(plain.calls(scale)) > len(plain.calls(1.0))
    push: list[torch.Tensor] = []  # w (c - d) of the step that runs
    config = transformer.config
    channels = getattr(config, "in_channels", None)
    half = channels if channels and getattr(config, "out_channels", None) == 2 * channels else None
    count = 0

    def zero(module: torch.nn.Module, args: tuple, output: Any, tokens: int) -> Any:
        hidden = block.record.get(output, "image", tokens)
        assert hidden is not None
        edited = hidden.clone()
        edited[..., list(disrupt.channels)] = 0
        return block.record.put(output, "image", edited, tokens)

    def guided(*args: Any, **kwargs: Any) -> Any:
        prediction = predicted(*args, **kwargs)
        return Transformer2DModelOutput(sample=prediction) if kwargs.get("return_dict", True) else (prediction,)

    def predicted(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal count
        order = count % 2 if two_calls else 0
        count += 1
        inputs = bind(transformer, args, kwargs)
        again = lambda: plain.tensor(forward(*args, **{**kwargs, "return_dict": False})[0], inputs)  # noqa: E731
        prediction = again().clone()
        if order == 1:  # u - w (c - d) / (s - 1): the pipeline's sum takes (s - 1) of it away, whatever follows c
            prediction[:, :half] -= push[0][:, :half] / (scale - 1)
            return prediction
        tokens = plain.image_tokens(inputs)
        handle = block.module.register_forward_hook(lambda m, a, o: zero(m, a, o, tokens))
        try:
            disrupted = again()
        finally:
            handle.remove()
        push[:] = [weight * (prediction - disrupted)]
        if two_calls:
            return prediction
        rows = slice(None)
        if scale > 1 and family.rows != "sequential":
            middle = len(prediction) // 2
            rows = slice(middle, None) if family.rows == "batched" else slice(0, middle)
        over = scale if scale > 1 and family.rows != "sequential" else 1.0
        prediction[rows, :half] += push[0][rows, :half] / over
        return prediction

    with replaced(transformer, "forward", guided):
        yield
