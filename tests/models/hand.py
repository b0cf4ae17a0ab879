"""Guidance by hand on SD3 and FLUX.1: what tests of pipelines compare with. It knows nothing of the package."""

from __future__ import annotations

from contextlib import contextmanager

import pytest


@contextmanager
def by_hand(transformer, scale, *, weight, channels, block, sequential=False, guided=None, edited=False):
    """A forward that runs the conditional call twice, once with a plain hook, and adds (w / s) (c - d).

    Args:
        transformer: of a pipeline whose blocks return (text, image).
        scale: the CFG scale s of the loop that is running; a number, or a function that reads it at each call.
        weight, channels, block: w, and the channels of the image stream that are zero after the block.
        sequential: whether the two halves of classifier-free guidance are calls of their own, the conditional first.
        guided: filled with the order of the calls that had a conditional part.
        edited: instead: every call runs once, with the hook.
    """
    forward, module = transformer.forward, transformer.transformer_blocks[block]
    count = 0

    def zero(part, args, output):
        image = output[1].clone()
        image[..., channels] = 0
        return output[0], image

    def again(*args, **kwargs):
        nested = {k: dict(v) if isinstance(v, dict) else v for k, v in kwargs.items()}  # forwards take things out
        return forward(*args, **{**nested, "return_dict": False})[0]

    def disrupted(*args, **kwargs):
        handle = module.register_forward_hook(zero)
        try:
            return again(*args, **kwargs)
        finally:
            handle.remove()

    def stand_in(*args, **kwargs):
        nonlocal count
        order, count = count, count + 1
        if edited:
            return (disrupted(*args, **kwargs),)
        prediction, s = again(*args, **kwargs), scale() if callable(scale) else scale
        if sequential and s > 1 and order % 2:
            return (prediction,)
        degraded = disrupted(*args, **kwargs)
        rows = slice(len(prediction) // 2, None) if s > 1 and not sequential else slice(None)
        folded = prediction.clone()
        folded[rows] += weight / s * (prediction[rows] - degraded[rows])
        if guided is not None:
            guided.append(order)
        return (folded,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "forward", stand_in)
        yield


def near(ours, theirs, plain):
    """Equal to 1e-4 of what the guidance changes."""
    change = (theirs - plain).abs().max()
    assert change > 1e-3
    assert (ours - theirs).abs().max() < 1e-4 * max(change, theirs.abs().max())
